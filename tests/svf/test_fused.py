"""A `z` that stays where it is: the same tensors after a change, and the right numbers."""

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.svf import attach
from t2local.svf.basis import Basis, rounded
from t2local.svf.fused import plain_branch
from tests.svf.support import logits, random_z


@pytest.fixture(params=["fp32", "int8"])
def svf(tiny, request):
    return attach(tiny("llama"), basis_dtype=request.param)


def places(buffer) -> dict[str, int]:
    return {name: delta.data_ptr() for name, delta in buffer.deltas.items()}


@pytest.mark.parametrize("rows", [None, 2])
def test_a_change_of_z_moves_no_tensor_and_gives_what_using_gives(svf, rows):
    buffer = svf.buffer(rows)
    before = places(buffer)
    assert set(before) == set(svf.matrix_names)
    lead = () if rows is None else (rows,)
    for seed in range(2):
        z = random_z(svf, *lead, seed=seed)
        svf.fill(buffer, z)
        assert places(buffer) == before
        with svf.using(z):
            expected = logits(svf.model)
        with svf.using_buffer(buffer):
            assert torch.equal(logits(svf.model), expected)


def test_it_begins_as_the_base_and_a_missing_name_means_one(svf):
    base, buffer, name = logits(svf.model), svf.buffer(), svf.matrix_names[4]
    with svf.using_buffer(buffer):
        assert torch.equal(logits(svf.model), base)
    svf.fill(buffer, random_z(svf))
    svf.fill(buffer, {name: random_z(svf)[name]})
    with svf.using({name: random_z(svf)[name]}):
        expected = logits(svf.model)
    with svf.using_buffer(buffer):
        assert torch.equal(logits(svf.model), expected)
    svf.fill(buffer, {})
    with svf.using_buffer(buffer):
        assert torch.equal(logits(svf.model), base)


def test_one_z_fills_every_row_and_a_row_of_ones_is_the_base(svf):
    z, buffer, base = random_z(svf), svf.buffer(2), logits(svf.model)
    svf.fill(buffer, z)
    with svf.using(z):
        expected = logits(svf.model)
    with svf.using_buffer(buffer):
        assert (logits(svf.model) - expected).abs().max() <= 1e-4
    svf.fill(buffer, {n: torch.stack([row, torch.ones_like(row)]) for n, row in z.items()})
    with svf.using_buffer(buffer):
        assert torch.equal(logits(svf.model)[1], base[1])


def test_a_change_inside_the_block_takes_effect_at_once(svf):
    buffer, z = svf.buffer(), random_z(svf)
    with svf.using(z):
        expected = logits(svf.model)
    with svf.using_buffer(buffer):
        svf.fill(buffer, z)
        assert torch.equal(logits(svf.model), expected)


def test_a_foreign_z_is_refused_and_changes_nothing(svf):
    buffer, z = svf.buffer(), random_z(svf)
    svf.fill(buffer, z)
    before = {name: delta.clone() for name, delta in buffer.deltas.items()}
    with pytest.raises(T2LocalError, match="does not adapt"):
        svf.fill(buffer, {"model.up": torch.ones(3)})
    with pytest.raises(T2LocalError, match=r"2 rows.*one row"):
        svf.fill(buffer, random_z(svf, 2))
    assert all(torch.equal(before[name], delta) for name, delta in buffer.deltas.items())


def cosines(rank: int) -> torch.Tensor:
    """An orthonormal matrix `[r, r]` of any size in no time: the discrete cosine transform's."""
    steps = torch.arange(rank, dtype=torch.float64)
    rows = torch.cos(torch.pi / rank * (steps + 0.5) * steps[:, None]) * (2 / rank) ** 0.5
    rows[0] /= 2**0.5
    return rows


@pytest.mark.parametrize("rank", [576, 2048, 4096])
def test_an_expert_is_the_same_in_float16_on_bases_of_8_bits(rank):
    """Also under inputs a thousand times as large as the others, which real models have."""
    basis = rounded(Basis(cosines(rank).float(), torch.ones(rank), "in"), torch.int8)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1, 2, rank, generator=generator)
    v[..., :: rank // 4] *= 1000
    z_less_1 = 0.03 * torch.randn(rank, generator=generator)
    delta = z_less_1 * basis.scale.square()
    rows, v = basis.dense().double(), v.half()
    exact = ((v.double() @ rows.T) * z_less_1) @ rows
    found = plain_branch(v, delta, basis.vectors, basis.scale).double()
    assert float((found - exact).norm() / exact.norm()) < 2e-3
    small, exact_small = found[..., 1:9], exact[..., 1:9]  # beside the large ones
    assert float((small - exact_small).abs().max()) < 1e-3 * float(exact.abs().max())


@pytest.mark.parametrize("stored", [torch.float32, torch.int8])
def test_a_branch_that_may_round_is_off_by_bfloat16_and_so_are_its_gradients(stored):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(24, 48, generator=generator)
    vectors = (20 * vectors).to(stored) if stored == torch.int8 else vectors
    v = torch.randn(2, 5, 48, generator=generator, requires_grad=True)
    delta = torch.randn(24, generator=generator, requires_grad=True)

    def found():
        v.grad = delta.grad = None
        y = plain_branch(v, delta, vectors)
        y.square().sum().backward()
        return y.detach(), v.grad, delta.grad

    exact, settings = found(), torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    try:
        rounded = found()
    finally:
        settings.fp32_precision = before
    for one, other in zip(rounded, exact, strict=True):
        assert one.shape == other.shape
        assert 1e-5 < float((one - other).norm() / other.norm()) < 0.02

"""The kernels on this machine's CPU, by triton's interpreter; run by `test_kernels` in a process of
its own, since `TRITON_INTERPRET=1` changes the path that every layer takes."""

from itertools import product

import pytest
import torch

from t2local.bench.gpu import truncate, using_truncated
from t2local.svf import attach, fused, kernels
from t2local.svf.basis import packed, unpacked
from tests.conftest import build_tiny
from tests.svf.support import logits, random_z, relative

ONE = torch.tensor([[5, 80]])  # [B, T]: two rows for the kernels
STORED = (torch.float32, torch.bfloat16, torch.int8, torch.uint8)
# rows M, rows of delta D, vectors k, width n, bases
SHAPES = [(1, 1, 96, 96, 1), (2, 2, 96, 96, 2), (3, 1, 24, 100, 3), (4, 2, 32, 64, 1)]
MANY = [(5, 5, 64, 96, 1), (17, 1, 40, 100, 2), (6, 3, 64, 64, 1), (6, 2, 64, 99, 2)]
ODD = (3, 1, 40, 99, 2)  # the halves of a packed row differ


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(rows: int, delta_rows: int, k: int, n: int, bases: int, stored: torch.dtype):
    v, vectors, deltas = numbers(rows, n), [], []
    steps = {torch.int8: 127, torch.uint8: 7}.get(stored, 0)
    for seed in range(bases):
        values = numbers(k, n, seed=seed + 1) / n**0.5
        if steps:
            values = (values * steps * 2.4).clamp(-steps, steps).to(torch.int8)
        vectors.append(packed(values) if stored == torch.uint8 else values.to(stored))
        deltas.append(numbers(delta_rows, k, seed=seed + 9) * (steps**-2 if steps else 1.0))
    return v, vectors, deltas


def change(v: torch.Tensor, rows: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    each = delta.repeat_interleave(len(v) // len(delta), dim=0).double()
    rows = unpacked(rows, v.shape[1]).double()
    return ((v.double() @ rows.T) * each) @ rows


@pytest.mark.parametrize(("shape", "stored"), product((*SHAPES, ODD), STORED))
def test_few_rows_equal_float64(shape, stored):
    v, vectors, deltas = case(*shape, stored)
    zeros = [torch.zeros_like(v)] * len(vectors)
    for found, rows, delta in zip(
        kernels.add_branches(v, vectors, deltas, zeros, 4), vectors, deltas, strict=True
    ):
        assert relative(found, change(v, rows, delta)) < 1e-6


@pytest.mark.parametrize("stored", STORED)
def test_few_rows_in_16_bits_add_their_shares_as_such(stored):
    """Shares and their sum are each off by a part in 2⁸: the interpreter cuts where cards round."""
    v, vectors, deltas = case(2, 1, 96, 96, 2, stored)
    v = v.bfloat16()
    zeros = [torch.zeros_like(v)] * len(vectors)
    for found, rows, delta in zip(
        kernels.add_branches(v, vectors, deltas, zeros, 8), vectors, deltas, strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert relative(found, change(v, rows, delta)) < 2 * 2**-8


@pytest.mark.parametrize(("shape", "stored"), zip(MANY, STORED, strict=True))
def test_many_rows_in_16_bits_are_within_2_percent_of_the_branch(shape, stored):
    v, vectors, deltas = case(*shape, stored)
    v = v.bfloat16()
    zeros = [torch.zeros_like(v)] * len(vectors)
    for found, rows, delta in zip(
        kernels.add_branches(v, vectors, deltas, zeros, 4), vectors, deltas, strict=True
    ):
        assert relative(found, change(v, rows, delta)) < 2e-2


def test_the_same_input_gives_the_same_bits_and_totals_keep_their_type():
    v, vectors, deltas = case(2, 2, 96, 96, 1, torch.int8)
    total = numbers(2, 96, seed=5).bfloat16()
    (first,), (second,) = (
        kernels.add_branches(v.bfloat16(), vectors, deltas, [total], 4) for _ in range(2)
    )
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, second)


@pytest.fixture
def launches(monkeypatch) -> list[int]:
    """The number of bases in each launch from now on."""
    sizes, original = [], kernels.add_branches

    def counting(v, vectors, *rest):
        sizes.append(len(vectors))
        return original(v, vectors, *rest)

    monkeypatch.setattr(kernels, "add_branches", counting)
    return sizes


@pytest.mark.parametrize("basis", ["fp32", "int8", "int4"])
def test_a_model_under_the_kernels_is_the_model_under_plain_products(basis, launches, monkeypatch):
    svf = attach(build_tiny("llama"), basis_dtype=basis)
    launches.clear()  # of the trial
    base, shared, rows = logits(svf.model, ONE), random_z(svf), random_z(svf, 2)
    two = ONE.repeat(2, 1)
    found = {}
    for path in ("fused", "plain"):
        if path == "plain":
            monkeypatch.setattr("t2local.svf.layer.may_fuse", lambda *_: False)
            monkeypatch.setattr(fused, "may_fuse", lambda *_: False)
        with svf.using(shared):
            found[path] = [logits(svf.model, ONE)]
        with svf.using(rows):
            found[path].append(logits(svf.model, two))
        with using_truncated(svf, truncate(svf, shared, 8)):
            found[path].append(logits(svf.model, ONE))
    # q o gate+up for each layer, and k v down on their outputs: 6 launches for 7 matrices
    assert launches.count(2) == 2 * 3
    assert len(launches) == 2 * 6 * 3
    for fused_logits, plain_logits in zip(found["fused"], found["plain"], strict=True):
        assert relative(fused_logits, plain_logits) < 1e-5
        assert relative(fused_logits, base.expand_as(fused_logits)) > 1e-3


def test_z_of_ones_is_the_base_bit_for_bit_in_a_buffer_too():
    model = build_tiny("qwen2")  # with biases
    base = logits(model, ONE)
    svf = attach(model, basis_dtype="int8")
    buffer, z = svf.buffer(), random_z(svf)
    with svf.using_buffer(buffer):
        assert torch.equal(logits(model, ONE), base)
        svf.fill(buffer, z)
        changed = logits(model, ONE)
        svf.fill(buffer, {})
        assert torch.equal(logits(model, ONE), base)
    with svf.using(z):
        assert torch.equal(logits(model, ONE), changed)


def test_a_gradient_takes_the_plain_products(launches):
    svf = attach(build_tiny("llama"))
    launches.clear()
    z = {name: row.requires_grad_() for name, row in random_z(svf).items()}
    with svf.using(z):
        svf.model(ONE).logits.square().mean().backward()
    assert not launches
    assert all(row.grad is not None for row in z.values())


def test_the_path_in_force_is_told():
    assert fused.branch_path("cpu") == "fused Triton kernels"

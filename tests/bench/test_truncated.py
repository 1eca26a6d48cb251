"""Top-k: the best ΔW of its rank, with the energy it keeps."""

import pytest
import torch

from t2local.bench.gpu import truncate, using_truncated
from t2local.errors import T2LocalError
from t2local.svf import attach
from t2local.svf.layer import weight_as_used
from tests.svf.support import composed, logits, random_z, relative


@pytest.fixture
def svf(tiny):
    return attach(tiny("llama"), basis_dtype="fp32")


def change_of(svf, name: str, z: torch.Tensor) -> torch.Tensor:
    """ΔW `[m, n]` in float64."""
    weight = weight_as_used(svf.base_layers[name])
    return composed(weight, z) - weight.double()


def kept_change(svf, name: str, truncated) -> torch.Tensor:
    """ΔW `[m, n]` of the few directions, from the vectors themselves."""
    layer = truncated.layers[name]
    rows, delta = layer.basis.vectors.double(), layer.in_force.deltas[name].double()
    weight = weight_as_used(layer.base).double()
    middle = rows.T @ (delta[:, None] * rows)
    return weight @ middle if layer.basis.side == "in" else middle @ weight


@pytest.mark.parametrize("basis", ["fp32", "bf16", "int8", "int4"])
def test_all_directions_are_the_exact_branch(tiny, basis):
    svf = attach(tiny("llama"), basis_dtype=basis)
    for z in (random_z(svf), random_z(svf, 2)):
        whole = truncate(svf, z, max(svf.ranks.values()))
        assert whole.layers.keys() == svf.layers.keys()
        assert all(layer.basis is svf.layers[n].basis for n, layer in whole.layers.items())
        assert whole.energy == 1.0
        with svf.using(z):
            expected = logits(svf.model)
        with using_truncated(svf, whole):
            assert torch.equal(logits(svf.model), expected)


@pytest.mark.parametrize("k", [1, 8, 24])
def test_the_energies_are_frobenius_norms_of_real_changes(svf, k):
    z = random_z(svf)
    truncated = truncate(svf, z, k)
    kept = whole = 0.0
    for name in svf.matrix_names:
        change = change_of(svf, name, z[name])
        part = kept_change(svf, name, truncated).square().sum()
        share = part / change.square().sum()
        assert truncated.energies[name] == pytest.approx(float(share), rel=1e-4)
        kept, whole = kept + float(part), whole + float(change.square().sum())
    assert truncated.energy == pytest.approx(kept / whole, rel=1e-4)


def test_no_other_k_directions_and_no_other_matrix_of_rank_k_come_nearer(svf):
    z, k = random_z(svf), 8
    truncated = truncate(svf, z, k)
    for name in svf.matrix_names[:7]:
        change = change_of(svf, name, z[name])
        error = (change - kept_change(svf, name, truncated)).norm()
        u, sigma, vt = torch.linalg.svd(change)
        best = (change - (u[:, :k] * sigma[:k]) @ vt[:k]).norm()  # Eckart–Young
        assert error == pytest.approx(float(best), rel=1e-4)


def test_the_error_falls_as_k_grows(svf):
    z = random_z(svf)
    with svf.using(z):
        exact = logits(svf.model)
    errors = []
    for k in (4, 16, 40, 64):
        with using_truncated(svf, truncate(svf, z, k)):
            errors.append(relative(logits(svf.model), exact))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0.0
    assert errors[0] > 10 * errors[-2] or errors[0] > 0.1


def test_rows_of_different_z_share_one_choice_and_a_row_of_ones_is_the_base(svf):
    base, z = logits(svf.model), random_z(svf, 2)
    for row in z.values():
        row[1] = 1.0
    truncated = truncate(svf, z, 8)
    alone = truncate(svf, {name: row[0] for name, row in z.items()}, 8)
    assert truncated.energy == pytest.approx(alone.energy)
    with using_truncated(svf, truncated):
        found = logits(svf.model)
    with using_truncated(svf, alone):
        assert (logits(svf.model)[0] - found[0]).abs().max() <= 1e-4
    assert torch.equal(found[1], base[1])


def test_matrices_that_do_not_change_are_skipped_and_lose_nothing(svf):
    z, name = svf.identity(), svf.matrix_names[3]
    z[name] = random_z(svf)[name]
    truncated = truncate(svf, z, 8)
    assert set(truncated.layers) == {name}
    assert truncated.layers[name].basis.vectors.shape[0] == 8
    assert truncated.energies[svf.matrix_names[0]] == 1.0
    assert truncated.energy == pytest.approx(truncated.energies[name])
    for nothing in ({}, svf.identity()):
        assert truncate(svf, nothing, 8).energy == 1.0
        assert not truncate(svf, nothing, 8).layers


def test_int8_vectors_are_kept_in_16_bits_and_nearly_as_good(tiny, svf):
    small, z = attach(tiny("llama"), basis_dtype="int8"), random_z(svf)
    rounded = truncate(small, z, 16)
    assert {layer.basis.vectors.dtype for layer in rounded.layers.values()} == {torch.bfloat16}
    with using_truncated(svf, truncate(svf, z, 16)):
        exact = logits(svf.model) - logits(tiny("llama"))
    with using_truncated(small, rounded):
        found = logits(small.model) - logits(tiny("llama"))
    assert relative(found, exact) < 0.1


def test_a_k_below_one_is_refused(svf):
    with pytest.raises(T2LocalError, match="top-k is 0; keep at least 1"):
        truncate(svf, random_z(svf), 0)

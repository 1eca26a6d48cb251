"""What the exactness figures of `bench` mean, on two-layer random models."""

import pytest
import torch

from t2local.bench import exactness
from t2local.models.load.quantized import nf4_problem
from t2local.svf import attach

IDS = torch.tensor([[5, 80, 81, 82], [7, 9, 120, 121]])
needs_nf4 = pytest.mark.skipif(bool(nf4_problem()), reason=f"no NF4 here: {nf4_problem()}")


@pytest.fixture
def svf(tiny):
    return attach(tiny("qwen2"))


def test_the_branch_is_exact_and_z_of_ones_the_untouched_model(tiny):
    model = tiny("qwen2")
    untouched = exactness.logits_of(model, IDS)
    svf = attach(model)
    assert exactness.identity_difference(svf, untouched, IDS) == 0.0
    assert exactness.identity_difference(svf, untouched + 1e-3, IDS) > 0.0
    assert exactness.branch_error(svf, svf.matrix_names) < 1e-5


def test_a_wrong_basis_is_seen(svf):
    layer = svf.model.get_submodule(svf.matrix_names[0])
    layer.basis.vectors.copy_(torch.eye(len(layer.basis.vectors)))
    assert exactness.branch_error(svf, svf.matrix_names) > 1e-3


def test_a_batch_of_zs_differs_little_from_one_at_a_time(svf):
    assert exactness.batch_difference(svf, IDS) < 1e-4


@needs_nf4
def test_requantising_errs_by_as_much_as_a_small_change_and_a_rounded_basis_does_not(svf):
    rows = exactness.rounding_rows(exactness.nf4_matrices(svf, svf.matrix_names[:3]))
    found = {(row.name, row.variant): row.value for row in rows}
    assert len(found) == 3 * 6
    for rms in (0.02, 0.1, 0.3):
        at = f"z − 1 {rms:g}"
        change = found[exactness.CHANGE, at]
        assert change == pytest.approx(rms, rel=0.4)
        kinds = ("bf16", "int8", "nf4", "int4")
        bases = [found[exactness.ROUNDED, f"{kind}, {at}"] for kind in kinds]
        assert bases[:3] == sorted(bases[:3])
        assert bases[1] < bases[3] < 0.3 * change
        assert bases[1] < 0.03 * change
    assert found[exactness.REQUANTISED, "nf4, z − 1 0.02"] > 0.7 * found[
        exactness.CHANGE, "z − 1 0.02"
    ]  # fmt: skip

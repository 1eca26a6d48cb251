"""Every supported family on a two-layer random model: attach, adapt, go back."""

import pytest
import torch

from t2local.svf import attach
from t2local.svf.basis import is_conv1d
from t2local.svf.layer import weight_as_used
from tests.conftest import FAMILIES
from tests.svf.support import IDS, composed, logits, random_z, relative

MATRICES = {"phi3": 4, "gpt2": 4}  # a layer; phi3: fused qkv and gate-up; gpt2: fused qkv


@pytest.mark.parametrize("family", FAMILIES)
def test_z_of_ones_is_the_base_and_detach_gives_it_back(tiny, family):
    model = tiny(family)
    base = logits(model)
    svf = attach(model)
    assert len(svf.matrix_names) == 2 * MATRICES.get(family, 7)
    with svf.using({name: row.requires_grad_() for name, row in svf.identity().items()}):
        assert torch.equal(model(IDS).logits, base)
    with svf.using(random_z(svf)):
        assert relative(logits(model), base) > 1e-2
    assert torch.equal(logits(svf.detach()), base)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_branch_is_the_composed_matrix(tiny, family):
    """Against the same model in float64 with every matrix replaced by `U diag(σ ⊙ z) Vᵀ`."""
    svf, exact = attach(tiny(family)), tiny(family).double()
    z = random_z(svf)
    for name in svf.matrix_names:
        layer = exact.get_submodule(name)
        weight = composed(weight_as_used(layer), z[name])
        layer.weight.data = weight.T if is_conv1d(layer) else weight
    with svf.using(z):
        assert relative(logits(svf.model), logits(exact)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_zs_equals_one_at_a_time(tiny, family):
    svf = attach(tiny(family))
    z = random_z(svf, 2)
    with svf.using(z):
        together = logits(svf.model)
    for row in range(2):
        with svf.using({name: values[row] for name, values in z.items()}):
            alone = logits(svf.model, IDS[row : row + 1])
        assert (together[row] - alone[0]).abs().max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_divide_the_matrices_into_attention_and_mlp(tiny, family):
    chosen = [attach(tiny(family), targets).matrix_names for targets in ("all", "attention", "mlp")]
    assert set(chosen[0]) == set(chosen[1]) | set(chosen[2])
    assert not set(chosen[1]) & set(chosen[2])
    assert chosen[1]
    assert chosen[2]

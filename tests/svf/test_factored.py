"""Two factors a matrix give what the branch gives, for one z and for a z a row."""

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.svf import attach
from t2local.svf.factored import FactoredModel
from tests.conftest import FAMILIES

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [30, 31, 32, 33]])


def some_z(svf, rows=()):
    generator = torch.Generator().manual_seed(0)
    return {
        n: 1 + 0.2 * torch.randn(*rows, r, generator=generator) for n, r in svf.ranks.items()
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [(), (3,), (3, 4)])
def test_factors_equal_the_branch(tiny, family, rows):
    model = tiny(family)
    svf = attach(model)
    z, factored = some_z(svf, rows), FactoredModel(svf)
    with torch.no_grad():
        plain = model(IDS).logits
        with svf.using(z):
            expected = model(IDS).logits
        with factored.using(z):
            found = model(IDS).logits
        assert torch.equal(model(IDS).logits, plain), "restored afterwards"
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_matrices_that_z_leaves_out_are_the_base_models_bit_for_bit(tiny):
    model = tiny("llama")
    svf = attach(model)
    with torch.no_grad(), FactoredModel(svf).using({}):
        found = model(IDS).logits
    with torch.no_grad():
        assert torch.equal(found, model(IDS).logits)


def test_an_unknown_matrix_is_refused_and_nothing_stays_in_force(tiny):
    model = tiny("llama")
    svf = attach(model)
    factored = FactoredModel(svf)
    with torch.no_grad():
        plain = model(IDS).logits
        unknown = {"model.layers.9.mlp.up_proj": torch.ones(64)}
        with pytest.raises(T2LocalError, match=r"model\.layers\.9"), factored.using(unknown):
            pass
        assert torch.equal(model(IDS).logits, plain)

"""NF4 and int8 base models, really quantised by bitsandbytes on this machine's CPU."""

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.models.load import loader
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach
from t2local.svf.layer import weight_as_used
from tests.svf.support import IDS, composed, logits, random_z, relative

KINDS = ["nf4", "int8"]


@pytest.fixture
def quantised(tiny_folder):
    """`quantised(kind)`: the two-layer Qwen2 (it has biases), loaded anew as `kind`."""
    folder = tiny_folder("qwen2")
    return lambda kind: drain(load_model(str(folder), kind)).model


@pytest.mark.parametrize("basis", ["auto", "int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_z_of_ones_is_the_untouched_model_bit_for_bit(quantised, kind, basis):
    model = quantised(kind)
    base = logits(model)
    svf = attach(model, basis_dtype=basis)
    rows = {name: torch.ones(2, rank) for name, rank in svf.ranks.items()}
    for z in ({}, svf.identity(), rows):
        with svf.using(z):
            assert torch.equal(logits(model), base)
        with svf.using({name: row.requires_grad_() for name, row in z.items()}):
            assert torch.equal(model(IDS).logits, base)
    assert torch.equal(logits(svf.detach()), base)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attaching_before_the_first_forward_changes_nothing(quantised, kind, dtype, monkeypatch):
    """bitsandbytes keeps the dtype of a layer's first input; that must not be the probe's."""
    monkeypatch.setattr(loader, "choose_dtype", lambda *_: dtype)
    used, fresh = quantised(kind), quantised(kind)
    base = logits(used)
    svf = attach(fresh)
    assert torch.equal(logits(fresh), base)
    if kind == "nf4":
        assert svf.detach().model.layers[0].mlp.up_proj.compute_dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_as_used_is_what_the_layer_multiplies_with(quantised, kind):
    model = quantised(kind)
    layer = model.model.layers[0].mlp.up_proj  # no bias
    weight = weight_as_used(layer)
    assert weight.shape == (layer.out_features, layer.in_features)
    x = torch.randn(8, layer.in_features, generator=torch.Generator().manual_seed(0))
    exact = {"nf4": 1e-6, "int8": 2e-2}  # int8 rounds its inputs too
    assert relative(layer(x), x.double() @ weight.double().T) < exact[kind]


def test_the_branch_on_nf4_is_the_composed_dequantised_matrix(quantised):
    model = quantised("nf4")
    weights = {n: weight_as_used(layer) for n, layer in model.named_modules() if n.endswith("proj")}
    svf = attach(model)
    z = random_z(svf)
    with svf.using(z):
        for name in svf.matrix_names:
            layer = model.get_submodule(name)
            x = torch.randn(3, weights[name].shape[1], generator=torch.Generator().manual_seed(0))
            y = x.double() @ composed(weights[name], z[name]).T
            expected = y if layer.bias is None else y + layer.bias.double()
            assert relative(layer(x), expected) < 1e-5


def test_the_gradient_of_z_on_an_nf4_base_is_that_of_the_composed_matrix(quantised):
    model = quantised("nf4")
    svf = attach(model)
    z = {name: row.requires_grad_() for name, row in random_z(svf).items()}
    with svf.using(z):
        model(IDS).logits.square().mean().backward()
        assert all(row.grad.abs().sum() > 0 for row in z.values())
        name = "model.layers.0.mlp.down_proj"
        layer, row = model.get_submodule(name), z[name]
        x = torch.randn(3, 96, generator=torch.Generator().manual_seed(0))
        row.grad = None
        layer(x).square().sum().backward()
    reference = row.detach().double().requires_grad_()
    u, sigma, vt = torch.linalg.svd(weight_as_used(layer.base).double(), full_matrices=False)
    (x.double() @ vt.T * (sigma * reference) @ u.T).square().sum().backward()
    assert relative(row.grad, reference.grad) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_is_another_model_and_is_never_rebuilt(quantised, kind, tiny):
    svf = attach(quantised(kind))
    assert svf.fingerprint() != attach(tiny("qwen2")).fingerprint()
    assert svf.fingerprint() == attach(quantised(kind)).fingerprint()
    with pytest.raises(T2LocalError, match="cannot be rebuilt"):
        svf.rebuild(random_z(svf))


def test_a_batch_of_zs_on_nf4_equals_one_at_a_time(quantised):
    svf = attach(quantised("nf4"))
    z = random_z(svf, 2)
    with svf.using(z):
        together = logits(svf.model)
    for row in range(2):
        with svf.using({name: values[row] for name, values in z.items()}):
            alone = logits(svf.model, IDS[row : row + 1])
        assert (together[row] - alone[0]).abs().max() <= 1e-4

"""One adapted layer: the branch is the composed matrix, z = 1 the base, the gradient exact."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from t2local.errors import T2LocalError
from t2local.svf import attach
from t2local.svf.basis import decompose, rounded
from t2local.svf.layer import InForce, SVFLinear, is_quantised, weight_as_used
from tests.svf.support import IDS, composed, random_z, relative

NAME = "up"
SHAPES = {"in": (96, 64), "out": (64, 96), "square": (64, 64)}  # [m, n]
CASES = [(kind, bias) for kind in ("Linear", "Conv1D") for bias in (False, True)]


def base_layer(kind: str, shape: tuple[int, int], bias: bool) -> nn.Module:
    out_features, in_features = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "Linear":
            return nn.Linear(in_features, out_features, bias).requires_grad_(False)
        layer = Conv1D(out_features, in_features).requires_grad_(False)  # always with a bias
        layer.bias.normal_(std=1.0 if bias else 0.0)
        return layer


def adapted(base: nn.Module, dtype: torch.dtype = torch.float32) -> SVFLinear:
    basis = rounded(decompose(weight_as_used(base)), dtype)
    return SVFLinear(base, basis, NAME, InForce())


def numbers(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(layer: SVFLinear, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    y = x.double() @ composed(weight_as_used(layer.base), z).T
    return y if layer.bias is None else y + layer.bias.double()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("kind", "bias"), CASES)
def test_the_branch_is_the_composed_matrix(shape, kind, bias):
    layer = adapted(base_layer(kind, shape, bias))
    x, z = numbers(2, 5, shape[1]), 1 + 0.1 * numbers(min(shape), seed=2)
    layer.in_force.deltas = {NAME: z - 1}
    assert relative(layer(x), exact(layer, x, z)) < 1e-5


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_rebuilt_matrices_give_what_the_branch_gives(shape, bias):
    layer = adapted(base_layer("Linear", shape, bias))
    x, delta = numbers(2, 5, shape[1]), 0.1 * numbers(min(shape), seed=2)
    layer.in_force.deltas = {NAME: delta}
    branch = layer(x)
    rebuilt = layer.rebuild(delta)
    layer.in_force.matrices = {NAME: rebuilt}
    assert relative(layer(x), branch) < 1e-5
    assert relative(rebuilt, composed(layer.weight, 1 + delta)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("kind", "bias"), CASES)
def test_z_of_ones_is_the_base_bit_for_bit_even_with_a_rounded_basis(dtype, shape, kind, bias):
    base = base_layer(kind, shape, bias)
    layer, x = adapted(base, dtype), numbers(2, 5, shape[1])
    layer.in_force.deltas = {NAME: torch.zeros(min(shape), requires_grad=True)}
    assert torch.equal(layer(x), base(x))
    layer.in_force.deltas = {}
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_rounded_basis_errs_by_a_small_part_of_the_change(shape):
    base, x = base_layer("Linear", shape, True), numbers(4, 5, shape[1])
    delta = 0.1 * numbers(min(shape), seed=2)
    for dtype, share in ((torch.bfloat16, 0.01), (torch.int8, 0.03)):
        layer = adapted(base, dtype)
        scale = layer.basis.scale
        layer.in_force.deltas = {NAME: delta if scale is None else delta * scale.square()}
        error = (layer(x) - exact(layer, x, 1 + delta)).norm()
        assert error < share * (layer(x) - base(x)).norm()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_of_z_equals_that_of_the_composed_matrix_in_float64(shape, bias):
    layer = adapted(base_layer("Linear", shape, bias))
    x, g = numbers(2, 5, shape[1]), numbers(2, 5, shape[0], seed=3)
    z = (1 + 0.1 * numbers(min(shape), seed=2)).requires_grad_()
    layer.in_force.deltas = {NAME: z - 1}
    (layer(x) * g).sum().backward()
    reference = z.detach().double().requires_grad_()
    u, sigma, vt = torch.linalg.svd(layer.weight.double(), full_matrices=False)
    y = x.double() @ vt.T * (sigma * reference) @ u.T
    (y * g.double()).sum().backward()
    assert relative(z.grad, reference.grad) < 1e-5
    assert layer.weight.grad is None


def test_the_gradient_of_z_equals_finite_differences():
    layer = adapted(base_layer("Linear", (64, 96), True)).double()
    layer.basis = decompose(layer.weight)
    x = numbers(1, 3, 96).double()
    z = (1 + 0.1 * numbers(64, seed=2).double()).requires_grad_()

    def loss(row: torch.Tensor) -> torch.Tensor:
        layer.in_force.deltas = {NAME: row - 1}
        return layer(x).square().sum()

    loss(z).backward()
    step = 1e-5
    for i in (0, 7, 63):
        nudge = step * nn.functional.one_hot(torch.tensor(i), 64)
        with torch.no_grad():
            slope = (loss(z + nudge) - loss(z - nudge)) / (2 * step)
        assert abs(slope - z.grad[i]) < 1e-6 * abs(z.grad).max()


def test_a_conv1d_has_its_matrix_the_other_way_round():
    layer = base_layer("Conv1D", (96, 64), True)
    assert weight_as_used(layer).shape == (96, 64)
    assert not is_quantised(layer)


class Remembering(nn.Linear):
    """A stand-in for a quantised layer that keeps the dtype of its first input."""

    compute_dtype: torch.dtype | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.compute_dtype = self.compute_dtype or x.dtype
        return super().forward(x.to(self.compute_dtype))


def test_asking_an_opaque_layer_for_its_matrix_leaves_it_as_it_was():
    layer = Remembering(64, 96).requires_grad_(False)
    bias = layer.bias
    assert is_quantised(layer)
    assert torch.equal(weight_as_used(layer), layer.weight)
    assert layer.compute_dtype is None
    assert layer.bias is bias


def test_an_opaque_layer_is_never_rebuilt():
    layer = adapted(Remembering(64, 96, bias=False).requires_grad_(False))
    with pytest.raises(T2LocalError, match=r"Remembering .* use the branch"):
        layer.rebuild(torch.zeros(64))


# --- Gradients of z through rebuilt matrices, against those of the branch.


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_gradients_through_rebuilt_matrices_equal_those_of_the_branch(tiny, family):
    """Also at z = 1, and with biases (Qwen2, GPT-2) on either side."""
    svf = attach(tiny(family))
    for start in (svf.identity(), random_z(svf, seed=3)):
        gradients = []
        for rebuilt in (False, True):
            z = {n: row.clone().requires_grad_() for n, row in start.items()}
            held = svf.using_rebuilt(svf.rebuild(z), z) if rebuilt else svf.using(z)
            with held:
                loss = svf.model(IDS).logits.float().log_softmax(-1)[..., 7].sum()
                loss.backward()
            gradients.append(torch.cat([row.grad for row in z.values()]))
        assert relative(*gradients) < 1e-4

"""float32 eigenvectors, corrected: what float64 gives, at any condition."""

import pytest
import torch
from safetensors import safe_open

from t2local.svf import basis
from t2local.svf.basis import decompose, float64_is_slow, refined_eigh
from tests.svf.support import composed, relative


@pytest.fixture
def slow_float64(monkeypatch):
    """`decompose` as on a card whose float64 is slow."""
    monkeypatch.setattr(basis, "float64_is_slow", lambda _device: True)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_spectrum(sigma: torch.Tensor) -> torch.Tensor:
    """A random square matrix of the singular values `sigma` `[r]`."""
    rank = len(sigma)
    left, right = (torch.linalg.qr(numbers(rank, rank, seed=s).double())[0] for s in (1, 2))
    return ((left * sigma.double()) @ right.T).float()


SPECTRA = {
    "flat": torch.linspace(2, 1, 96),
    "close": 1 + 1e-5 * torch.arange(96.0).flip(0),
    "ill": torch.logspace(0, -5, 96),
    "two_cliffs": torch.cat([torch.logspace(0, -0.5, 32), torch.logspace(-3, -6, 64)]),
}


def change_error(weight: torch.Tensor) -> float:
    """DESIGN's measure: an expert's ΔW by `decompose` beside a float64 SVD, relative."""
    found, z = decompose(weight), 1 + 0.03 * numbers(min(weight.shape), seed=3)
    rows, delta = found.vectors.double(), (z - 1).double()
    middle = rows.T @ (delta[:, None] * rows)
    change = weight.double() @ middle if found.side == "in" else middle @ weight.double()
    return relative(change, composed(weight, z) - weight.double())


@pytest.mark.parametrize("sigma", SPECTRA.values(), ids=SPECTRA)
def test_an_experts_change_is_that_of_a_float64_svd(sigma, slow_float64):
    assert change_error(with_spectrum(sigma)) < 1e-5


@pytest.mark.parametrize("shape", [(96, 64), (64, 96), (64, 64)])
def test_vectors_order_and_signs_are_those_of_float64(shape, monkeypatch):
    weight = numbers(*shape)
    exact = decompose(weight)
    monkeypatch.setattr(basis, "float64_is_slow", lambda _device: True)
    found = decompose(weight)
    assert found.side == exact.side
    assert torch.allclose(found.sigma, exact.sigma, rtol=1e-6)
    assert torch.allclose(found.vectors, exact.vectors, atol=1e-6)


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(32, 32), torch.eye(32), numbers(64, 8) @ numbers(8, 48, seed=1)],
    ids=["zeros", "all_equal", "rank_8"],
)
def test_equal_and_missing_singular_values_have_an_orthonormal_basis(weight, slow_float64):
    rows = decompose(weight).vectors
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)


def test_float32_alone_would_not_do():
    """What is corrected is there: the test above can fail."""
    weight = with_spectrum(SPECTRA["ill"]).double()
    gram = weight.T @ weight
    exact = torch.linalg.eigh(gram).eigenvectors
    plain = torch.linalg.eigh(gram.float()).eigenvectors.double()
    found = refined_eigh(gram)[1]
    assert ((plain.T @ exact).abs() - torch.eye(96)).abs().max() > 1e-2
    assert ((found.T @ exact).abs() - torch.eye(96)).abs().max() < 1e-3


def test_the_cpu_keeps_float64():
    assert not float64_is_slow(torch.device("cpu"))


@pytest.mark.model
@pytest.mark.parametrize(("layer", "kind"), [(0, "q"), (0, "k"), (1, "o")])
def test_on_real_matrices_too(embedded_folder, layer, kind, slow_float64):
    """The query matrix of layer 0 has condition 50,000; float32 alone errs there by 4 %."""
    with safe_open(embedded_folder / "model.safetensors", "pt") as file:
        weight = file.get_tensor(f"model.layers.{layer}.self_attn.{kind}_proj.weight").float()

    assert change_error(weight) < 1e-5

"""The basis of one matrix: orthonormal, ordered, signed, and cheap to round."""

import pytest
import torch

from t2local.svf.basis import decompose, rounded, side_of, weight_digest
from tests.svf.support import composed, relative

SHAPES = {"in": (96, 64), "out": (64, 96), "square": (64, 64)}


def random_matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_vectors_are_the_singular_vectors_of_the_smaller_side(shape):
    weight = random_matrix(*shape)
    basis = decompose(weight)
    rank = min(shape)
    assert basis.side == side_of(*shape) == ("in" if shape[1] <= shape[0] else "out")
    assert basis.rank == rank
    assert basis.vectors.shape == (rank, rank)
    assert basis.vectors.dtype == basis.sigma.dtype == torch.float32
    rows = basis.vectors.double()
    assert torch.allclose(rows @ rows.T, torch.eye(rank).double(), atol=1e-6)
    sigma = torch.linalg.svdvals(weight.double())
    assert torch.allclose(basis.sigma.double(), sigma, rtol=1e-5)
    image = weight.double() @ rows.T if basis.side == "in" else weight.double().T @ rows.T
    assert torch.allclose(image.norm(dim=0), sigma, rtol=1e-4)


def test_order_and_signs_follow_the_convention():
    basis = decompose(random_matrix(96, 64))
    assert (basis.sigma.diff() <= 0).all()
    largest = basis.vectors.gather(1, basis.vectors.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()
    flipped = decompose(-random_matrix(96, 64))  # −W has the same V
    assert torch.allclose(flipped.vectors, basis.vectors, atol=1e-5)


def test_a_matrix_without_full_rank_has_an_orthonormal_basis_too():
    weight = random_matrix(96, 8) @ random_matrix(8, 64, seed=1)
    basis = decompose(weight)
    rows = basis.vectors
    assert torch.isfinite(rows).all()
    assert torch.allclose(rows @ rows.T, torch.eye(64), atol=1e-5)
    assert (basis.sigma[8:] < 1e-4 * basis.sigma[0]).all()


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4), (torch.int8, 2e-2)]
)
def test_a_rounded_basis_is_near_the_exact_one(dtype, error):
    basis = decompose(random_matrix(96, 64))
    small = rounded(basis, dtype)
    assert small.vectors.dtype == dtype
    assert (small.scale is not None) == (dtype == torch.int8)
    assert relative(small.dense(), basis.vectors) < error
    assert torch.equal(small.sigma, basis.sigma)


def test_a_float32_basis_is_not_rounded():
    basis = decompose(random_matrix(64, 96))
    assert torch.equal(rounded(basis, torch.float32).dense(), basis.vectors)


def test_the_expert_on_an_ill_conditioned_matrix_is_that_of_a_float64_svd():
    """An attention query matrix of the embedded model has condition 9,000."""
    left, right = (torch.linalg.qr(random_matrix(64, 64, seed=s).double())[0] for s in (1, 2))
    sigma = torch.logspace(0, -4, 64, dtype=torch.float64)
    weight = ((left * sigma) @ right.T).float()
    z = 1 + 0.03 * random_matrix(64, seed=3)
    basis = decompose(weight)
    rows = basis.vectors.double()
    change = weight.double() @ rows.T @ ((z - 1).double()[:, None] * rows)
    assert relative(change, composed(weight, z) - weight.double()) < 1e-5


def test_the_digest_knows_values_and_shape_but_not_the_float_type():
    weight = random_matrix(64, 96)
    assert weight_digest(weight) == weight_digest(weight.bfloat16())
    assert weight_digest(weight) == weight_digest(weight.T.contiguous().T)
    others = (weight.T, weight.reshape(96, 64), weight + 0.1)
    assert len({weight_digest(w) for w in (weight, *others)}) == 4

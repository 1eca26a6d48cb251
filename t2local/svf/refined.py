"""Eigenvectors as exact as float64 ones, where float64 is slow (GeForce cards: 1/64 of float32).

`eigh` runs in float32; float64 is left for products. Two corrections follow, both in the small
matrix `S = QᵀGQ`, which is diagonal when Q is right:
1. float32 squares away the small σ (G has σ²). So their block of S is decomposed again in float32
   at its own scale, and again within it: each time it gains a factor `BLOCK` of range.
2. Simultaneous Jacobi rotations: each pair (i, j) is turned by `½ atan(2 S_ij / (S_jj − S_ii))`,
   which squares the error where eigenvalues are apart (cf. Ogita and Aishima, 2018).
Where that does not converge, float64 `eigh` does it. Pure functions of tensors.
"""

import torch

BLOCK = 1e-3  # eigenvalues below this part of the largest are decomposed at their own scale
CONVERGED = 1e-3  # radians: what is left after a last rotation is about its square
MOST_ROTATIONS = 6
FULL_RATE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}  # compute capabilities of data centre cards


def float64_is_slow(device: torch.device) -> bool:
    """True for CUDA cards that do float64 at a small part of their float32 rate."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) not in FULL_RATE


def refined_eigh(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues `[r]`, rising, and eigenvectors `[r, r]`, a column each, of `gram` float64.

    What `torch.linalg.eigh(gram)` gives, to the rounding of float32 storage.
    """
    floor = torch.finfo(torch.float64).eps * len(gram) ** 0.5 * float(gram.diagonal().max())
    vectors = torch.linalg.eigh(gram.float()).eigenvectors.double().flip(1)  # [r, r], λ falling
    vectors = _small_ones_again(_orthonormal(vectors), gram, floor)
    for _ in range(MOST_ROTATIONS):
        near_diagonal = vectors.T @ (gram @ vectors)
        angles = _angles(near_diagonal, floor)
        largest = float(angles.abs().max())
        vectors = _orthonormal(vectors + vectors @ angles)
        if largest > 0.05:
            vectors = _orthonormal(vectors)  # one step takes an error of ½θ² to θ⁴
        if largest < CONVERGED:
            values = (vectors * (gram @ vectors)).sum(dim=0)
            order = values.argsort()
            return values[order], vectors[:, order]
    return torch.linalg.eigh(gram)


def _small_ones_again(vectors: torch.Tensor, gram: torch.Tensor, floor: float) -> torch.Tensor:
    """`vectors` with the small eigenvalues' ones decomposed anew, each block at its own scale."""
    near_diagonal = vectors.T @ (gram @ vectors)  # S [r, r]
    vectors, start = vectors.clone(), 0
    while True:
        values = near_diagonal.diagonal()[start:]
        small = (values < BLOCK * values[0]).nonzero()
        if values[0] <= floor or not len(small):
            return vectors
        start += int(small[0])
        block = near_diagonal[start:, start:]
        scale = block.diagonal().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        turn = torch.linalg.eigh((block / scale).float()).eigenvectors.double().flip(1)
        turn = _orthonormal(turn)
        vectors[:, start:] = vectors[:, start:] @ turn
        near_diagonal[:, start:] = near_diagonal[:, start:] @ turn
        near_diagonal[start:] = turn.T @ near_diagonal[start:]


def _angles(near_diagonal: torch.Tensor, floor: float) -> torch.Tensor:
    """The antisymmetric `[r, r]` generator that turns every pair towards a diagonal S.

    Pairs whose `S_ij` is nothing but rounding are left alone: equal eigenvalues, or σ of 0.
    """
    values = near_diagonal.diagonal()
    gaps = values[None, :] - values[:, None]  # λ_j − λ_i
    coupling = near_diagonal * (near_diagonal.abs() > floor)
    turned = 0.5 * torch.atan2(2 * coupling.abs(), gaps.abs()) * coupling.sign() * gaps.sign()
    below = turned.tril(-1)
    return below - below.T


def _orthonormal(vectors: torch.Tensor) -> torch.Tensor:
    """One Newton–Schulz step to the nearest orthonormal columns: squares their error."""
    return 1.5 * vectors - 0.5 * vectors @ (vectors.T @ vectors)

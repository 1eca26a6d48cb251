"""What the tests of `svf` share: inputs, random `z`s, and the composed matrix in float64."""

import torch
from transformers import PreTrainedModel

from t2local.svf import SVFModel, Z

IDS = torch.tensor([[5, 80, 81, 82, 90, 14, 200, 33], [7, 9, 120, 121, 41, 42, 43, 250]])  # [B, T]


def logits(model: PreTrainedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    """`[B, T, vocabulary]`, without gradients."""
    with torch.no_grad():
        return model(ids).logits


def random_z(svf: SVFModel, *lead: int, rms: float = 0.1, seed: int = 0) -> Z:
    """One row a matrix, `[*lead, r]`, around 1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 1 + rms * torch.randn(*lead, rank, generator=generator)
        for name, rank in svf.ranks.items()
    }


def composed(weight: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """`U diag(σ ⊙ z) Vᵀ` of `weight` `[m, n]` in float64, by a full SVD."""
    u, sigma, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    return (u * (sigma * z.double())) @ vt


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    difference = found.double() - expected.double()
    return float(difference.norm() / expected.double().norm())

"""One orthogonal basis a matrix: the singular vectors of its smaller side.

`W = U diag(σ) Vᵀ`, `[m, n]`: V where n ≤ m ("in" side), U where m < n ("out" side), from the
eigenvectors of the smaller Gram matrix in float64 (float32 loses the small σ of ill-conditioned
attention matrices; `refined` gets them back where float64 is slow). Convention: σ falling, the
largest component of each vector positive.
Departure from the paper: U and V are never kept together; one side is enough for `W'x`.
Pure functions of tensors; knows nothing of models or files.
"""

import hashlib
from dataclasses import dataclass

import torch

from t2local.svf.refined import float64_is_slow, refined_eigh

CONVENTION = "gram-eigh-float64, smaller side, sigma falling, largest component positive"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Basis:
    """`vectors` `[r, r]`: row i is the i-th singular vector; `sigma` `[r]` float32, falling.

    `scale` `[r]`: for int8 vectors, the value of one step in each row; None otherwise.
    """

    vectors: torch.Tensor
    sigma: torch.Tensor
    side: str  # "in" | "out"
    scale: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return self.sigma.shape[0]

    def dense(self) -> torch.Tensor:
        """The vectors as float32 `[r, r]`, whatever they are stored in."""
        rows = self.vectors.float()
        return rows if self.scale is None else rows * self.scale[:, None]


def side_of(out_features: int, in_features: int) -> str:
    return "in" if in_features <= out_features else "out"


def decompose(weight: torch.Tensor) -> Basis:
    """The float32 basis of `weight` `[m, n]`, as exact as float64, on the weight's device."""
    exact = weight.detach().double()
    side = side_of(*exact.shape)
    gram = exact.T @ exact if side == "in" else exact @ exact.T  # [r, r]
    eigh = refined_eigh if float64_is_slow(gram.device) else torch.linalg.eigh
    eigenvalues, columns = eigh(gram)  # ascending
    rows = columns.T.flip(0)  # [r, r], row i belongs to the i-th largest σ
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))  # [r, 1]
    rows = rows * torch.where(largest < 0, -1.0, 1.0)
    sigma = eigenvalues.flip(0).clamp(min=0).sqrt()
    return Basis(rows.float().contiguous(), sigma.float(), side)


def rounded(basis: Basis, dtype: torch.dtype) -> Basis:
    """The basis stored as float32, bfloat16, float16, or int8 with a scale a row."""
    if dtype != torch.int8:
        return Basis(basis.vectors.to(dtype), basis.sigma, basis.side)
    scale = basis.vectors.abs().amax(dim=1) / 127  # [r]
    steps = torch.round(basis.vectors / scale[:, None]).to(torch.int8)
    return Basis(steps, basis.sigma, basis.side, scale)


def stored_bytes(rank: int, dtype: torch.dtype) -> int:
    """Bytes of a basis of `rank` rows: vectors `[r, r]`, float32 σ `[r]`, an int8 one's scales."""
    scales = 4 * rank if dtype == torch.int8 else 0
    return rank * rank * dtype.itemsize + 4 * rank + scales


def weight_digest(weight: torch.Tensor) -> str:
    """A hash of a weight's values and shape.

    Taken after rounding to bfloat16, so that one model loaded in float32 or bfloat16 is the same
    model, while its 4-bit version is another.
    """
    values = weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy()
    return hashlib.sha256(f"{tuple(weight.shape)}".encode() + values.tobytes()).hexdigest()

"""A linear layer with an SVF branch beside it: `W' = U diag(σ ⊙ z) Vᵀ` without touching `W`.

    in side   W'x = W (x + V ((z − 1) ⊙ Vᵀx))
    out side  W'x = y + U ((z − 1) ⊙ Uᵀy),   y = W x

The base layer stays opaque: float, NF4 and int8 alike. In this delta form `z = 1` is the base layer
bit for bit, even with a rounded basis. Knows nothing of experts or of the rest of the model.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from t2local.errors import T2LocalError
from t2local.svf.basis import Basis
from t2local.svf.rebuilt import RebuiltLinear
from t2local.svf.targets import is_conv1d


@dataclass(slots=True)
class InForce:
    """The adaptation that a model's layers obey, by matrix name: exchanged whole, in no time.

    `deltas`: `z − 1`, `[r]`, `[B, 1, r]` or `[B, T, r]`, times the squared scale of an int8 basis;
    a missing one means that the branch is skipped. `matrices`: ready-made `W'` `[m, n]`, used
    instead of base and branch, for an unchanging z; `trained`: that z `[r]`, where it asks for a
    gradient. `instead`: whole layers that stand in for base and branch.
    """

    deltas: Mapping[str, torch.Tensor] = field(default_factory=dict)
    matrices: Mapping[str, torch.Tensor] = field(default_factory=dict)
    trained: Mapping[str, torch.Tensor] = field(default_factory=dict)
    instead: Mapping[str, nn.Module] = field(default_factory=dict)

    def obey(self, other: "InForce") -> None:
        """Take over all that `other` says."""
        self.deltas, self.matrices = other.deltas, other.matrices
        self.trained, self.instead = other.trained, other.instead


class SVFLinear(nn.Module):
    """`base` and its branch; `in_force`, shared by all layers of a model, says what it does."""

    def __init__(self, base: nn.Module, basis: Basis, name: str, in_force: InForce) -> None:
        super().__init__()
        self.base = base
        self.basis = basis
        self.name = name
        self.in_force = in_force
        self.training = base.training

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, n] -> [B, T, m]
        stand_in = self.in_force.instead.get(self.name)
        if stand_in is not None:
            return stand_in(x)
        rebuilt = self.in_force.matrices.get(self.name)
        if rebuilt is not None:
            z = self.in_force.trained.get(self.name)
            if z is None:
                return F.linear(x, rebuilt, self.bias)
            rows = self.basis.dense().to(x.dtype)
            return RebuiltLinear.apply(x, z, rebuilt, self.bias, rows, self.basis.side)
        delta = self.in_force.deltas.get(self.name)
        if delta is None:
            return self.base(x)
        if self.basis.side == "in":
            return self.base(x + self._branch(x, delta))
        y = self.base(x)
        return y + self._branch(y if self.bias is None else y - self.bias.to(y.dtype), delta)

    def _branch(self, v: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:  # [B, T, r] -> same
        rows = self.basis.vectors.to(v.dtype)  # [r, r]; a view unless stored smaller
        return (F.linear(v, rows) * delta.to(v.dtype)) @ rows

    def rebuild(self, delta: torch.Tensor) -> torch.Tensor:
        """`W'` `[m, n]` for `delta = z − 1` `[r]`, in the base's dtype. Float base layers only."""
        weight = weight_as_used(self.base)
        if not weight.is_floating_point() or is_quantised(self.base):
            raise T2LocalError(
                f"A {type(self.base).__name__} layer cannot be rebuilt: rounding the adapted "
                "matrix back to few bits erases the expert; use the branch (the default) instead."
            )
        rows, exact = self.basis.dense(), weight.float()
        if self.basis.side == "in":
            change = (F.linear(exact, rows) * delta) @ rows
        else:
            change = rows.T @ (delta[:, None] * (rows @ exact))
        return (exact + change).to(weight.dtype)


def is_quantised(layer: nn.Module) -> bool:
    """True for a linear layer whose stored weight is not the matrix itself (NF4, int8, ...)."""
    return type(layer) is not nn.Linear and not is_conv1d(layer)


def weight_as_used(layer: nn.Module) -> torch.Tensor:
    """The matrix `[m, n]` that a layer multiplies with.

    A quantised layer is asked for its columns by applying it to the identity: exact for NF4 (each
    sum has one term) and for int8 (a unit vector quantises without error), and independent of how
    a library packs its weights. A shallow copy is asked, since a layer may remember from its first
    input in which dtype to compute (bitsandbytes' `Linear4bit` does).
    """
    if is_conv1d(layer):
        return layer.weight.detach().T
    if not is_quantised(layer):
        return layer.weight.detach()
    device = layer.weight.device
    identity = torch.eye(layer.in_features, device=device, dtype=torch.float32)
    probe = copy.copy(layer)
    probe._parameters = {**layer._parameters, "bias": None}
    # With gradients on: bitsandbytes then dequantises plainly instead of repacking for its
    # fast CPU kernels, which round.
    with torch.enable_grad():
        columns = probe(identity.requires_grad_())  # [n, m]
    return columns.detach().T

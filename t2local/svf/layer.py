"""A linear layer with an SVF branch beside it: `W' = U diag(σ ⊙ z) Vᵀ` without touching `W`.

Two forms of the same product: the branch in delta form (any base, any z), and a rebuilt matrix with
the gradient of `z` alone.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from t2local.errors import T2LocalError
from t2local.svf.basis import Basis, is_conv1d, sharing_input
from t2local.svf.fused import add_branch, add_branches, may_fuse

# --- The gradient of `z` through a rebuilt matrix, without the gradient of the matrix.
#
# With `W' = U diag(σ ⊙ z) Vᵀ` ready, `g` the gradient at the output and `gₓ = W'ᵀ g` (needed
# anyway):
#
#     in side    dz_i = Σ_t (Vᵀx)_i (Vᵀgₓ)_i / z_i
#     out side   dz_i = Σ_t (Uᵀy')_i (Uᵀg)_i / z_i,   y' = W' x
#
# so a training step whose rows share one `z` runs at the base model's forward speed. `1 / z` asks
# that no z is near 0: true of experts, whose z stays near 1. Pure function of tensors.

SMALLEST = 1e-3  # |z| below it would amplify rounding; z is held there in the division


class RebuiltLinear(torch.autograd.Function):
    """`y = W'x + b` with gradients for `x` and `z` `[r]`, one for all rows. Float layers only."""

    @staticmethod
    def forward(ctx, x, z, matrix, bias, rows, side):  # x [..., n], matrix [m, n], rows [r, r]
        ctx.save_for_backward(x, z, matrix, rows)
        ctx.side = side
        return F.linear(x, matrix, bias)

    @staticmethod
    def backward(ctx, gradient):  # [..., m]
        x, z, matrix, rows = ctx.saved_tensors
        gradient_x = gradient @ matrix  # [..., n]
        if not ctx.needs_input_grad[1]:
            return gradient_x, None, None, None, None, None
        if ctx.side == "in":
            before, after = x, gradient_x
        else:
            before, after = F.linear(x, matrix), gradient
        products = F.linear(before, rows) * F.linear(after, rows)  # [..., r]
        safe = torch.where(z.abs() < SMALLEST, SMALLEST, z)
        gradient_z = products.flatten(end_dim=-2).sum(dim=0) / safe
        return gradient_x, gradient_z.to(z.dtype), None, None, None, None


@dataclass(slots=True)
class InForce:
    """The adaptation that a model's layers obey, by matrix name: exchanged whole, in no time.

    `deltas`: `z − 1`, `[r]`, `[B, 1, r]` or `[B, T, r]`, times the squared scale of a basis with
    one; where a delta is missing the branch is skipped. `matrices`: ready-made `W'` `[m, n]`, used
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


class Siblings:
    """Layers with one input (gate and up; q, k and v): their branches in one launch.

    The first that is asked computes for all; each result is handed out once, and only for the very
    tensor and deltas it was computed from.
    """

    def __init__(self, layers: Mapping[str, "SVFLinear"], in_force: InForce) -> None:
        self._vectors = {name: layer.basis.vectors for name, layer in layers.items()}
        self._in_force = in_force
        self._asked: tuple[torch.Tensor, Mapping[str, torch.Tensor]] | None = None
        self._ready: dict[str, torch.Tensor] = {}

    def add_branch(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """`x + branch(x)` `[B, T, n]` of the layer `name`, whose delta is in force."""
        deltas = self._in_force.deltas
        same = self._asked is not None and self._asked[0] is x and self._asked[1] is deltas
        if not same or name not in self._ready:
            shape = deltas[name].shape
            alike = [n for n in self._vectors if n in deltas and deltas[n].shape == shape]
            vectors = [self._vectors[n] for n in alike]
            found = add_branches(x, [deltas[n] for n in alike], vectors, x)
            self._ready = dict(zip(alike, found, strict=True))
            self._asked = (x, deltas)
        sums = self._ready.pop(name)
        if not self._ready:
            self._asked = None  # holds no tensor longer than it must
        return sums


class SVFLinear(nn.Module):
    """`base` and its branch; `in_force`, shared by all layers of a model, says what it does."""

    def __init__(self, base: nn.Module, basis: Basis, name: str, in_force: InForce) -> None:
        super().__init__()
        self.base = base
        self.basis = basis
        self.name = name
        self.in_force = in_force
        self.siblings: Siblings | None = None  # the layers that get the very same input
        self._bias = _bias_as_used(base) if base.bias is not None and base.bias.is_meta else None
        self.training = base.training

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias if self._bias is None else self._bias

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
        # An offloaded layer's vectors are kept beside its weight, in memory.
        vectors = self.basis.vectors.to(x.device)  # [r, r]
        scale = None if self.basis.scale is None else self.basis.scale.to(x.device)
        if self.basis.side == "in":
            if self.siblings is not None and may_fuse(x, delta):
                return self.base(self.siblings.add_branch(self.name, x))
            return self.base(add_branch(x, x, delta, vectors, scale))
        y = self.base(x)
        v = y if self.bias is None else y - self.bias.to(y.dtype)
        return add_branch(y, v, delta, vectors, scale)

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


def join_siblings(layers: Mapping[str, SVFLinear], in_force: InForce) -> None:
    """Let the layers that get the very same input, and whose bases are alike, know each other."""
    for names in sharing_input(layers):
        alike: dict[tuple, dict[str, SVFLinear]] = {}
        for name in names:
            basis = layers[name].basis
            rows = basis.vectors
            if basis.side == "in" and rows.device == basis.sigma.device:
                key = (rows.shape, rows.dtype, rows.device)
                alike.setdefault(key, {})[name] = layers[name]
        for group in alike.values():
            siblings = Siblings(group, in_force) if len(group) > 1 else None
            for layer in group.values():
                layer.siblings = siblings


def is_quantised(layer: nn.Module) -> bool:
    """True for a linear layer whose stored weight is not the matrix itself (NF4, int8, ...)."""
    return type(layer) is not nn.Linear and not is_conv1d(layer)


@contextmanager
def in_place(layer: nn.Module) -> Iterator[None]:
    """Inside the block a layer that accelerate spreads over devices has its own weight.

    What is kept in CPU memory or on disk is fetched to the device that computes, as for a forward.
    """
    hook = layer.__dict__.get("_hf_hook")
    if hook is None:
        yield
        return
    hook.pre_forward(layer)
    try:
        yield
    finally:
        hook.post_forward(layer, None)


def weight_as_used(layer: nn.Module) -> torch.Tensor:
    """The matrix `[m, n]` that a layer multiplies with, on the device that does it.

    A quantised layer is asked for its columns by applying it to the identity: exact for NF4 (each
    sum has one term) and for int8 (a unit vector quantises without error), and independent of how
    a library packs its weights. A shallow copy is asked, since a layer may remember from its first
    input in which dtype to compute (bitsandbytes' `Linear4bit` does).
    """
    with in_place(layer):
        if is_conv1d(layer):
            return layer.weight.detach().T
        weight = layer.weight
        if weight.is_floating_point() and weight.shape == (layer.out_features, layer.in_features):
            return weight.detach()
        return _applied_to_identity(layer)


def _applied_to_identity(layer: nn.Module) -> torch.Tensor:
    identity = torch.eye(layer.in_features, device=layer.weight.device, dtype=torch.float32)
    probe = copy.copy(layer)
    probe._parameters = {**layer._parameters, "bias": None}
    probe.__dict__.pop("forward", None)  # accelerate's one would run the layer itself
    # With gradients on: bitsandbytes then dequantises plainly instead of repacking for its
    # fast CPU kernels, which round.
    with torch.enable_grad():
        columns = probe(identity.requires_grad_())  # [n, m]
    return columns.detach().T


def _bias_as_used(layer: nn.Module) -> torch.Tensor:
    with in_place(layer):
        return layer.bias.detach()

"""`W'x = P (z ⊙ Qx)` with `P Q = W`: the paper's own form, for many rows of differing `z`.

    in side    Q = Vᵀ    P = W V
    out side   Q = UᵀW   P = U

A batch in which every row has its own `z` is bound by arithmetic, not by reading weights. The
branch costs `2 r² + m n` products a token and matrix, this form `r (m + n)`: a quarter less on the
embedded model. The price is a copy of the weights, and that a row of `z = 1` is the base model to
rounding only. For searches and evaluations on float models; the chat keeps the branch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from t2local.errors import T2LocalError
from t2local.svf.layer import SVFLinear, is_quantised, weight_as_used
from t2local.svf.mixing import Z
from t2local.svf.model import SVFModel


class FactoredLinear(nn.Module):
    """`first` Q `[r, n]`, `second` P `[m, r]`, `z` `[r]`, `[B, 1, r]` or `[B, T, r]`."""

    def __init__(self, layer: SVFLinear) -> None:
        super().__init__()
        weight, rows = weight_as_used(layer.base).float(), layer.basis.dense()
        dtype = layer.base.weight.dtype
        if layer.basis.side == "in":
            first, second = rows, weight @ rows.T
        else:
            first, second = rows @ weight, rows.T
        self.first, self.second = first.to(dtype), second.to(dtype)
        self.bias = layer.bias
        self.z: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, n] -> [B, T, m]
        return F.linear(F.linear(x, self.first) * self.z, self.second, self.bias)


class FactoredModel:
    """The adapted matrices of `svf` in two factors each; about a second and a copy of the weights.

    Raises `T2LocalError` on a quantised base, which has no exact factors.
    """

    def __init__(self, svf: SVFModel) -> None:
        self.svf = svf
        for name, layer in svf.base_layers.items():
            if is_quantised(layer):
                raise T2LocalError(
                    f"'{name}' is a {type(layer).__name__} layer, which cannot be factored "
                    "exactly; use the branch (`svf.using`) on a quantised model."
                )
        self._layers = {name: FactoredLinear(layer) for name, layer in svf.layers.items()}

    @contextmanager
    def using(self, z: Z) -> Iterator[None]:
        """As `SVFModel.using`, without gradients. Matrices that `z` leaves out are the base's."""
        layers = {name: self._layers[name] for name in self.svf.checked(z)}
        with self.svf.using_instead(layers):
            for name, row in z.items():
                row = row.detach().to(layers[name].first)
                layers[name].z = row[:, None] if row.dim() == 2 else row
            try:
                yield
            finally:
                for layer in layers.values():
                    layer.z = None

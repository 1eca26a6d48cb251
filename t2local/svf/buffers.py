"""A `z` in tensors that stay where they are, so that a captured CUDA graph survives its change.

A graph replays on the addresses it was captured with. Under a `ZBuffer` all its matrices run their
branch, changed or not, and a new `z` is one copy of numbers; `z = 1` still gives the base model bit
for bit, since the branch then adds zeros. Knows nothing of graphs.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from t2local.errors import T2LocalError
from t2local.svf.basis import Basis
from t2local.svf.mixing import Z


@dataclass(frozen=True)
class _Part:
    """The matrices of one device: their numbers lie one after the other in `flat`."""

    ones: dict[str, torch.Tensor]  # name -> [r], the z of a name that is not given
    factors: torch.Tensor  # [Σ B·r], squared scales of int8 bases, else 1
    flat: torch.Tensor  # [Σ B·r]


class ZBuffer:
    """`deltas`: name -> `z − 1`, `[r]`, or `[rows, 1, r]` for a `z` a row; always the same tensors.

    Begins as the base model (`z = 1`). `fill` from the thread that holds the model's lock.
    """

    def __init__(self, bases: Mapping[str, Basis], rows: int | None = None) -> None:
        self.rows = rows
        self.deltas: dict[str, torch.Tensor] = {}
        by_device: dict[torch.device, list[str]] = {}
        for name, basis in bases.items():
            by_device.setdefault(basis.sigma.device, []).append(name)
        self._parts = [self._part(bases, names) for names in by_device.values()]

    def fill(self, z: Z) -> None:
        """Put `z` in the buffers: name -> `[r]`, or `[rows, r]`; a missing name means 1.

        Names and ranks are the caller's promise (`SVFModel.fill` checks them). Raises
        `T2LocalError` for another number of rows.
        """
        for name, row in z.items():
            assert name in self.deltas, f"{name} is not among this buffer's {len(self.deltas)}"
            if row.dim() > 1 and tuple(row.shape[:-1]) != (self.rows,):
                raise T2LocalError(
                    f"z of '{name}' has {row.shape[0]} rows; this buffer holds "
                    f"{self.rows or 'one row'}{' rows' if self.rows else ''}; make one that fits."
                )
        with torch.no_grad():
            for part in self._parts:
                self._fill(part, z)

    def _fill(self, part: _Part, z: Z) -> None:
        """Few operations for all matrices together: a change of `z` takes no millisecond."""
        rows = [z.get(name, one) for name, one in part.ones.items()]
        if self.rows is not None:
            rows = [row.expand(self.rows, -1).reshape(-1) for row in rows]
        here, kind = part.flat.device, part.flat.dtype
        if any(row.device != here or row.dtype != kind for row in rows):
            rows = [row.to(here, kind) for row in rows]
        torch.cat(rows, out=part.flat)
        part.flat.sub_(1).mul_(part.factors)

    def _part(self, bases: Mapping[str, Basis], names: list[str]) -> _Part:
        copies, ones, factors = self.rows or 1, {}, []
        for name in names:
            basis = bases[name]
            ones[name] = torch.ones_like(basis.sigma)
            factor = ones[name] if basis.scale is None else basis.scale.float().square()
            factors += [factor] * copies
        every = torch.cat(factors)
        part = _Part(ones, every, torch.zeros_like(every))
        pieces = part.flat.split([copies * one.numel() for one in ones.values()])
        for name, piece in zip(names, pieces, strict=True):
            self.deltas[name] = piece if self.rows is None else piece.view(self.rows, 1, -1)
        return part

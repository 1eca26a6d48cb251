"""When the branch runs as fused kernels, and the plain products that do the same elsewhere.

`ZBuffer` keeps a `z` in tensors that stay where they are, so that a captured CUDA graph survives a
change of `z`.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

import torch
from torch.nn import functional as F

from t2local.errors import T2LocalError
from t2local.svf.basis import DTYPES, Basis, packed, unpacked
from t2local.svf.mixing import Z

FEW_ROWS = 4  # each vector is read once; float32 models take more rows the plain way
MOST_ROWS = 64  # beyond it, the tensor cores do more work than the memory
SERVED = (torch.float32, torch.bfloat16, torch.float16)
# Compute capability with bfloat16 in tensor cores, without which more than four rows go the plain
# way, and with copies that a program need not wait for.
AMPERE = (8, 0)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def branch_path(device: torch.device | str) -> str:
    """Which path the branch takes for few rows on `device`, in words, with the reason."""
    device = torch.device(device)
    if device.type != "cuda" and not INTERPRETED:
        return f"PyTorch products (the device is {device.type})"
    problem = fused_problem(device)
    return f"PyTorch products ({problem})" if problem else "fused Triton kernels"


def plain_branch(
    v: torch.Tensor, delta: torch.Tensor, vectors: torch.Tensor, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """`Σ_i delta_i (v_i · v) v_i`: `v` `[B, T, n]`, `vectors` `[k, n]`, `delta` `[..., k]`.

    Rounded to bfloat16 where a gradient is wanted and PyTorch was told that its own products may.
    `vectors` in 4 bits are unpacked for it. `scale` `[k]`: of those in 8 or 4 bits, whose square is
    in `delta`. float16 has too short a range for either: the rows then have their length 1 and
    `delta` is `z − 1` again.
    """
    if v.dtype == torch.float16 and scale is not None:
        rows = unpacked(vectors, v.shape[-1]).to(v.dtype) * scale.to(v.dtype)[:, None]  # [k, n]
        return (F.linear(v, rows) * (delta / scale.float().square()).to(v.dtype)) @ rows
    wanted = delta.requires_grad and torch.is_grad_enabled()
    if wanted and torch.backends.mkldnn.matmul.fp32_precision == "bf16" and not v.is_cuda:
        return _RoundedBranch.apply(v, delta, vectors)
    rows = unpacked(vectors, v.shape[-1]).to(v.dtype)  # [k, n]; a view unless stored smaller
    return (F.linear(v, rows) * delta.to(v.dtype)) @ rows


class _RoundedBranch(torch.autograd.Function):
    """`plain_branch` with its gradients for `v` and `delta`, which keeps no rounded vectors."""

    @staticmethod
    def forward(ctx, v, delta, vectors):
        rows = unpacked(vectors, v.shape[-1]).bfloat16()  # exact in 8 and 4 bits
        inside = F.linear(v.bfloat16(), rows)  # [B, T, k]
        ctx.save_for_backward(inside, delta, vectors)
        return ((inside * delta).bfloat16() @ rows).to(v.dtype)

    @staticmethod
    def backward(ctx, gradient):  # [B, T, n]
        inside, delta, vectors = ctx.saved_tensors
        rows = unpacked(vectors, gradient.shape[-1]).bfloat16()
        back = F.linear(gradient.bfloat16(), rows)  # [B, T, k]
        of_v = ((back * delta).bfloat16() @ rows).to(gradient.dtype)
        return of_v, (back.float() * inside.float()).sum_to_size(delta.shape), None


def add_branch(
    total: torch.Tensor,
    v: torch.Tensor,
    delta: torch.Tensor,
    vectors: torch.Tensor,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """`total + branch(v)`, `[B, T, n]`, by whichever path this device and these rows take.

    `scale`: see `plain_branch`.
    """
    if may_fuse(v, delta):
        return add_branches(v, (delta,), (vectors,), total)[0]
    return total + plain_branch(v, delta, vectors, scale)


def may_fuse(v: torch.Tensor, delta: torch.Tensor) -> bool:
    """Whether the kernels serve this input: cheap to ask, and first of all for the CPU."""
    if not (v.is_cuda or INTERPRETED):
        return False
    rows = v.numel() // v.shape[-1]
    gradient = torch.is_grad_enabled() and (v.requires_grad or delta.requires_grad)
    most = FEW_ROWS if v.dtype == torch.float32 else MOST_ROWS
    if gradient or not 0 < rows <= most or v.dtype not in SERVED:
        return False
    if v.dim() == 3 and delta.dim() == 3 and delta.shape[:2] not in (v.shape[:2], (len(v), 1)):
        return False
    return not fused_problem(v.device) and (rows <= FEW_ROWS or _many_rows(v.device))


def add_branches(
    v: torch.Tensor,
    deltas: Sequence[torch.Tensor],
    vectors: Sequence[torch.Tensor],
    total: torch.Tensor,
) -> list[torch.Tensor]:
    """`total + branch_s(v)` for bases that share their input, in one launch; see `may_fuse`."""
    from t2local.svf import kernels

    flat = v.reshape(-1, v.shape[-1]).contiguous()  # [M, n]
    onto = flat if total is v else total.reshape(flat.shape).contiguous()
    rows = [delta.reshape(-1, delta.shape[-1]).float().contiguous() for delta in deltas]
    with torch.cuda.device_of(v):  # triton launches on the current device
        found = kernels.add_branches(flat, vectors, rows, [onto] * len(vectors), *_launch(v.device))
    return [sums.reshape(v.shape) for sums in found]


@lru_cache
def fused_problem(device: torch.device) -> str:
    """Why the kernels do not run on `device`, "" where they do: tried once, and said once."""
    try:
        from t2local.svf import kernels

        right = all(_right(kernels, device, stored) for stored in DTYPES.values())
        problem = "" if right else "a trial gave wrong numbers"
    except ImportError:
        problem = "triton is not installed; `pip install triton` makes decoding faster"
    except Exception as error:  # an old driver, a missing C compiler: triton raises what it likes
        problem = (
            f"triton does not run here: {str(error).splitlines()[0] if str(error) else error!r}"
        )
    if problem:
        warnings.warn(f"The adaptation runs as PyTorch products: {problem}.", stacklevel=2)
    return problem


AHEAD_BYTES = 80 * 2**10  # of the 100 KB that the smallest cards with asynchronous copies have


def _right(kernels: ModuleType, device: torch.device, stored: torch.dtype) -> bool:
    """Whether a vector of ones is added as often as it should, with tiles as large as they get."""
    kind = torch.float32 if stored == torch.float32 else torch.bfloat16
    v = torch.zeros(1, kernels.TILE, dtype=kind, device=device)
    v[0, 0] = 1.0
    ones = torch.ones(1, kernels.TILE, device=device)
    vectors = packed(ones) if stored == torch.uint8 else ones.to(stored)
    with torch.no_grad():
        (found,) = kernels.add_branches(v, [vectors], [ones[:, :1]], [v], *_launch(device))
    return torch.equal(found, v + 1)


@lru_cache
def _launch(device: torch.device) -> tuple[int, int]:
    """How many programs share a basis, one a multiprocessor; bytes each may copy ahead."""
    if device.type != "cuda":
        return 4, 0
    copies = torch.version.hip is None and torch.cuda.get_device_capability(device) >= AMPERE
    programs = torch.cuda.get_device_properties(device).multi_processor_count
    return programs, AHEAD_BYTES if copies else 0


@lru_cache
def _many_rows(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= AMPERE


# --- A `z` that a captured CUDA graph can be replayed with after a change.
#
# A graph replays on the addresses it was captured with. Under a `ZBuffer` all its matrices run
# their branch, changed or not, and a new `z` is one copy of numbers; `z = 1` still gives the base
# model bit for bit, since the branch then adds zeros.


@dataclass(frozen=True)
class _Part:
    """The matrices of one device: their numbers lie one after the other in `flat`."""

    ones: dict[str, torch.Tensor]  # name -> [r], the z of a name that is not given
    factors: torch.Tensor  # [Σ B·r], squared scales of bases that have them, else 1
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

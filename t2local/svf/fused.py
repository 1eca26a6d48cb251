"""When the branch runs as fused kernels, and the plain products that do the same elsewhere.

Fused: few rows, no gradient, a GPU on which triton ran once for trial (CUDA, or ROCm with triton).
Everywhere else (CPU, Apple, Windows or AMD without triton): two PyTorch products. The two differ by
rounding alone: 1e-6 of the branch in float32, 2e-2 in 16 bits (the plain products round twice more
on the way). `TRITON_INTERPRET=1` sends CPU tensors through the kernels too: for tests.
"""

import os
import warnings
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.nn import functional as F

FEW_ROWS = 4  # each vector is read once; float32 models take more rows the plain way
MOST_ROWS = 64  # beyond it, the tensor cores do more work than the memory
SERVED = (torch.float32, torch.bfloat16, torch.float16)
BFLOAT16_CORES = (8, 0)  # compute capability; before it, more than four rows go the plain way
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def branch_path(device: torch.device | str) -> str:
    """Which path the branch takes for few rows on `device`, in words, with the reason."""
    device = torch.device(device)
    if device.type != "cuda" and not INTERPRETED:
        return f"PyTorch products (the device is {device.type})"
    problem = fused_problem(device)
    return f"PyTorch products ({problem})" if problem else "fused Triton kernels"


def plain_branch(v: torch.Tensor, delta: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """`Σ_i delta_i (v_i · v) v_i`: `v` `[B, T, n]`, `vectors` `[k, n]`, `delta` `[..., k]`."""
    rows = vectors.to(v.dtype)  # [k, n]; a view unless stored smaller
    return (F.linear(v, rows) * delta.to(v.dtype)) @ rows


def add_branch(
    total: torch.Tensor, v: torch.Tensor, delta: torch.Tensor, vectors: torch.Tensor
) -> torch.Tensor:
    """`total + branch(v)`, `[B, T, n]`, by whichever path this device and these rows take."""
    if may_fuse(v, delta):
        return add_branches(v, (delta,), (vectors,), total)[0]
    return total + plain_branch(v, delta, vectors)


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
        found = kernels.add_branches(
            flat, vectors, rows, [onto] * len(vectors), _programs(v.device)
        )
    return [sums.reshape(v.shape) for sums in found]


@lru_cache
def fused_problem(device: torch.device) -> str:
    """Why the kernels do not run on `device`, "" where they do: tried once, and said once."""
    try:
        from t2local.svf import kernels

        v, vectors = torch.ones(1, 16, device=device), torch.eye(16, device=device)
        with torch.no_grad():
            (found,) = kernels.add_branches(v, [vectors], [v], [v], 2)
        problem = "" if torch.equal(found, 2 * v) else "a trial gave wrong numbers"
    except ImportError:
        problem = "triton is not installed; `pip install triton` makes decoding faster"
    except Exception as error:  # an old driver, a missing C compiler: triton raises what it likes
        problem = (
            f"triton does not run here: {str(error).splitlines()[0] if str(error) else error!r}"
        )
    if problem:
        warnings.warn(f"The adaptation runs as PyTorch products: {problem}.", stacklevel=2)
    return problem


@lru_cache
def _programs(device: torch.device) -> int:
    """How many programs share a basis: two for each multiprocessor."""
    if device.type != "cuda":
        return 4
    return min(256, 2 * torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache
def _many_rows(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= BFLOAT16_CORES

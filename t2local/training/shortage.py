"""Too little memory for a slice of a batch: the step is taken again in halves."""

import gc
from dataclasses import replace

import torch

from t2local.errors import T2LocalError
from t2local.training.reports import Notice, TrainState

CPU_ALLOCATOR = "DefaultCPUAllocator"  # how PyTorch says it where there is no class for it


def out_of_memory(error: Exception) -> bool:
    """Whether an error of a forward or backward pass says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or CPU_ALLOCATOR in str(error)


def with_fewer_rows(state: TrainState, step: int) -> tuple[TrainState, Notice]:
    """Half as many rows a forward from now on. Raises `T2LocalError` when there is but one."""
    if state.rows_per_forward == 1:
        raise T2LocalError(
            f"Memory ran out at step {step} with a single row in a forward; close other programs, "
            "or choose shorter examples, a smaller max_new_tokens or gradient_checkpointing."
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    fewer = state.rows_per_forward // 2
    text = f"Out of memory: from now on {fewer} rows a forward instead of {state.rows_per_forward}."
    return replace(state, rows_per_forward=fewer), Notice(step, text)

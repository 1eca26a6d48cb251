"""Too little memory for a slice of a batch: the step is taken again in halves."""

from dataclasses import replace

from t2local.errors import T2LocalError
from t2local.models.decode.out_of_memory import free_memory
from t2local.training.reports import Notice, TrainState


def with_fewer_rows(state: TrainState, step: int) -> tuple[TrainState, Notice]:
    """Half as many rows a forward from now on. Raises `T2LocalError` when there is but one."""
    if state.rows_per_forward == 1:
        raise T2LocalError(
            f"Memory ran out at step {step} with a single row in a forward; close other programs, "
            "or choose shorter examples, a smaller max_new_tokens or gradient_checkpointing."
        )
    free_memory()
    fewer = state.rows_per_forward // 2
    text = f"Out of memory: from now on {fewer} rows a forward instead of {state.rows_per_forward}."
    return replace(state, rows_per_forward=fewer), Notice(step, text)

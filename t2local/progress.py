"""Progress events and cancellation for long work.

Long work is a generator that yields `Progress` (or richer events) and *returns* its result, so the
page, the command line and the tests drive the same code. It knows nothing of who listens.
"""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from t2local.errors import Cancelled

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` in `unit` ("bytes", "matrices", "steps")."""

    stage: str
    done: int
    total: int
    unit: str = ""

    @property
    def fraction(self) -> float:
        """Share done, 0 to 1; 0 while the total is unknown."""
        return self.done / self.total if self.total else 0.0


class CancelToken:
    """A thread-safe flag that a generator checks between its steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise `Cancelled` once `cancel` was called."""
        if self.cancelled:
            raise Cancelled


def drain(
    work: Generator[Any, None, Result], on_event: Callable[[Any], None] | None = None
) -> Result:
    """Run a generator to its end, hand each event to `on_event`, and give what it returns."""
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value
        if on_event is not None:
            on_event(event)

"""Progress events, cancellation and the stages of long work.

Long work is a generator that yields `Progress` (or richer events) and *returns* its result, so the
page, the command line and the tests drive the same code. It knows nothing of who listens.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from t2local.errors import Cancelled, T2LocalError

Result = TypeVar("Result")

QUEUED, RUNNING, PAUSED, STOPPING = "queued", "running", "paused", "stopping"
FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
NEXT = {  # stage -> the stages that may follow it
    QUEUED: (RUNNING, PAUSED, STOPPING, INTERRUPTED),
    RUNNING: (PAUSED, STOPPING, FINISHED, FAILED, INTERRUPTED),
    PAUSED: (QUEUED, RUNNING, STOPPING, FINISHED, FAILED, INTERRUPTED),
    STOPPING: (
        PAUSED,
        FINISHED,
        FAILED,
        INTERRUPTED,
    ),  # paused: by a person, or because the disk is full
    FINISHED: (),
    FAILED: (QUEUED,),
    INTERRUPTED: (QUEUED,),
}
ENDED = (FINISHED, FAILED, INTERRUPTED)
SPEED_WINDOW_S = 8.0
BUSY = tuple(stage for stage in NEXT if stage not in ENDED)


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


@dataclass(frozen=True)
class FetchProgress(Progress):
    """A download's progress in bytes. `bytes_per_s`: over the last seconds, 0 when unknown."""

    bytes_per_s: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """None while the speed is unknown."""
        return (self.total - self.done) / self.bytes_per_s if self.bytes_per_s else None


class Speed:
    """Bytes a second over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, arrived: int) -> float:
        """The speed now that `arrived` bytes are here; 0 at first."""
        now = time.monotonic()
        self._seen.append((now, arrived))
        while now - self._seen[0][0] > SPEED_WINDOW_S:
            self._seen.popleft()
        since, then = self._seen[0]
        return (arrived - then) / (now - since) if now > since else 0.0


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


class LongWork:
    """One piece of long work: what a person tells it, and what its worker tells of it.

    `changed` guards `status`, a frozen dataclass with a `stage` and a `message`: each change is a
    read, a look at `NEXT` and a write under this lock, and wakes whoever waits for it. The methods
    take it; a caller may hold it already.
    """

    def __init__(self, name: str, status: Any, changed: threading.Condition) -> None:
        self.name, self.status, self.changed = name, status, changed
        self.cancel = CancelToken()
        self._taken_up = False

    @property
    def waits(self) -> bool:
        """Whether no worker has taken it up yet."""
        return not self._taken_up and self.status.stage in BUSY

    def pause(self, message: str) -> None:
        """Hold it after its current step. What has ended stays as it is: the click came late."""
        self._unless_ended(stage=PAUSED, message=message)

    def stop(self, message: str) -> None:
        """End it after its current step. What has ended stays as it is: the click came late."""
        with self.changed:
            self._unless_ended(stage=STOPPING, message=message)
            self.cancel.cancel()

    def resume(self) -> None:
        """Let it go on; nothing happens to what waits its turn or is at work.

        What was paused while it was stopping goes on stopping. Raises `T2LocalError` for what is
        stopping or has ended: a stop cannot be taken back.
        """
        with self.changed:
            if self.status.stage in (QUEUED, RUNNING):
                return
            stage = RUNNING
            if self.status.stage == PAUSED and self.cancel.cancelled:
                stage = STOPPING
            elif self.status.stage == PAUSED and not self._taken_up:
                stage = QUEUED
            self.tell(stage=stage, message="")

    def take_up(self) -> bool:
        """For the worker, at its turn: waits while it is paused; False where it has ended."""
        with self.changed:
            self._taken_up = True
            if self.status.stage == QUEUED:
                self.tell(stage=RUNNING)
            return self.goes_on()

    def goes_on(self) -> bool:
        """For the worker, before each step: waits while it is paused; False where it has ended."""
        with self.changed:
            self.changed.wait_for(lambda: self.status.stage != PAUSED)
            return self.status.stage in BUSY

    def end(self, stage: str, **values: Any) -> None:
        """For the worker: what came of it. What was left on disk meanwhile stays so."""
        self._unless_ended(stage=stage, **values)

    def tell(self, **values: Any) -> None:
        """Change the status. Raises `T2LocalError` for a stage that cannot follow its own."""
        with self.changed:
            now, stage = self.status.stage, values.get("stage")
            if stage not in (None, now):
                check_next(self.name, now, stage)
            self.status = replace(self.status, **values)
            self.changed.notify_all()

    def _unless_ended(self, **values: Any) -> None:
        with self.changed:
            if self.status.stage in BUSY:
                self.tell(**values)


def check_next(name: str, now: str, stage: str) -> None:
    """Raise `T2LocalError` unless `stage` may follow the stage `now`."""
    if stage not in NEXT[now]:
        raise T2LocalError(f"'{name}' is {now} and cannot be {stage} again; start a new one.")

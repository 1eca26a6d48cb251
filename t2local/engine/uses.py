"""Who works with the model, so that it is not taken away meanwhile.

A search, an evaluation, a try-out announce themselves in `Uses` for as long as they last: another
model is refused. Answers, previews and the like are over soon and are in `Answers`: another model
ends them and waits.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from t2local.adapt.two_pass import Steering, Workshop
from t2local.errors import T2LocalError
from t2local.progress import CancelToken


class Uses:
    """Announced from any thread."""

    def __init__(self) -> None:
        # Reentrant, as a dropped generator may be closed, and its use end, in any thread anywhere.
        self._lock = threading.RLock()  # around `_running`
        self._running: Counter[str] = Counter()

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """`what` uses the model inside the block: "An evaluation". Fetch the model inside."""
        with self._lock:
            self._running[what] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[what] -= 1

    @contextmanager
    def nobody(self) -> Iterator[None]:
        """Nobody begins inside the block, and nobody was at work before it.

        Raises `T2LocalError` where somebody is.
        """
        with self._lock:
            for what in +self._running:
                raise T2LocalError(
                    f"{what} is using the model; stop it or wait until it is done, then load "
                    "another model."
                )
            yield


@dataclass(eq=False)
class Running:
    """A running answer: its wheel, its stop button, and what it has said."""

    workshop: Workshop
    steering: Steering = field(default_factory=Steering)
    cancel: CancelToken = field(default_factory=CancelToken)
    said: str = ""


class Answers:
    """The running answers, one a session, and whatever else uses the model for a moment.

    From any thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # around the two below; reentrant, as in `Uses`
        self._by_session: dict[str, Running] = {}
        self._moments: set[object] = set()

    @contextmanager
    def moment(self) -> Iterator[None]:
        """The model is used inside the block, which `end` waits for. Fetch the model inside."""
        mine = object()
        with self._changed:
            self._moments.add(mine)
        try:
            yield
        finally:
            with self._changed:
                self._moments.discard(mine)
                self._changed.notify_all()

    @contextmanager
    def of(self, session: str, workshop: Workshop) -> Iterator[Running]:
        """The session's answer inside the block, itself a moment; one it had is told to stop."""
        running = Running(workshop)
        with self.moment():
            with self._changed:
                before = self._by_session.get(session)
                self._by_session[session] = running
            if before is not None:
                before.cancel.cancel()
            try:
                yield running
            finally:
                with self._changed:
                    if self._by_session.get(session) is running:
                        del self._by_session[session]

    def running(self, session: str) -> Running | None:
        """The session's answer, None while it has none."""
        return self._by_session.get(session)

    def end(self, timeout_s: float) -> None:
        """Stop all answers and wait until nothing uses the model, at most `timeout_s`."""
        with self._changed:
            for running in list(self._by_session.values()):
                running.cancel.cancel()
            self._changed.wait_for(lambda: not self._moments, timeout_s)

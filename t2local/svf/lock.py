"""A reentrant lock that is handed on in the order in which threads asked for it.

Python's own lets a thread that gives up the lock take it again at once, so that a training run
could starve a chat for minutes; with this one the chat waits for one forward. Knows nothing of
models.
"""

import threading
from collections import deque


class FairLock:
    """`with lock: ...`; the same thread may enter again."""

    def __init__(self) -> None:
        self._state = threading.Lock()  # guards the three below, held for microseconds
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def __enter__(self) -> "FairLock":
        me = threading.get_ident()
        with self._state:
            if self._owner in (me, None):
                self._owner, self._depth = me, self._depth + 1
                return self
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((me, gate))
        try:
            gate.acquire()  # opened by whoever hands the lock on
        except BaseException:  # an interrupt: leave the queue, or pass on what was just handed over
            self._give_up(me, gate)
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with self._state:
            assert self._owner == threading.get_ident(), "left by a thread that does not hold it"
            self._depth -= 1
            if self._depth == 0:
                self._hand_on()

    def _hand_on(self) -> None:
        self._owner = None
        if self._waiting:
            self._owner, gate = self._waiting.popleft()
            self._depth = 1
            gate.release()

    def _give_up(self, me: int, gate: threading.Lock) -> None:
        with self._state:
            if (me, gate) in self._waiting:
                self._waiting.remove((me, gate))
            else:
                self._depth = 0
                self._hand_on()

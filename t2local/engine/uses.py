"""Who works with the model for longer than one answer, so that it is not taken away meanwhile.

A search, an evaluation, a try-out announce themselves for as long as they last. Knows nothing of
models.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from t2local.errors import T2LocalError


class Uses:
    """Announced from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
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

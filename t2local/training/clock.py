"""Seconds by stage of a training step, and the memory held when a forward ends."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """`with clock("forward"): ...` adds to `clock.seconds["forward"]`.

    `most_bytes`: the most that `held_bytes` gave at the end of a stage; after a forward that is
    nearly a step's peak, since all activations wait for the backward pass.
    """

    def __init__(self, held_bytes: Callable[[], int] = lambda: 0) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.most_bytes, self._held_bytes = 0, held_bytes

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start
            self.most_bytes = max(self.most_bytes, self._held_bytes())

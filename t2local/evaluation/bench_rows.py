"""What a benchmark gives: named values, and times that a noisy machine does not distort.

What is to be compared is repeated in turn, within one run, and compared round by round: a
neighbour that takes a core for a while then slows both sides. Knows nothing of what is measured.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from t2local.svf import SVFModel, Z


@dataclass(frozen=True)
class Row:
    """One value: `decode`, `all matrices`, 11.2, `tokens/s`; None where it was not measured."""

    name: str
    variant: str
    value: float | None
    unit: str


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes, the GPU's queue included."""
    _wait()
    started = time.perf_counter()
    action()
    _wait()
    return time.perf_counter() - started


def interleaved(
    actions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every action in each round; the order turns from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warm_up + rounds):
        names = list(actions)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken = timed(actions[name])
            if turn >= warm_up:
                seconds[name].append(taken)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over rounds of `above / below`."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def random_z(svf: SVFModel, *lead: int, rms: float = 0.03, seed: int = 0) -> Z:
    """A random expert: one row `[*lead, r]` a matrix, around 1."""
    generator = torch.Generator().manual_seed(seed)
    devices = {name: sigma.device for name, sigma in svf.singular_values.items()}
    return {
        name: (1 + rms * torch.randn(*lead, rank, generator=generator)).to(devices[name])
        for name, rank in svf.ranks.items()
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

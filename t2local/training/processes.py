"""Several processes train one expert: each takes its share of a batch, gradients are averaged.

`accelerate launch` starts the processes, on one machine or several; without it there is one, and
nothing here communicates. What crosses the network a step: the gradient (four bytes a trained
number) and a few statistics.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce

from t2local.training.reports import BatchStatistics


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @classmethod
    def launched(cls) -> "Processes":
        """Those of `accelerate launch` (or torchrun), else this one alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, rows: Sequence[Any]) -> range:
        """Which of `rows` are this process's: a run of neighbours, sizes differ by one at most."""
        start, end = (len(rows) * r // self.count for r in (self.rank, self.rank + 1))
        return range(start, end)

    def each(self, work: Callable[[Sequence[Any]], list[Any]], rows: Sequence[Any]) -> list[Any]:
        """`work` of all rows, a result a row, done in shares; every process gets the whole list."""
        share = self.share(rows)
        return self.gather(work([rows[i] for i in share]) if share else [])

    def gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes, in their order; each of them has to call this."""
        return values if self.count == 1 else gather_object(values)

    def from_main(self, value: Any) -> Any:
        """The main process's `value`, in every process."""
        return value if self.count == 1 else gather_object([value])[0]

    def combine(self, gradient: torch.Tensor, batch: BatchStatistics | None) -> BatchStatistics:
        """The whole batch's gradient, in place, and statistics, from this share's.

        Both are means over `batch.weight`; None for an empty share.
        """
        if self.count == 1:
            assert batch is not None, "an empty batch"
            return batch
        shares = gather_object([batch])
        whole = combined([share for share in shares if share is not None])
        gradient *= (batch.weight if batch else 0) / whole.weight
        gradient.copy_(reduce(gradient, "sum"))
        return whole


def combined(shares: Sequence[BatchStatistics]) -> BatchStatistics:
    """Statistics of a batch from those of its shares: weighted means; the slowest share's time."""
    weight = sum(share.weight for share in shares)

    def mean(value: Callable[[BatchStatistics], float]) -> float:
        return sum(share.weight * value(share) for share in shares) / weight

    reward = mean(lambda s: s.reward_mean)
    square = mean(lambda s: s.reward_sd**2 + s.reward_mean**2)
    slowest = max(shares, key=lambda s: sum(s.seconds.values()))
    return replace(
        slowest,
        reward_mean=reward,
        reward_sd=max(0.0, square - reward**2) ** 0.5,
        kl_policy_from_base=mean(lambda s: s.kl_policy_from_base),
        entropy=mean(lambda s: s.entropy),
        equal_groups=mean(lambda s: s.equal_groups),
        sampler_gap=mean(lambda s: s.sampler_gap),
        tokens=sum(share.tokens for share in shares),
        drawn_again=sum(share.drawn_again for share in shares),
        weight=weight,
    )

"""What a policy is given for one step beside its prompts, and how it cuts a batch into slices."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from t2local.models.decode.generate import Around
from t2local.training.clock import Clock
from t2local.training.config import TrainConfig


@dataclass(frozen=True)
class StepWork:
    """`hold()` puts the trained numbers in force for a forward.

    `first` of `total`: where the prompts stand in the batch of all processes, whose random numbers
    they take. `clock`: where the seconds of the step are counted.
    """

    step: int
    hold: Around
    clock: Clock = field(default_factory=Clock)
    first: int = 0
    total: int | None = None


def slices(order: Sequence[int], rows_per_forward: int) -> list[list[int]]:
    """Rows in slices of one forward each."""
    starts = range(0, len(order), rows_per_forward)
    return [list(order[start : start + rows_per_forward]) for start in starts]


def measures_kl(config: TrainConfig, number: int, count: int, step: int) -> bool:
    """Whether slice `number` of `count` also runs the base model.

    All do where the KL is in the loss. Else it is only reported: another slice each step.
    """
    return config.kl_coefficient > 0 or number == step % count

"""The typed events and results of a training run. Plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2local.svf.mixing import Z


@dataclass(frozen=True)
class BatchStatistics:
    """Sums and means of one step's rollouts, before the optimiser moves `z`.

    `equal_groups`: share of prompts whose actions all earn the same (nothing to learn there).
    `seconds`: keys sampling, forward, backward.
    """

    reward_mean: float
    reward_sd: float
    kl_policy_from_base: float
    entropy: float  # nats an action (choice) or a token (text)
    equal_groups: float
    tokens: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class StepReport:
    step: int
    steps: int
    batch: BatchStatistics
    gradient_norm: float
    z_rms: float  # of z − 1

    @property
    def tokens_per_s(self) -> float:
        total = sum(self.batch.seconds.values())
        return self.batch.tokens / total if total else 0.0


@dataclass(frozen=True)
class Validation:
    """Greedy accuracy (reward ≥ 1) and mean reward on the validation rows at `step`."""

    step: int
    accuracy: float
    reward: float
    n: int
    best: bool


@dataclass(frozen=True)
class DryRun:
    """What the base model earns before training: the samples and whether they differ."""

    samples: Sequence[tuple[str, str, float]]  # (prompt, completion, reward)
    equal_groups: float


@dataclass(frozen=True)
class TrainOutcome:
    """`z`: of the best validation. `curve`: one entry a step. `stopped`: why the run ended."""

    z: Z
    best_step: int
    steps: int
    curve: Sequence[float]
    validations: Sequence[Validation]
    peak_memory_bytes: int
    seconds: Mapping[str, float]
    tokens: int
    stopped: str = "all steps done"
    extra: Mapping[str, Any] = field(default_factory=dict)

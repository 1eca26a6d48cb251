"""The typed events and results of a training run. Plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

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
class TrainState:
    """All that a run is after `step` steps: whoever has it can go on as if nothing had happened.

    `flat`: z of all matrices `[Σr]`; `exp_avg`, `exp_avg_sq`: AdamW's moments, the same shape;
    `best_flat`: z of the best validation. Data order and sampling follow from seed and step, so
    there is no random state to keep. `curve`: mean reward a step.
    """

    step: int
    flat: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    best_flat: torch.Tensor
    best: Validation | None = None
    curve: tuple[float, ...] = ()
    validations: tuple[Validation, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0

    @classmethod
    def start(cls, size: int, device: torch.device | str = "cpu") -> "TrainState":
        """Before the first step: z = 1, the base model."""
        ones, zeros = torch.ones(size, device=device), torch.zeros(size, device=device)
        return cls(0, ones, zeros, zeros, ones)


@dataclass(frozen=True)
class Checkpoint:
    """A state worth writing down."""

    state: TrainState


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

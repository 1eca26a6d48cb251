"""The typed events and results of a training run. Plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

# What a `Progress` of a run says after its last step.
MEASURING_HELD_OUT = "Measuring on held-out rows"
TRAINING_WITHOUT = "Leave-one-out: training without row"
MEASURING_FORGOTTEN = "Measuring what was forgotten"


@dataclass(frozen=True)
class BatchStatistics:
    """Sums and means of one step's rollouts, before the optimiser moves `z`.

    `equal_groups`: share of prompts whose actions all earn the same (nothing to learn there).
    `seconds`: keys sampling, forward, backward. `weight`: of how many the means are taken: prompts,
    or tokens where answers are imitated.
    """

    reward_mean: float
    reward_sd: float
    kl_policy_from_base: float
    entropy: float  # nats an action (choice) or a token (text)
    equal_groups: float
    tokens: int
    seconds: Mapping[str, float]
    weight: int = 1


@dataclass(frozen=True)
class StepReport:
    """`change`: how far from the base model, over all matrices, and by layer (SVF: rms of z − 1;
    LoRA: |ΔW| / |W|). `memory_bytes`: what the step took beside the model; 0 where unknown."""

    step: int
    steps: int
    batch: BatchStatistics
    gradient_norm: float
    change: float
    change_by_layer: Sequence[float] = ()
    memory_bytes: int = 0

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
class Answers:
    """What base and current numbers answer to the same few prompts: (prompt, base, current)."""

    step: int
    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Notice:
    """Something that a person should know of, in a sentence."""

    step: int
    text: str


@dataclass(frozen=True)
class TrainState:
    """All that a run is after `step` steps: whoever has it can go on as if nothing had happened.

    `flat`: all trained numbers `[P]`, for SVF the z of all matrices; `exp_avg`, `exp_avg_sq`:
    AdamW's moments, the same shape; `best_flat`: those of the best validation. Data order and
    sampling follow from seed and step, so there is no random state to keep. `curve`: mean reward a
    step. `base_answers`: to the prompts of `Answers`. `rows_per_forward`: as memory allows.
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
    base_answers: tuple[str, ...] = ()
    rows_per_forward: int = 0

    @classmethod
    def start(cls, flat: torch.Tensor, rows_per_forward: int) -> "TrainState":
        """Before the first step, with the numbers of the base model."""
        zeros = torch.zeros_like(flat)
        return cls(0, flat, zeros, zeros, flat, rows_per_forward=rows_per_forward)


@dataclass(frozen=True)
class Checkpoint:
    """A state from which the run can go on; `due`: it is time to write it down."""

    state: TrainState
    due: bool = True


@dataclass(frozen=True)
class Held:
    """The run waits until whoever listens asks for the next event: `reason` in a sentence."""

    reason: str


@dataclass(frozen=True)
class DryRun:
    """What the base model earns before training: the samples and whether they differ."""

    samples: Sequence[tuple[str, str, float]]  # (prompt, completion, reward)
    equal_groups: float


@dataclass(frozen=True)
class TrainOutcome:
    """`flat`: numbers of the best validation `[P]`. `curve`: one entry a step. `stopped`: why."""

    flat: torch.Tensor
    best_step: int
    steps: int
    curve: Sequence[float]
    validations: Sequence[Validation]
    peak_memory_bytes: int
    seconds: Mapping[str, float]
    tokens: int
    stopped: str = "all steps done"

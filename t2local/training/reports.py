"""The typed events and results of a training run, and its metrics as curves and words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from t2local.experts.expert import HeldOut
from t2local.untrusted import typed

# What a `Progress` of a run says after its last step.
MEASURING_HELD_OUT = "Measuring on held-out rows"
TAKING_PRINT = "Noting which prompts it is for"
TRAINING_WITHOUT = "Leave-one-out: training without row"
MEASURING_FORGOTTEN = "Measuring what was forgotten"


@dataclass(frozen=True)
class BatchStatistics:
    """Sums and means of one step's rollouts, before the optimiser moves `z`.

    `equal_groups`: share of prompts whose actions all earn the same (nothing to learn there), when
    `drawn_again` others have been tried in the place of such prompts. Rewards are those of the
    prompts that were drawn first: the curve does not rise because others took their place.
    `seconds`: keys sampling, forward, backward. `weight`: of how many the means are taken: prompts,
    or tokens where answers are imitated. KL, entropy and `sampler_gap` (mean |log π − log μ| a
    token, 0 where the sampler is exact) are those of the answers that the loss looks at.
    """

    reward_mean: float
    reward_sd: float
    kl_policy_from_base: float
    entropy: float  # nats an action (choice) or a token (text)
    equal_groups: float
    tokens: int
    seconds: Mapping[str, float]
    weight: int = 1
    sampler_gap: float = 0.0
    drawn_again: int = 0


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
class Gain:
    """What came of the training, told before what was forgotten is measured: that takes longer."""

    step: int
    held_out: HeldOut


@dataclass(frozen=True)
class TrainState:
    """All that a run is after `step` steps: whoever has it can go on as if nothing had happened.

    `flat`: all trained numbers `[P]`, for SVF the z of all matrices; `exp_avg`, `exp_avg_sq`:
    AdamW's moments, the same shape; `best_flat`: those of the best validation. Data order and
    sampling follow from seed and step, so there is no random state to keep. `curve`: mean reward a
    step. `base_answers`: to the prompts of `Answers`. `rows_per_forward`: as memory allows.
    `draws`, `passed`: of each training example, how often it was drawn and the sum of its pass
    rates then; empty where prompts come in turn. `gap_told`: the sampler's gap was warned of.
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
    draws: tuple[int, ...] = ()
    passed: tuple[float, ...] = ()
    gap_told: bool = False

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


# --- A run's metrics as curves, and what they mean in words.

WINDOW = 8  # steps that are averaged before anything is said of them
FALL = 0.1  # reward, of a scale from −1 to +1
KL_LIMIT = 1.0  # nats an action: the policy is hardly the base model any more
ENTROPY_SHARE = 0.1  # of what it was at the start
UNMOVED = 0.9  # share of groups with equal rewards
GAP_LIMIT = 0.1  # nats a token: importance weights are a tenth off 1 on average


@dataclass(frozen=True)
class Check:
    """A validation: right answers `accuracy` of `n`."""

    step: int
    accuracy: float
    n: int
    best: bool


@dataclass(frozen=True)
class Curves:
    """One entry a step in each list; `checks` and `answers` come every few steps.

    `change`: how far from the base model (SVF: rms of z − 1), `change_by_layer`: at the last step.
    `answers`: (step, rows of (prompt, base, current)). `notices`: (step, sentence).
    """

    steps: Sequence[int] = ()
    reward: Sequence[float] = ()
    spread: Sequence[float] = ()
    kl: Sequence[float] = ()
    entropy: Sequence[float] = ()
    equal_groups: Sequence[float] = ()
    drawn_again: Sequence[int] = ()
    sampler_gap: Sequence[float] = ()
    change: Sequence[float] = ()
    tokens_per_s: Sequence[float] = ()
    checks: Sequence[Check] = ()
    change_by_layer: Sequence[float] = ()
    answers: Sequence[tuple[int, Sequence[tuple[str, str, str]]]] = ()
    notices: Sequence[tuple[int, str]] = ()
    held_out: HeldOut | None = None  # once measured
    memory_bytes: int = 0  # of the step that took most, beside the model; 0 where unknown


def curves(metrics: Iterable[Mapping[str, Any]]) -> Curves:
    """The curves of a run so far; an event that is not what was written is passed over."""
    events = [event for values in metrics if (event := _event(values)) is not None]
    steps = [event for event in events if isinstance(event, StepReport)]
    batches = [step.batch for step in steps]
    return Curves(
        steps=[step.step for step in steps],
        reward=[batch.reward_mean for batch in batches],
        spread=[batch.reward_sd for batch in batches],
        kl=[batch.kl_policy_from_base for batch in batches],
        entropy=[batch.entropy for batch in batches],
        equal_groups=[batch.equal_groups for batch in batches],
        drawn_again=[batch.drawn_again for batch in batches],
        sampler_gap=[batch.sampler_gap for batch in batches],
        change=[step.change for step in steps],
        tokens_per_s=[b.tokens / max(sum(b.seconds.values()), 1e-9) for b in batches],
        checks=[
            Check(e.step, e.accuracy, e.n, e.best) for e in events if isinstance(e, Validation)
        ],
        change_by_layer=steps[-1].change_by_layer if steps else (),
        answers=[(e.step, e.rows) for e in events if isinstance(e, Answers)],
        notices=[(e.step, e.text) for e in events if isinstance(e, Notice)],
        held_out=next((e.held_out for e in reversed(events) if isinstance(e, Gain)), None),
        memory_bytes=max((step.memory_bytes for step in steps), default=0),
    )


SHOWN = {kind.__name__: kind for kind in (StepReport, Validation, Answers, Notice, Gain)}


def _event(values: Mapping[str, Any]) -> Any:
    """A line of a run's metrics as the event that it was; None for one that no page shows."""
    name = values.get("event")
    try:
        return typed(SHOWN[name], values) if isinstance(name, str) and name in SHOWN else None
    except ValueError:
        return None


def warnings(run: Curves) -> list[str]:
    """What looks wrong, a sentence each with what to try; empty where all is well."""
    if len(run.steps) < 2 * WINDOW:
        return []
    first = {name: _mean(getattr(run, name)[:WINDOW]) for name in ("reward", "entropy")}
    names = ("reward", "entropy", "kl", "equal_groups")
    last = {name: _mean(getattr(run, name)[-WINDOW:]) for name in names}
    found = []
    if last["reward"] < first["reward"] - FALL:
        found.append(
            f"The reward fell from {first['reward']:+.2f} to {last['reward']:+.2f}: "
            "stop and try a smaller learning rate; the best checkpoint is kept."
        )
    if last["kl"] > KL_LIMIT:
        found.append(
            f"It moves far from the base model (KL {last['kl']:.1f}) and may forget other things: "
            "try a KL coefficient of 0.1 or a smaller learning rate."
        )
    if first["entropy"] > 0 and last["entropy"] < ENTROPY_SHARE * first["entropy"]:
        found.append(
            "It now nearly always says the same (entropy collapsed): more steps will change "
            "little; try a higher temperature or a KL coefficient of 0.1."
        )
    if last["equal_groups"] > UNMOVED:
        found.append(
            "Nearly all answers to a prompt earn the same, so there is little left to learn from: "
            "try harder (or easier) examples, or a reward with partial credit."
        )
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""Before a run: what the base model says and earns, whether that can teach, how long it takes.

One step is taken on a throw-away `z` to measure its time; nothing is kept of it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from t2local.adapt.answering import CHOICE, action_of, answer_examples
from t2local.adapt.mixer import holding
from t2local.errors import T2LocalError
from t2local.models.fit.memory import free_bytes
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.datasets import Curriculum
from t2local.tasks.rewards.named import rewards_of
from t2local.training.config import TrainConfig
from t2local.training.forecast import checks, other_seconds
from t2local.training.forgetting import OtherTask
from t2local.training.methods import method_for
from t2local.training.policies import policy_for
from t2local.training.reports import BatchStatistics
from t2local.training.step_memory import step_bytes
from t2local.training.step_work import StepWork
from t2local.training.validation import DRY_RUN_PROMPTS, dry_run

SHOWN, TRIED = 6, 2
FEWEST_STEPS, MOST_STEPS = 4, 1000
LENGTHS = {"a minute": 60.0, "five minutes": 300.0, "ten minutes": 600.0, "an hour": 3600.0}


@dataclass(frozen=True)
class Sample:
    """`reward` is None where the row cannot be scored."""

    prompt: str
    wanted: str
    said: str
    reward: float | None


@dataclass(frozen=True)
class TryOut:
    """`problem`: why nothing can be learnt, "" if all is well. `step_s`: seconds a training step;
    `answer_s`: seconds a held-out row; the counts are of rows. `leave_one_out`: each row is held
    out in turn. `memory_bytes`: what a step takes beside the model; `free_bytes`: what there is.
    `dry_s`: seconds of the dry run; `others_s`: of measuring what was forgotten."""

    samples: tuple[Sample, ...]
    problem: str
    step_s: float
    answer_s: float
    train: int
    validation: int
    held_out: int
    leave_one_out: bool = False
    memory_bytes: int = 0
    free_bytes: int = 0
    dry_s: float = 0.0
    others_s: float = 0.0

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.free_bytes


def try_out(
    loaded: LoadedModel,
    svf: SVFModel,
    source: Curriculum,
    reward: str,
    config: TrainConfig,
    others: Sequence[OtherTask] = (),
) -> TryOut:
    """Answers of the base model with their rewards, and measured times.

    `others`: tasks on which forgetting will be measured. Raises `T2LocalError` where the reward
    cannot be computed on these rows.
    """
    rows = list(source.train)[:SHOWN]
    started = time.perf_counter()
    hold = holding(loaded, svf, {})
    answers = answer_examples(loaded, rows, config.max_new_tokens, around=hold)
    said = [answer.text for answer in answers]
    answer_s = (time.perf_counter() - started) / len(rows)
    rewards = rewards_of(reward, rows, said)
    scored = zip(rows, said, rewards, strict=True)
    samples = tuple(Sample(e.prompt, e.answer, text, r) for e, text, r in scored)
    problem = "" if any(r is not None for r in rewards) else _unscored(reward)
    step_s, trial = _trial_step(loaded, svf, rows[:TRIED], reward, config)
    if not problem and action_of(rows) == CHOICE:
        problem = _refusal(loaded, svf, source, reward, config)
    elif not problem and trial.equal_groups == 1.0 and len(set(rewards)) == 1:
        problem = (
            f"All trial answers earned {rewards[0]:+g}: there is nothing to learn from; "
            "try a reward with partial credit, other examples, or more samples a prompt."
        )
    counts = len(source.train), len(source.validation), len(source.held_out)
    step_s *= min(config.prompts_per_step, len(source.train)) / len(rows[:TRIED])
    memory = step_bytes(loaded, source.train, config), free_bytes(loaded.device)
    sampled_s = trial.seconds.get("sampling", 0.0) / len(rows[:TRIED])
    return TryOut(
        samples, problem, step_s, answer_s, *counts, source.leave_one_out, *memory,
        dry_s=sampled_s * min(DRY_RUN_PROMPTS, len(source.train)),
        others_s=sum(other_seconds(loaded, svf, others)),
    )  # fmt: skip


def steps_within(seconds: float, tried: TryOut, config: TrainConfig) -> int:
    """How many steps fit into a time, measuring included; at least a few."""
    fixed = (tried.validation + 2 * tried.held_out) * tried.answer_s
    a_step = tried.step_s + tried.validation * tried.answer_s / config.validate_every
    trainings = _trainings(tried)
    steps = (seconds - fixed * trainings) / max(a_step * trainings, 1e-6)
    return max(FEWEST_STEPS, min(MOST_STEPS, int(steps)))


def run_seconds(tried: TryOut, config: TrainConfig) -> float:
    """How long a run takes to its very end, by the measured times."""
    answers = (1 + checks(config)) * tried.validation + 2 * tried.held_out
    a_training = tried.dry_s + config.steps * tried.step_s + answers * tried.answer_s
    return _trainings(tried) * a_training + tried.others_s


def _trainings(tried: TryOut) -> int:
    """Left out in turn, each row takes a training of its own."""
    return 1 + tried.held_out if tried.leave_one_out else 1


def lasting(length: str, tried: TryOut, config: TrainConfig) -> TrainConfig:
    """The configuration with the steps that a length of `LENGTHS` allows; others stay as set."""
    if length not in LENGTHS:
        return config
    steps = steps_within(LENGTHS[length], tried, config)
    return replace(config, steps=steps, validate_every=max(1, min(10, steps // 4)))


def in_words(seconds: float) -> str:
    """`about 40 seconds`, `about 12 minutes`, `about 2.5 hours`."""
    if seconds < 90:
        return f"about {max(1, round(seconds, -1 if seconds > 20 else 0)):.0f} seconds"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"


def _trial_step(
    loaded: LoadedModel, svf: SVFModel, rows: Sequence, reward: str, config: TrainConfig
) -> tuple[float, BatchStatistics]:
    """Seconds of one step on `rows`, and what it gave."""
    method = method_for(loaded, svf, config)
    started = time.perf_counter()
    hold = method.holding(method.start().requires_grad_())
    batch = policy_for(loaded, svf, rows, reward, config).accumulate(rows, StepWork(0, hold))
    return time.perf_counter() - started, batch


def _refusal(loaded, svf, source: Curriculum, reward: str, config: TrainConfig) -> str:
    """Why the run itself would refuse these rows; choices need no sampling to know."""
    try:
        dry_run(policy_for(loaded, svf, source.train, reward, config), source.train, config.seed)
    except T2LocalError as error:
        return str(error)
    return ""


def _unscored(reward: str) -> str:
    return (
        f"The reward '{reward}' cannot score any of these rows (it needs a column they lack); "
        "choose another reward."
    )

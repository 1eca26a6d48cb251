"""The dry run: what the base model says and earns, whether that can teach, how long a run takes.

`dry_run` comes first in every run that learns by reward, and refuses what can teach nothing.
`dry_run_report` tells a person before the run; it takes one step on a throw-away `z` to measure
time. Also here: settings that follow from the examples, and the refusal of rows that do not fit the
model's context.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from t2local.adapt.answering import (
    CHOICE,
    action_of,
    answer_examples,
    are_preferences,
    prompt_ids,
)
from t2local.adapt.applier import holding
from t2local.adapt.dispatch import LABEL_TEMPERATURE
from t2local.errors import T2LocalError
from t2local.models.chat_format import encode_text
from t2local.models.decode.generate import Around
from t2local.models.fit.memory import free_bytes
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.datasets import Dataset
from t2local.tasks.rewards import REWARDS, rewards_of
from t2local.tasks.rows import Example, shown, too_long
from t2local.training.config import NEXT_TOKEN, SVF, TrainConfig, method_for
from t2local.training.finding import print_seconds
from t2local.training.forecast import Times, other_seconds
from t2local.training.policies import policy_for
from t2local.training.preferences import Reference
from t2local.training.reports import (
    BatchStatistics,
    DryRun,
)
from t2local.training.rollouts import Policy, sampling_seed
from t2local.training.step_memory import StepWork, step_bytes
from t2local.training.validation import OtherTask

DRY_RUN_PROMPTS = 8
SHOWN, TRIED = 6, 2  # rows that are answered for a person to see; rows of the trial step
BEGINNING = 40  # characters of a prompt that a message shows
LABEL_WORDS = 2
TEXT_LEARNING_RATE = 4e-3  # twice the paper's: minutes on a laptop allow few steps
TEXT_PROMPTS = 4  # a step of free text: fewer prompts, for each costs a group of samples
CHARACTERS_A_TOKEN, TOKENS_A_WORD = 3, 1.5
JSON_CHARACTERS_A_TOKEN = 1.5  # models spread it over lines
ROOM = 16  # tokens beyond the longest answer, so that too long is seen to be too long
WHOLE_ANSWER = ("json", "json_partial", "exact", "length")  # rewards of all that is said
FITTED = ("temperature", "prompts_per_step", "learning_rate", "max_new_tokens")


@dataclass(frozen=True)
class Sample:
    """`reward` is None where the row cannot be scored."""

    prompt: str
    wanted: str
    said: str
    reward: float | None


@dataclass(frozen=True, kw_only=True)
class DryRunReport(Times):
    """`problem`: why nothing can be learnt, "" if all is well. `memory_bytes`: what a step takes
    beside the model; `free_bytes`: what there is."""

    samples: tuple[Sample, ...]
    problem: str
    memory_bytes: int = 0
    free_bytes: int = 0

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.free_bytes


def dry_run(
    policy: Policy, examples: Sequence[Example], seed: int, hold: Around | None = None
) -> DryRun:
    """Rewards of the base model on a few prompts. Raises `T2LocalError` if all are equal.

    `hold`: what training starts from, where that is not the base model.
    """
    chosen = random.Random(seed).sample(list(examples), min(DRY_RUN_PROMPTS, len(examples)))
    base = StepWork(0, hold or (lambda: policy.svf.using({})))
    rollout = policy.rollout(chosen, seed, base)
    groups = [[0.0 if r is None else r for r in g] for g in policy.rewards(rollout, base)]
    said = zip(chosen, rollout.texts, groups, strict=True)
    flat = [(e.prompt, t, r) for e, ts, rs in said for t, r in zip(ts, rs, strict=True)]
    rewards = {r for _, _, r in flat}
    equal = sum(len(set(group)) == 1 for group in groups) / len(groups)
    if len(rewards) == 1:
        example = flat[0][1].strip().replace("\n", " ")[:80]
        raise T2LocalError(
            f"Nothing to learn from: all {len(flat)} trial answers of the base model earned "
            f"{rewards.pop():+g} (one was '{example}'); choose a reward with partial credit, "
            "easier examples, or more samples a prompt."
        )
    return DryRun(flat, equal)


def dry_run_report(
    loaded: LoadedModel,
    svf: SVFModel,
    source: Dataset,
    reward: str,
    config: TrainConfig,
    others: Sequence[OtherTask] = (),
) -> DryRunReport:
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
    samples = tuple(Sample(e.prompt, e.wanted, text, r) for e, text, r in scored)
    problem = "" if any(r is not None for r in rewards) else _unscored(reward)
    tried = rows[: _slice_rows(rows, config)]
    step_s, trial = _trial_step(loaded, svf, tried, reward, config)
    if not problem and action_of(rows) == CHOICE:
        problem = _refusal(loaded, svf, source, reward, config)
    elif not problem and trial.equal_groups == 1.0 and len(set(rewards)) == 1:
        problem = (
            f"All trial answers earned {rewards[0]:+g}: there is nothing to learn from; "
            "try a reward with partial credit, other examples, or more samples a prompt."
        )
    step_s *= min(config.prompts_per_step, len(source.train)) / len(tried)
    before_s = trial.seconds.get("sampling", 0.0) / len(tried)
    before_s *= min(DRY_RUN_PROMPTS, len(source.train))
    if are_preferences(rows):
        before_s += answer_s * len(source.rows)  # the base model's odds, once a row
    return DryRunReport(
        samples=samples,
        problem=problem,
        memory_bytes=step_bytes(loaded, source.train, config),
        free_bytes=free_bytes(loaded.device),
        step_s=step_s,
        answer_s=answer_s,
        train=len(source.train),
        validation=len(source.validation),
        held_out=len(source.held_out),
        leave_one_out=source.leave_one_out,
        before_s=before_s,
        others_s=sum(other_seconds(loaded, svf, others)),
        print_s=print_seconds(loaded, svf, source) if config.method == SVF else 0.0,
    )


def _slice_rows(rows: Sequence, config: TrainConfig) -> int:
    """Rows of the trial step: few where each is answered many times, else those of a forward."""
    return max(TRIED, config.rows_per_forward) if action_of(rows) == CHOICE else TRIED


def _trial_step(
    loaded: LoadedModel, svf: SVFModel, rows: Sequence, reward: str, config: TrainConfig
) -> tuple[float, BatchStatistics]:
    """Seconds that a step on `rows` is expected to take in training, and what one gave."""
    method, known = method_for(loaded, svf, config), Reference(loaded, svf)
    policy = policy_for(loaded, svf, rows, reward, config, known)
    if are_preferences(rows):
        known.of(rows)  # once a run
    work = StepWork(0, method.holding(method.start().requires_grad_()))
    started = time.perf_counter()
    rollout = policy.rollout(rows, sampling_seed(config, 0), work)
    rewards, terms = policy.rewards(rollout, work), []
    advantages = policy.advantages(rewards, policy.penalties(rollout, work))
    if policy.samples:
        advantages = torch.ones_like(advantages)  # all is read, and its time is known
    for loss, part in policy.losses(rollout, advantages, work):
        work.backward(loss)
        terms.append(part)
    statistics = policy.statistics(rollout, rewards, terms, work)
    seconds = time.perf_counter() - started
    if policy.samples:
        seconds = expected_seconds(seconds, statistics, config)
    return seconds, statistics


def expected_seconds(whole_s: float, trial: BatchStatistics, config: TrainConfig) -> float:
    """Of a step in training, from one whose every answer was read in `whole_s`.

    Prompts whose answers all earn the same are not read, and others are sampled in their place. How
    many they are is guessed from the few of the trial (Laplace's rule of succession).
    """
    equal = (trial.equal_groups * trial.weight + 1) / (trial.weight + 2)
    again = min(config.redraws, equal + equal**2)  # two rounds
    sampling = trial.seconds.get("sampling", 0.0)
    return sampling * (1 + again) + (whole_s - sampling) * min(1.0, (1 - equal) * (1 + again))


def _refusal(loaded, svf, source: Dataset, reward: str, config: TrainConfig) -> str:
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


# --- Settings that follow from the examples and the reward, unless a person sets them.


def fitting(reward: str, examples: Sequence[Example]) -> dict[str, Any]:
    """Names (of `FITTED`) and values of `TrainConfig` that suit the examples."""
    if reward == CHOICE and are_preferences(examples):
        return {"prompts_per_step": TEXT_PROMPTS}  # whole answers are long
    if reward == CHOICE:
        return {"temperature": choice_temperature(examples)}
    fitted: dict[str, Any] = {"prompts_per_step": TEXT_PROMPTS, "learning_rate": TEXT_LEARNING_RATE}
    known = REWARDS.get(reward)  # None: a sum
    if known and known.answer_tokens:
        every = (answer for example in examples for answer in example.answers or ("",))
        longest = max(map(known.answer_tokens, every))
        fitted["max_new_tokens"] = round(longest) + ROOM
    return fitted


def choice_temperature(examples: Sequence[Example]) -> float:
    """Of the policy: choices of a word or two lie so far apart that at 1 nothing is tried out."""
    short = all(len(example.answer.split()) <= LABEL_WORDS for example in examples)
    return LABEL_TEMPERATURE if short else TrainConfig.temperature


def with_fitting(given: Mapping[str, Any], reward: str, examples: Sequence[Example]) -> TrainConfig:
    """The configuration of what a person `given` explicitly, the rest as fits the examples."""
    return TrainConfig(**{**fitting(reward, examples), **given})


# --- Rows that do not fit the model's context.


def check_lengths(loaded: LoadedModel, source: Dataset, config: TrainConfig) -> None:
    """Raises `T2LocalError` where a prompt and its answer take more tokens than the model reads."""
    others = () if source.leave_one_out else (*source.validation, *source.held_out)
    examples = [*source.train, *others]
    chooses = action_of(examples) == CHOICE

    def answer_tokens(example: Example) -> int:
        if chooses:
            return max(map(tokens, example.columns["choices"]))
        if config.objective == NEXT_TOKEN:
            return tokens(example.answer) + 1  # the end of the turn
        return config.max_new_tokens

    def tokens(text: str) -> int:
        return len(encode_text(loaded.tokenizer, text))

    def needed(example: Example) -> int:
        return len(prompt_ids(loaded, example)) + answer_tokens(example)

    def surely_fits(example: Example) -> bool:
        """A token takes at least a byte, so most rows need not be counted (7 s for 2,651)."""
        if example.pictures:
            return False  # whose tokens only the model's processor counts
        chosen = max(map(_size, example.columns["choices"])) if chooses else 0
        answer = chosen or max(_size(example.answer) + 1, config.max_new_tokens)
        return template + _size(example.prompt) + answer <= context // 2

    template = len(prompt_ids(loaded, Example("", "")))
    context = loaded.context_length
    examples = [example for example in examples if not surely_fits(example)]
    found = too_long(examples, needed, context)
    if not found:
        return
    first = examples[found[0]]
    rows = "row does not fit" if len(found) == 1 else "rows do not fit"
    remedy = "shorten or leave out such rows"
    if not chooses and config.objective != NEXT_TOKEN:
        remedy += f", or lower max_new_tokens ({config.max_new_tokens})"
    raise T2LocalError(
        f"{len(found)} {rows} the {context} tokens that '{loaded.name}' reads: the first begins "
        f"'{shown(first.prompt, BEGINNING)}' and needs {needed(first)} with its answer; {remedy}."
    )


def _size(text: str) -> int:
    return len(text.encode())

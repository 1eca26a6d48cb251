"""From a dataset to an expert with its card: train, measure, write down.

The base model and the trained one answer the same held-out rows greedily, so the card's interval is
one of the paired difference. Where there are too few rows to set any aside, each is answered by an
expert that was trained on all the others (leave-one-out).
"""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from t2local.adapt.answering import CHOICE, action_of, check_sees
from t2local.adapt.choosing import common_labels
from t2local.adapt.dispatch import LABELS, classification_prompt
from t2local.errors import T2LocalError
from t2local.experts.expert import CLASSIFIER, SKILL, Expert, HeldOut, stamped
from t2local.experts.prompt_print import FEWEST_PROMPTS, PromptPrint, print_of, sampled
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken, Progress, drain
from t2local.provenance import origin
from t2local.statistics import paired_difference
from t2local.svf import SVFModel, Z
from t2local.tasks.datasets import Dataset, dataset, folds, with_prompts
from t2local.tasks.rewards import check_reward, parts_of
from t2local.tasks.rows import Example
from t2local.tasks.uploads import with_choices
from t2local.training.config import Method, SVFMethod, method_for
from t2local.training.dry_run import check_lengths
from t2local.training.loop import Event, train
from t2local.training.processes import Processes
from t2local.training.reports import (
    MEASURING_HELD_OUT,
    TAKING_PRINT,
    TRAINING_WITHOUT,
    Gain,
    TrainOutcome,
    TrainState,
)
from t2local.training.runs import Plan
from t2local.training.validation import OtherTask, Scored, as_card, forgetting, score_greedy


@dataclass(frozen=True)
class Trained:
    """What came of a run: `card` says all of it. `expert`: None for LoRA, which cannot be mixed."""

    outcome: TrainOutcome
    held_out: HeldOut
    card: Mapping[str, Any]
    expert: Expert | None


def train_expert(
    loaded: LoadedModel,
    svf: SVFModel,
    source: Dataset,
    plan: Plan,
    labels: tuple[str, ...] = (),
    cancel: CancelToken | None = None,
    state: TrainState | None = None,
    method: Method | None = None,
    processes: Processes | None = None,
    others: Sequence[OtherTask] = (),
) -> Generator[Event | Gain | Progress, None, Trained]:
    """Train and measure; the events are those of `train`, `Gain` and `Progress`.

    `labels`: what its expert chooses among, empty where it writes. `state`: of a run that goes on.
    `others`: tasks on which forgetting is measured.
    Raises `T2LocalError` when there is nothing to learn from, or rows do not fit the context.
    """
    config = plan.config
    check_sees(loaded, source.train)
    check_lengths(loaded, source, config)
    method = method or method_for(loaded, svf, config)
    started = time.perf_counter()
    # The dry run comes first inside `train`; measuring waits until it has said yes.
    outcome = yield from train(
        loaded, svf, source.train, source.validation, plan.reward, config, cancel, state,
        method, processes,
    )  # fmt: skip
    trained_s = time.perf_counter() - started
    base, trained = yield from _measured(loaded, svf, source, plan, method, outcome, processes)
    held_out = _held_out(base, trained, source.source)
    yield Gain(outcome.steps, held_out)
    forgotten = yield from forgetting(
        loaded, svf, method.holding(outcome.flat), others, _later(cancel, processes), processes
    )
    card = {
        "data": source.source,
        "data_sha256": source.sha256,
        "leave_one_out": source.leave_one_out,
        "rows": {"train": len(source.train), "validation": len(source.validation)},
        "config": asdict(config),
        "numbers": outcome.flat.numel(),
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "seed": config.seed,
        "train_s": round(trained_s, 1),
        **_made_with(loaded, svf),
        "command": plan.command,
        "curve": [round(value, 4) for value in outcome.curve],
        "held_out": held_out.as_dict(),
        "held_out_reward": _held_out_reward(base, trained),
        "forgetting": as_card(forgotten),
    }
    expert = None
    if isinstance(method, SVFMethod):
        expert = make_expert(loaded, svf, method.z(outcome.flat), plan, labels, card)
        yield Progress(TAKING_PRINT, 0, 1, "prints")
        expert = replace(expert, prompt_print=prompt_print(loaded, svf, source, expert.kind))
    return Trained(outcome, held_out, card, expert)


def prompt_print(
    loaded: LoadedModel, svf: SVFModel, source: Dataset, kind: str = SKILL
) -> PromptPrint | None:
    """Of the prompts that an expert was trained on, the held-out ones aside.

    None for too few, for a classifier, which answers nothing, and where the states of the model
    cannot be read.
    """
    prompts = [e.turns for e in printed_rows(source)]
    if kind != SKILL or len(prompts) < FEWEST_PROMPTS:
        return None
    try:
        taken = print_of(loaded, prompts, lambda: svf.using({}))
    except T2LocalError:  # a model whose states cannot be read
        return None
    return replace(taken, data=source.sha256)


def printed_rows(source: Dataset) -> list[Example]:
    """The rows of an expert's prompt print, in its order: what the expert was trained on tells."""
    trained_on = [*source.train, *source.validation]
    return sampled(list({example.group: example for example in trained_on}.values()))


def _later(cancel: CancelToken | None, processes: Processes | None) -> CancelToken | None:
    """`cancel`, unless it ended the training already; several processes measure to the end."""
    alone = processes is None or processes.count == 1
    return cancel if alone and cancel is not None and not cancel.cancelled else None


def _measured(
    loaded: LoadedModel,
    svf: SVFModel,
    source: Dataset,
    plan: Plan,
    method: Method,
    outcome: TrainOutcome,
    processes: Processes | None,
) -> Generator[Progress, None, tuple[Scored, Scored]]:
    """Greedy answers to the held-out rows by the base model and by what was trained."""

    def score(flat: torch.Tensor) -> Scored:
        budget, hold = plan.config.max_new_tokens, method.holding(flat)
        return score_greedy(loaded, hold, source.held_out, plan.reward, budget, processes)

    yield Progress(f"{MEASURING_HELD_OUT}: base", 0, 2, "models")
    base = score(method.start().to(outcome.flat.device))
    if source.leave_one_out:
        return base, (yield from leave_one_out(loaded, svf, source, plan, method, processes))
    yield Progress(f"{MEASURING_HELD_OUT}: trained", 1, 2, "models")
    return base, score(outcome.flat)


def _held_out(base: Scored, trained: Scored, task: str) -> HeldOut:
    _, low, high = paired_difference(base.right, trained.right)
    return HeldOut(len(base.right), base.accuracy, trained.accuracy, (low, high), task)


def _held_out_reward(base: Scored, trained: Scored) -> dict[str, Any]:
    _, *interval = paired_difference(base.rewards, trained.rewards)
    return {"base": base.mean, "trained": trained.mean, "ci95_difference": interval}


def dataset_of(plan: Plan) -> tuple[Dataset, tuple[str, ...]]:
    """A run's examples, and the labels where its expert chooses among some. `T2LocalError`."""
    source = dataset(plan.source, plan.config.seed, plan.config.held_out_share)
    if CHOICE in {name for _, name in parts_of(plan.reward)}:
        source = _listing_choices(source)
    check_reward(plan.reward, [*source.train, *source.held_out])
    if not plan.classifier:
        return source, labels_of(source.rows)
    return with_prompts(source, classification_prompt), LABELS


def labels_of(rows: Sequence[Example]) -> tuple[str, ...]:
    """What an expert chooses among that is trained on `rows`; () where it writes."""
    if action_of(rows) != CHOICE:
        return ()
    return common_labels([[str(choice) for choice in row.columns["choices"]] for row in rows])


def _listing_choices(source: Dataset) -> Dataset:
    """Rows without choices get all kinds of answers there are as theirs."""
    rows = with_choices([*source.train, *source.validation, *source.held_out])
    first, second = len(source.train), len(source.train) + len(source.validation)
    return replace(
        source, train=rows[:first], validation=rows[first:second], held_out=rows[second:]
    )


def _made_with(loaded: LoadedModel, svf: SVFModel) -> dict[str, str]:
    """With which code, on which machine, and how weights and bases were stored, for a card."""
    made = origin(str(loaded.device))
    return {
        "commit": made["commit"],
        "machine": f"{made['machine']}, {loaded.dtype}",
        "quantization": loaded.quantization,
        "basis": svf.basis_dtype,
    }


def make_expert(
    loaded: LoadedModel,
    svf: SVFModel,
    z: Z,
    plan: Plan,
    labels: tuple[str, ...] = (),
    card: Mapping[str, Any] | None = None,
) -> Expert:
    """An expert of a run's `z`, with what identifies the weights it belongs to."""
    expert = Expert(
        name=plan.name,
        base_model=loaded.name,
        basis_fingerprint="",
        z=z,
        description=plan.description,
        reward=plan.reward,
        training=card or {},
        kind=CLASSIFIER if plan.classifier and labels else SKILL,
        labels=labels,
    )
    return stamped(expert, loaded, svf)


# --- Leave-one-out: each of a handful of rows is measured unseen.
#
# The expert that is kept is trained on all rows. For the measurement, one expert for each row is
# trained in the same way on all the others and then thrown away: as many trainings as rows.


def leave_one_out(
    loaded: LoadedModel,
    svf: SVFModel,
    source: Dataset,
    plan: Plan,
    method: Method,
    processes: Processes | None = None,
) -> Generator[Progress, None, Scored]:
    """Greedy answers to every row by an expert that never saw it, in the order of the rows.

    A fold whose other rows can teach nothing is answered by the base model.
    """
    config, parts = plan.config, folds(source)
    found: dict[str, tuple[list[str], list[float]]] = {}
    for done, part in enumerate(parts):
        yield Progress(TRAINING_WITHOUT, done, len(parts), "rows")
        work = train(
            loaded, svf, part.train, part.validation, plan.reward, config,
            method=method, processes=processes,
        )  # fmt: skip
        try:
            flat = drain(work).flat
        except T2LocalError:
            flat = method.start()
        scored = score_greedy(
            loaded, method.holding(flat), part.held_out, plan.reward, config.max_new_tokens,
            processes,
        )  # fmt: skip
        found[part.held_out[0].group] = list(scored.answers), list(scored.rewards)
    answers, rewards = [], []
    for row in source.held_out:  # rows of one prompt come in their order
        answers.append(found[row.group][0].pop(0))
        rewards.append(found[row.group][1].pop(0))
    return Scored(answers, rewards)

"""From a dataset to an expert with its card: train, measure, write down.

The base model and the trained one answer the same held-out rows greedily, so the card's interval is
one of the paired difference. Where there are too few rows to set any aside, each is answered by an
expert that was trained on all the others (leave-one-out).
"""

import random
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from t2local import paths
from t2local.adapt.answering import (
    CHOICE,
    CHOICE_ROWS,
    action_of,
    are_preferences,
    check_sees,
    score_choices,
    sound,
)
from t2local.adapt.choosing import common_labels, fitted_temperature
from t2local.adapt.dispatch import LABELS, classification_prompt
from t2local.errors import T2LocalError
from t2local.experts.expert import CLASSIFIER, SKILL, Expert, HeldOut, stamped
from t2local.experts.prompt_print import FEWEST_PROMPTS, PromptPrint, print_of
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken, Progress, drain
from t2local.provenance import origin
from t2local.statistics import paired_difference
from t2local.svf import SVFModel, Z
from t2local.tasks.datasets import Dataset, dataset, folds, split_rows, with_prompts
from t2local.tasks.rewards import check_reward, parts_of
from t2local.tasks.rows import Example
from t2local.tasks.uploads import FEWEST_PROMPTS as FEWEST_TRAINED
from t2local.tasks.uploads import with_choices
from t2local.training.config import Method, SVFMethod, TrainConfig, method_for
from t2local.training.dry_run import check_lengths
from t2local.training.finding import printed_rows
from t2local.training.loop import Event, train
from t2local.training.preferences import Reference
from t2local.training.processes import Processes
from t2local.training.reports import (
    MEASURING_HELD_OUT,
    TAKING_PRINT,
    TRAINING_WITHOUT,
    Gain,
    TrainOutcome,
    TrainState,
)
from t2local.training.runs import Plan, Run
from t2local.training.validation import OtherTask, Scored, as_card, forgetting, score_greedy

FEWEST_CALIBRATING, MOST_CALIBRATING = 10, 160  # rows that tell how sure an expert may be


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
    start: Expert | None = None,
) -> Generator[Event | Gain | Progress, None, Trained]:
    """Train and measure; the events are those of `train`, `Gain` and `Progress`.

    `labels`: what its expert chooses among, empty where it writes. `state`: of a run that goes on.
    `others`: tasks on which forgetting is measured. `start`: the expert from whose `z` it goes on.
    Raises `T2LocalError` when there is nothing to learn from, or rows do not fit the context.
    """
    config = plan.config
    check_sees(loaded, source.train)
    check_lengths(loaded, source, config)
    method = method or method_for(loaded, svf, config)
    first, reference = first_numbers(method, start), Reference(loaded, svf)
    started = time.perf_counter()
    # The dry run comes first inside `train`; measuring waits until it has said yes.
    outcome = yield from train(
        loaded, svf, source.train, source.validation, plan.reward, config, cancel, state,
        method, processes, first, reference,
    )  # fmt: skip
    trained_s = time.perf_counter() - started
    measuring = Measuring(loaded, svf, source, plan, method, processes, first, reference)
    base, before, trained = yield from measuring.measured(outcome.flat)
    held_out = _held_out(base, trained, source.source)
    yield Gain(outcome.steps, held_out)
    forgotten = yield from forgetting(
        loaded, svf, method.holding(outcome.flat), others, _later(cancel, processes), processes
    )
    card = {
        **_learnt_from(source),
        "config": asdict(config),
        **_came_of(outcome),
        "seed": config.seed,
        "train_s": round(trained_s, 1),
        **_made_with(loaded, svf),
        "command": plan.command,
        "held_out": held_out.as_dict(),
        "held_out_reward": _held_out_reward(base, trained),
        "forgetting": as_card(forgotten),
        **_calibrated(loaded, method.holding(outcome.flat), source, labels),
        **_since(start, before, trained, source),
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


def _later(cancel: CancelToken | None, processes: Processes | None) -> CancelToken | None:
    """`cancel`, unless it ended the training already; several processes measure to the end."""
    alone = processes is None or processes.count == 1
    return cancel if alone and cancel is not None and not cancel.cancelled else None


def _learnt_from(source: Dataset) -> dict[str, Any]:
    """For a card: on which rows. `prefers`: each was a choice between whole answers."""
    return {
        "data": source.source,
        "data_sha256": source.sha256,
        "leave_one_out": source.leave_one_out,
        "rows": {"train": len(source.train), "validation": len(source.validation)},
        **({"prefers": True} if are_preferences(source.held_out) else {}),
    }


def first_numbers(method: Method, start: Expert | None) -> torch.Tensor | None:
    """Those of an expert, if any. Raises `T2LocalError` for a method that trains no `z`."""
    if start is None:
        return None
    if not isinstance(method, SVFMethod):
        raise T2LocalError(
            f"A LoRA adapter cannot go on from '{start.name}', which is a z; leave one of them out."
        )
    return method.flat(start.z)


def _came_of(outcome: TrainOutcome) -> dict[str, Any]:
    """For a card: how far a run went."""
    return {
        "numbers": outcome.flat.numel(),
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "curve": [round(value, 4) for value in outcome.curve],
    }


def _since(
    start: Expert | None, before: Scored | None, trained: Scored, source: Dataset
) -> dict[str, Any]:
    """For the card of an expert that another one went on to be, beside that one's own score."""
    if start is None or before is None:
        return {}
    return {"start": start.name, "since_start": _held_out(before, trained, source.source).as_dict()}


@dataclass(frozen=True)
class Measuring:
    """Greedy answers to held-out rows. `first`: the numbers that training began with, if any."""

    loaded: LoadedModel
    svf: SVFModel
    source: Dataset
    plan: Plan
    method: Method
    processes: Processes | None
    first: torch.Tensor | None
    reference: Reference

    def score(self, flat: torch.Tensor, rows: Sequence[Example]) -> Scored:
        budget, hold = self.plan.config.max_new_tokens, self.method.holding(flat)
        return score_greedy(
            self.loaded, hold, rows, self.plan.reward, budget, self.processes, self.reference
        )

    def measured(
        self, flat: torch.Tensor
    ) -> Generator[Progress, None, tuple[Scored, Scored | None, Scored]]:
        """By the base model, by what training began with if that is another, and by `flat`."""
        rows = self.source.held_out
        yield Progress(f"{MEASURING_HELD_OUT}: base", 0, 2, "models")
        base = self.score(self.method.start().to(flat.device), rows)
        before = None
        if self.first is not None:
            yield Progress(f"{MEASURING_HELD_OUT}: before", 0, 2, "models")
            before = self.score(self.first.to(flat.device), rows)
        if self.source.leave_one_out:
            return base, before, (yield from self.leave_one_out())
        yield Progress(f"{MEASURING_HELD_OUT}: trained", 1, 2, "models")
        return base, before, self.score(flat, rows)

    # Leave-one-out: each of a handful of rows is measured unseen.
    #
    # The expert that is kept is trained on all rows. For the measurement, one expert for each row
    # is trained in the same way on all the others and then thrown away: as many trainings as rows.

    def leave_one_out(self) -> Generator[Progress, None, Scored]:
        """Answers to every row by an expert that never saw it, in the order of the rows.

        A fold whose other rows can teach nothing is answered by what training begins with.
        """
        parts, plan = folds(self.source), self.plan
        found: dict[str, list[tuple[str, float, float]]] = {}
        for done, part in enumerate(parts):
            yield Progress(TRAINING_WITHOUT, done, len(parts), "rows")
            work = train(
                self.loaded, self.svf, part.train, part.validation, plan.reward, plan.config,
                method=self.method, processes=self.processes, start=self.first,
                reference=self.reference,
            )  # fmt: skip
            try:
                flat = drain(work).flat
            except T2LocalError:
                flat = self.method.start() if self.first is None else self.first
            scored = self.score(flat, part.held_out)
            rows = zip(scored.answers, scored.rewards, scored.right, strict=True)
            found[part.held_out[0].group] = list(rows)
        # Rows of one prompt come in their order.
        answers, rewards, right = zip(
            *(found[row.group].pop(0) for row in self.source.held_out), strict=True
        )
        return Scored(answers, rewards, right)


def _held_out(base: Scored, trained: Scored, task: str) -> HeldOut:
    _, low, high = paired_difference(base.right, trained.right)
    return HeldOut(len(base.right), base.accuracy, trained.accuracy, (low, high), task)


def _held_out_reward(base: Scored, trained: Scored) -> dict[str, Any]:
    _, *interval = paired_difference(base.rewards, trained.rewards)
    return {"base": base.mean, "trained": trained.mean, "ci95_difference": interval}


def dataset_of(plan: Plan) -> tuple[Dataset, tuple[str, ...]]:
    """A run's examples, and the labels where its expert chooses among some. `T2LocalError`."""
    source = rows_for(plan.source, plan.reward, plan.config)
    if plan.start_run:
        source = unseen(source, plan)
    if plan.replays:
        again = replayed_rows(source, plan.start_run, plan.config.seed)
        source = replace(source, train=[*source.train, *again])
    check_reward(plan.reward, [*source.train, *source.held_out])
    if not plan.classifier:
        return source, labels_of(source.rows)
    return with_prompts(source, classification_prompt), LABELS


def rows_for(source: str, reward: str, config: TrainConfig) -> Dataset:
    """A file's or a dataset's rows as a run with this reward sees them. `T2LocalError`."""
    found = dataset(source, config.seed, config.held_out_share)
    chooses = CHOICE in {name for _, name in parts_of(reward)}
    return _listing_choices(found) if chooses else found


def unseen(source: Dataset, plan: Plan) -> Dataset:
    """With no row among those that are measured which the plan's start has learnt from already.

    Where there are such, the rows that it has not seen are divided anew, and the others are learnt.
    Raises `T2LocalError` where they are too few.
    """
    known = groups_seen(plan.start_run)
    measured = () if source.leave_one_out else (*source.validation, *source.held_out)
    if not known & {e.group for e in measured or source.rows}:
        return source
    seen = [e for e in source.rows if e.group in known]
    fresh = [e for e in source.rows if e.group not in known]
    if len({e.group for e in fresh}) < FEWEST_TRAINED:
        raise T2LocalError(
            f"All but {len(fresh)} rows were learnt by '{plan.start}' already, and nothing can be "
            f"measured on those; add at least {FEWEST_TRAINED} new questions."
        )
    config = plan.config
    parts = split_rows(source.source, fresh, config.seed, config.held_out_share)
    return replace(parts, train=[*parts.train, *seen], note=source.note)


def groups_seen(run: str) -> set[str]:
    """What a run's expert has learnt from or was chosen by, and those that it went on from."""
    plan = Run(paths.runs_dir() / paths.slug(run)).plan()
    rows, _ = dataset_of(plan)
    own = {e.group for e in (*rows.train, *rows.validation)}
    return own | (groups_seen(plan.start_run) if plan.start_run else set())


def replayed_rows(source: Dataset, run: str, seed: int = 0) -> list[Example]:
    """Rows that an earlier run learnt from, at most as many as there are in `source`.

    None that is measured here: what was held out then is not learnt, what is held out now neither.
    """
    before, _ = dataset_of(Run(paths.runs_dir() / paths.slug(run)).plan())
    apart = {e.group for e in source.rows}  # measured here, or learnt here in any case
    known = [e for e in before.train if e.group not in apart]
    return random.Random(seed).sample(known, min(len(known), len(source.train)))


def labels_of(rows: Sequence[Example]) -> tuple[str, ...]:
    """What an expert chooses among that is trained on `rows`; () where it writes."""
    if action_of(rows) != CHOICE:
        return ()
    return common_labels([[str(choice) for choice in row.columns["choices"]] for row in rows])


@torch.no_grad()
def _calibrated(
    loaded: LoadedModel, around: Around, source: Dataset, labels: tuple[str, ...]
) -> dict[str, float]:
    """For the card of an expert that chooses: at which temperature its probabilities are honest.

    By rows that it has not learnt from; nothing is said where there are too few.
    """
    rows = [] if source.leave_one_out else [*source.validation, *source.held_out]
    rows = [row for row in rows if row.answer in labels][:MOST_CALIBRATING]
    if len(rows) < FEWEST_CALIBRATING:
        return {}
    scores: list[torch.Tensor] = []
    for first in range(0, len(rows), CHOICE_ROWS):
        part = [
            replace(row, columns={**row.columns, "choices": list(labels)})
            for row in rows[first : first + CHOICE_ROWS]
        ]
        with around():
            scores += [found.float().cpu() for found in score_choices(loaded, part)]
    kept = [
        (found, labels.index(row.answer))
        for found, row in zip(scores, rows, strict=True)
        if bool(sound(found))
    ]
    if len(kept) < FEWEST_CALIBRATING:
        return {}
    return {"label_temperature": fitted_temperature(*zip(*kept, strict=True))}


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

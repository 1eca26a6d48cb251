"""An evaluation: every variant on every task, batch by batch, as a generator of typed events.

Each scored prompt is on disk before it is told (`records`), and batches are laid out by the
questions alone. So a run that was cancelled or cut off goes on where it was, asks no prompt twice
and ends in the same numbers.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from t2local.adapt.answering import (
    CHOICE,
    NOT_FINITE,
    TEXT,
    Answer,
    answer_batch,
    batches,
    check_sees,
    choices_of,
    prompt_ids,
)
from t2local.adapt.dispatch import Dispatch
from t2local.errors import T2LocalError
from t2local.evaluation.questions import LIKELIHOOD, Question, QuestionSet, judge, right_answer
from t2local.evaluation.tally import Evaluation, Record, RecordFile, key_of, summary
from t2local.evaluation.variants import Subject, Variant
from t2local.models.decode.generate import Around, AroundRows
from t2local.progress import CancelToken
from t2local.tasks.benchmarks import overlapping

BLIND = "easy_vqa"  # has pictures and may be asked without: no expert comes near it


@dataclass(frozen=True)
class Scored:
    """`done` of `total` prompts of a task, `correct` of them right, under a variant.

    `strategy`: the variant's name.
    `records`: those that are new since the last event; on the first event, what was on disk.
    """

    task: str
    strategy: str
    done: int
    total: int
    correct: int
    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.done <= self.total:
            raise ValueError(f"{self.correct} right of {self.done}, of {self.total}")


@dataclass(frozen=True)
class RowFailed:
    """A variant that cannot be measured on a task; the run goes on."""

    task: str
    strategy: str
    reason: str


Event = Scored | RowFailed


def evaluate(
    subject: Subject,
    tasks: Sequence[QuestionSet],
    variants: Sequence[Variant],
    oracle: bool = False,
    max_new_tokens: int | None = None,
    cancel: CancelToken | None = None,
) -> Generator[Event, None, Evaluation]:
    """Events as they come, the `Evaluation` in the end.

    `max_new_tokens`: instead of each task's own. `oracle`: also the best of base and single experts
    a prompt. Raises `Cancelled`; `T2LocalError` where a variant was chosen by prompts that are
    to be scored, or a file's rows have pictures that the model cannot see, before anything is.
    """
    refuse_overlap(tasks, variants)
    for task in tasks:
        if task.name != BLIND:
            check_sees(subject.loaded, [question.example for question in task.questions])
    records: dict[tuple[str, str], dict[int, Record]] = {}
    failed: dict[tuple[str, str], str] = {}
    for task in tasks:
        for variant in variants:
            cell = (task.name, variant.name)
            found = yield from _cell(subject, task, variant, max_new_tokens, cancel)
            if isinstance(found, str):
                failed[cell] = found
            else:
                records[cell] = found
    return summary(subject, tasks, variants, records, failed, oracle)


def refuse_overlap(tasks: Sequence[QuestionSet], variants: Sequence[Variant]) -> None:
    """Raise `T2LocalError` where a mixture was found on prompts that are to be scored."""
    for variant in variants:
        for task in tasks:
            shared = overlapping([q.example for q in task.questions], variant.shots)
            if shared:
                raise T2LocalError(
                    f"'{variant.name}' was found from {len(shared)} of the prompts of "
                    f"'{task.name}' that are to be scored (the first: '{shared[0].prompt[:60]}'); "
                    "find a mixture from other examples, or score other rows."
                )


def _cell(
    subject: Subject,
    task: QuestionSet,
    variant: Variant,
    max_new_tokens: int | None,
    cancel: CancelToken | None,
) -> Generator[Event, None, dict[int, Record] | str]:
    """One variant on one task: its records, or why there are none."""
    if reason := _unusable(subject, variant):
        yield RowFailed(task.name, variant.name, reason)
        return reason
    budget = max_new_tokens or task.max_new_tokens
    key = key_of(subject.model_key(), task.sha256(), budget, variant.key)
    file = RecordFile.of(key)
    known = {i: r for i, r in file.read().items() if 0 <= i < len(task.questions)}
    yield _scored(task, variant, known, tuple(known.values()))
    held: Around | None = None
    for places in batches([q.user for q in task.questions], _action(task)):
        missing = [i for i in places if i not in known]
        if not missing:
            continue
        if cancel is not None:
            cancel.raise_if_cancelled()
        held = held or variant.hold()
        batch = _answered(subject, task, variant, places, held, budget, cancel)
        new = tuple(record for record in batch if record.index in missing)
        file.append(new)
        known |= {record.index: record for record in new}
        yield _scored(task, variant, known, new)
    if all(record.failed for record in known.values()):
        reason = next(iter(known.values())).failed
        yield RowFailed(task.name, variant.name, reason)
        return reason
    return known


def _unusable(subject: Subject, variant: Variant) -> str:
    broken = subject.broken(variant.needed)
    return f"the expert '{broken}' is not made of finite numbers" if broken else ""


def _scored(
    task: QuestionSet, variant: Variant, known: Mapping[int, Record], new: tuple[Record, ...]
) -> Scored:
    right = sum(record.right for record in known.values())
    return Scored(task.name, variant.name, len(known), len(task.questions), right, new)


def _answered(
    subject: Subject,
    task: QuestionSet,
    variant: Variant,
    places: Sequence[int],
    held: Around | None,
    budget: int,
    cancel: CancelToken | None,
) -> list[Record]:
    """Both passes for one batch."""
    questions = [task.questions[i] for i in places]
    started = time.perf_counter()
    decisions = variant.decide([q.example.prompt for q in questions])
    first = time.perf_counter() - started if held is None else 0.0
    started = time.perf_counter()
    given = _under(subject, task, questions, decisions, held, budget, cancel)
    second = time.perf_counter() - started
    right = judge(task.verdict, questions, [answer.text for answer in given])
    share = 1 / len(places)
    return [
        Record(
            i, q.user, a.text, right_answer(task.verdict, q), r and not a.failed,
            dict(d.mixture.alpha), d.chosen, dict(d.probabilities), first * share, second * share,
            a.tokens, a.failed,
        )
        for i, q, d, a, r in zip(places, questions, decisions, given, right, strict=True)
    ]  # fmt: skip


def _under(
    subject: Subject,
    task: QuestionSet,
    questions: Sequence[Question],
    decisions: Sequence[Dispatch],
    held: Around | None,
    budget: int,
    cancel: CancelToken | None,
) -> list[Answer]:
    """Answers under what is held, or under each prompt's own mixture as a row of z."""
    if held is not None:
        return _answers(subject, task, questions, budget, cancel, held)
    sound = [i for i, d in enumerate(decisions) if not subject.broken(d.mixture)]
    given = [Answer(failed=NOT_FINITE)] * len(questions)
    if sound:
        z = subject.rows([decisions[i].mixture for i in sound])
        part = [questions[i] for i in sound]

        def rows(kept: Sequence[int]) -> AbstractContextManager:
            return subject.svf.using({name: row[list(kept)] for name, row in z.items()})

        own = partial(subject.svf.using, z)
        found = _answers(subject, task, part, budget, cancel, own, rows)
        for i, answer in zip(sound, found, strict=True):
            given[i] = answer
    return given


def _answers(
    subject: Subject,
    task: QuestionSet,
    questions: Sequence[Question],
    budget: int,
    cancel: CancelToken | None,
    around: Around,
    around_rows: AroundRows | None = None,
) -> list[Answer]:
    loaded, chooses = subject.loaded, _action(task) == CHOICE
    prompts = [prompt_ids(loaded, q.example, q.user, q.system, q.prefill) for q in questions]
    choices = [choices_of(loaded, q.example) for q in questions] if chooses else None
    return answer_batch(
        loaded, prompts, choices, budget, cancel, around=around, around_rows=around_rows
    )


def _action(task: QuestionSet) -> str:
    return CHOICE if task.verdict == LIKELIHOOD else TEXT

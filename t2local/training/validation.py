"""What the trained numbers are worth: greedy answers to validation rows, and forgetting.

Forgetting is measured on tasks that the expert was not trained on. The base model and the trained
one answer the same rows, so the interval is one of the paired difference. The expert is measured
alone at full strength, the hardest case: mixed into an answer it weighs less. Departure from the
paper, which does not measure forgetting.
"""

import contextlib
import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.adapt.answering import (
    CHOICE,
    action_of,
    answer_examples,
    are_preferences,
    choice_tokens,
)
from t2local.errors import Cancelled, T2LocalError
from t2local.experts import HeldOut
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken, Progress
from t2local.statistics import paired_difference
from t2local.svf import SVFModel
from t2local.tasks.files import content_hash
from t2local.tasks.rewards import rewards_of
from t2local.tasks.rows import Example
from t2local.training.preferences import Reference, rise
from t2local.training.processes import Processes
from t2local.training.reports import MEASURING_FORGOTTEN, Validation
from t2local.untrusted import read_document, typed

ROWS_AT_ONCE = 8  # choices; others who share the model wait for one forward of so many rows
SCORING = 1  # raise it when the way answers are scored changes: what is remembered then is void
BEGINNING_TOKENS = 48  # of written answers that are only looked at
MOST_KEPT = 500  # entries of what is remembered


@dataclass(frozen=True)
class Scored:
    """Greedy answers and their rewards, in the order of the rows."""

    answers: Sequence[str]
    rewards: Sequence[float]
    judged: Sequence[float] = ()  # how right each is, where rewards do not say it

    @property
    def right(self) -> list[float]:
        """1.0 where the reward is full, else 0.0."""
        return list(self.judged) or [float(reward >= 1) for reward in self.rewards]

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.rewards)

    @property
    def mean(self) -> float:
        return sum(self.rewards) / len(self.rewards)

    def as_validation(self, step: int, best: Validation | None) -> Validation:
        """Best by accuracy, then by reward."""
        better = best is None or (self.accuracy, self.mean) > (best.accuracy, best.reward)
        return Validation(step, self.accuracy, self.mean, len(self.rewards), better)


def score_greedy(
    loaded: LoadedModel,
    around: Around,
    rows: Sequence[Example],
    reward: str,
    max_new_tokens: int,
    processes: Processes | None = None,
    reference: Reference | None = None,
) -> Scored:
    """Greedy answers under what `around` puts in force.

    Rows that cannot be scored, and those on which the model failed, count −1. `reference`: whole
    answers are judged by whether the right one rose above the base model's odds (`preferences`).
    """
    processes = processes or Processes()
    if reference is not None and are_preferences(rows):
        return _score_preferences(loaded, around, rows, processes, reference)

    def score(part: Sequence[Example]) -> list[tuple[str, float]]:
        answers = answer_examples(loaded, part, max_new_tokens, around=around)
        rewards = rewards_of(reward, part, [answer.text for answer in answers])
        return [
            (answer.text, -1.0 if r is None or answer.failed else r)
            for answer, r in zip(answers, rewards, strict=True)
        ]

    answers, rewards = zip(*processes.each(score, rows), strict=True)
    return Scored(answers, rewards)


def said_to(
    loaded: LoadedModel,
    around: Around,
    rows: Sequence[Example],
    reward: str,
    max_new_tokens: int,
) -> tuple[str, ...]:
    """What a person is shown: greedy answers, or how they begin where whole ones are compared."""
    if are_preferences(rows):
        rows = [replace(row, written=True) for row in rows]
        max_new_tokens = min(max_new_tokens, BEGINNING_TOKENS)
    return tuple(score_greedy(loaded, around, rows, reward, max_new_tokens).answers)


def _score_preferences(
    loaded: LoadedModel,
    around: Around,
    rows: Sequence[Example],
    processes: Processes,
    reference: Reference,
) -> Scored:
    def score(part: Sequence[Example]) -> list[tuple[float, float]]:
        return list(zip(*rise(loaded, around, reference, part), strict=True))

    rises, heights = zip(*processes.each(score, rows), strict=True)
    chosen = [e.answer if up == 1.0 else "" for e, up in zip(rows, rises, strict=True)]
    return Scored(chosen, heights, rises)


# --- Forgetting.


@dataclass(frozen=True)
class OtherTask:
    """Rows of a task that an expert was not trained on, and how they are scored."""

    name: str
    rows: tuple[Example, ...]
    reward: str = "choice"
    max_new_tokens: int = 96


@dataclass(frozen=True)
class Forgetting:
    """Accuracy on another task's `n` rows, 0 to 1, before and after training.

    `ci95_difference`: the 95 % interval of `trained − base`, paired.
    """

    task: str
    n: int
    base: float
    trained: float
    ci95_difference: tuple[float, float]


def forgetting(
    loaded: LoadedModel,
    svf: SVFModel,
    around: Around,
    tasks: Sequence[OtherTask],
    cancel: CancelToken | None = None,
    processes: Processes | None = None,
) -> Generator[Progress, None, tuple[Forgetting, ...]]:
    """Each of `tasks` under what `around` puts in force, beside the base model. Deterministic.

    Cancelled, it returns those measured in full until then. Raises `T2LocalError` where a reward
    cannot be computed on its rows.
    """
    processes = processes or Processes()
    measured = []
    with contextlib.suppress(Cancelled):
        for done, task in enumerate(tasks):
            yield Progress(f"{MEASURING_FORGOTTEN}: {task.name}", done, len(tasks), "tasks")
            base = _base(loaded, svf, task, cancel, processes)
            trained = _right(loaded, around, task, cancel, processes)
            measured.append(_compared(task.name, base, trained))
    return tuple(measured)


def base_known(loaded: LoadedModel, svf: SVFModel, task: OtherTask) -> bool:
    """Whether the base model's part is remembered from an earlier run."""
    return recall(_key(loaded, svf, task), len(task.rows)) is not None


def as_card(results: Sequence[Forgetting]) -> list[dict[str, Any]]:
    """What an expert's card says under `forgetting`."""
    return [asdict(r) | {"ci95_difference": list(r.ci95_difference)} for r in results]


def in_words(result: Forgetting | HeldOut) -> str:
    """One line for a person: "math: 42 % → 40 % of 60, no proven change".

    >>> in_words(Forgetting("math", 60, 0.5, 0.3, (-0.3, -0.1)))
    'math: 50 % → 30 % of 60, worse'
    """
    low, high = result.ci95_difference
    change = "worse" if high < 0 else "better" if low > 0 else "no proven change"
    return (
        f"{result.task}: {100 * result.base:.0f} % → {100 * result.trained:.0f} % "
        f"of {result.n}, {change}"
    )


def _compared(task: str, base: Sequence[float], trained: Sequence[float]) -> Forgetting:
    n = len(base)
    _, low, high = paired_difference(base, trained)
    return Forgetting(task, n, sum(base) / n, sum(trained) / n, (low, high))


def _key(loaded: LoadedModel, svf: SVFModel, task: OtherTask) -> str:
    return scores_key(loaded, svf, task.rows, task.reward, task.max_new_tokens)


def _base(
    loaded: LoadedModel,
    svf: SVFModel,
    task: OtherTask,
    cancel: CancelToken | None,
    processes: Processes,
) -> list[float]:
    key = _key(loaded, svf, task)
    # All processes must agree on whether there is something to compute together.
    right = processes.from_main(recall(key, len(task.rows)))
    if right is None:
        right = _right(loaded, lambda: svf.using({}), task, cancel, processes)
        if processes.is_main:
            remember(key, right)
    return right


def _right(
    loaded: LoadedModel,
    around: Around,
    task: OtherTask,
    cancel: CancelToken | None,
    processes: Processes,
) -> list[float]:
    """1.0 where the answer earns the full reward, in the order of the rows."""
    order, at_once = list(range(len(task.rows))), len(task.rows)
    if action_of(task.rows) == CHOICE:
        order.sort(key=lambda i: choice_tokens(loaded, task.rows[i]))  # little padding
        at_once = ROWS_AT_ONCE * processes.count
    right = [0.0] * len(task.rows)
    for start in range(0, len(order), at_once):
        if cancel is not None:
            cancel.raise_if_cancelled()
        places = order[start : start + at_once]
        part = [task.rows[i] for i in places]
        scored = score_greedy(loaded, around, part, task.reward, task.max_new_tokens, processes)
        for i, value in zip(places, scored.right, strict=True):
            right[i] = value
    return right


# --- The base model's answers are remembered: it answers the same rows alike in every run.
#
# One small JSON file in the user's home, a line of 0s and 1s for each model and set of rows. It
# only saves time: where it is missing, damaged or cannot be written, the rows are answered again.


def scores_path() -> Path:
    return paths.home() / "base_scores.json"


def scores_key(
    loaded: LoadedModel, svf: SVFModel, rows: tuple[Example, ...], reward: str, max_new_tokens: int
) -> str:
    """Equal only where the base model would give the same answers with the same rewards."""
    parts = (
        SCORING, loaded.name, svf.fingerprint(), loaded.quantization, str(loaded.dtype),
        str(loaded.device), content_hash(rows), reward, max_new_tokens,
    )  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def recall(name: str, n: int) -> list[float] | None:
    """1.0 where the base model was right, of `n` rows; None where that is not known."""
    marks = _read().get(name)
    if not isinstance(marks, str) or len(marks) != n or set(marks) - {"0", "1"}:
        return None
    return [float(mark) for mark in marks]


def remember(name: str, right: list[float]) -> None:
    """Write it down, dropping the oldest beyond `MOST_KEPT`."""
    known = _read()
    known[name] = "".join("1" if r else "0" for r in right)
    newest = dict(list(known.items())[-MOST_KEPT:])
    try:
        with paths.atomic_write(scores_path()) as temporary:
            temporary.write_text(json.dumps(newest, indent=1), encoding="utf-8")
    except T2LocalError:
        return  # a full disk costs the next run a minute, and must not cost this one its expert


def _read() -> dict[str, str]:
    try:
        return typed(dict[str, str], read_document(scores_path()))
    except (OSError, ValueError):
        return {}

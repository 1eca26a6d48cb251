"""Forgetting: what a trained expert does to tasks it was not trained on.

The same rows are answered greedily by the base model and under the trained numbers, so the interval
is one of the paired difference. The base model's part is remembered (`training.base_scores`). An
expert alone at full strength is measured, the hardest case: mixed into an answer it weighs less.
Departure from the paper, which does not measure it. Knows nothing of where the tasks come from.
"""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from t2local.adapt.answering import CHOICE, action_of, choice_tokens
from t2local.errors import Cancelled
from t2local.experts import HeldOut
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken, Progress
from t2local.statistics import paired_difference
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training import base_scores
from t2local.training.processes import Processes
from t2local.training.reports import MEASURING_FORGOTTEN
from t2local.training.validation import score_greedy

ROWS_AT_ONCE = 8  # choices; others who share the model wait for one forward of so many rows


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
    return base_scores.recall(_key(loaded, svf, task), len(task.rows)) is not None


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
    return base_scores.key(loaded, svf, task.rows, task.reward, task.max_new_tokens)


def _base(
    loaded: LoadedModel,
    svf: SVFModel,
    task: OtherTask,
    cancel: CancelToken | None,
    processes: Processes,
) -> list[float]:
    key = _key(loaded, svf, task)
    # All processes must agree on whether there is something to compute together.
    right = processes.from_main(base_scores.recall(key, len(task.rows)))
    if right is None:
        right = _right(loaded, lambda: svf.using({}), task, cancel, processes)
        if processes.is_main:
            base_scores.remember(key, right)
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

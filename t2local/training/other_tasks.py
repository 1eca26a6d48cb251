"""Which tasks an expert may have forgotten: those of the shipped experts and of the user's own.

For shipped experts the probe questions of `tasks.probes`; for earlier experts of the user's the
held-out rows of the run that made them, as long as its data is still on disk and unchanged.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

from t2local import paths
from t2local.adapt.answering import CHOICE, action_of
from t2local.adapt.dispatch import classification_prompt
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore
from t2local.tasks.datasets import DECIDING, Curriculum, probes
from t2local.tasks.rows import Example
from t2local.training.forgetting import OtherTask
from t2local.training.recipe import lessons
from t2local.training.runs import Run

MOST_CHOICES, MOST_TEXTS = 60, 16  # rows of an earlier expert; writing is slow
FEWEST_ROWS = 4  # fewer say nothing
MOST_EXPERTS = 4  # of the user's own, the newest ones


def other_tasks(own: str, source: Curriculum, model_slug: str) -> tuple[OtherTask, ...]:
    """The tasks of all experts but `own`, without rows that `source` holds.

    A user's expert of a shipped one's name stands in its place. Raises `T2LocalError` where the
    project's own questions are damaged; a run that cannot be read is passed over.
    """
    tasks = {name: OtherTask(name, rows) for name, rows in _shipped().items()}
    tasks |= {task.name: task for task in _earlier(own, source, model_slug)}
    return tuple(task for name, task in tasks.items() if name != own)


def _shipped() -> dict[str, tuple[Example, ...]]:
    """The probes as the model is asked them: the classifier's in the question of pass 1."""
    sets = probes()
    asked = [replace(e, prompt=classification_prompt(e.prompt)) for e in sets[DECIDING]]
    return sets | {DECIDING: tuple(asked)}


def _earlier(own: str, source: Curriculum, model_slug: str) -> list[OtherTask]:
    """Tasks of the user's newest experts for this model, oldest first."""
    files = ExpertStore(model_slug).files()
    mine = {f.expert.name: f.expert for f in files if f.expert and not f.shipped}
    mine.pop(own, None)
    taken = {e.key for e in (*source.train, *source.validation, *source.held_out)}
    found: dict[str, OtherTask] = {}
    for run in _newest_first():
        if len(found) == MOST_EXPERTS:
            break
        try:
            plan = run.plan()
            if plan.name in found or plan.name not in mine:
                continue
            rows, _ = lessons(plan)
        except T2LocalError:
            continue  # its data was moved or spoilt since
        if rows.sha256 != mine[plan.name].training.get("data_sha256"):
            continue  # other rows than it was trained on: what was held out then is not known
        fresh = [e for e in rows.held_out if e.key not in taken]
        most = MOST_CHOICES if action_of(fresh) == CHOICE else MOST_TEXTS
        chosen = random.Random(0).sample(fresh, min(most, len(fresh)))
        if len(chosen) >= FEWEST_ROWS:
            budget = plan.config.max_new_tokens
            found[plan.name] = OtherTask(plan.name, tuple(chosen), plan.reward, budget)
    return list(found.values())[::-1]


def _newest_first() -> Iterator[Run]:
    for path in sorted(paths.runs_dir().glob("*/run.json"), reverse=True):
        run = Run(path.parent)
        if run.finished:
            yield run

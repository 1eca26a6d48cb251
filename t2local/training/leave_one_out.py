"""Leave-one-out: what training is worth on a handful of rows, each measured unseen.

The expert that is kept is trained on all rows; for the measurement an expert a row is trained in
the same way on all the others, and thrown away. It takes as many trainings as there are rows.
"""

from collections.abc import Generator

from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel
from t2local.progress import Progress, drain
from t2local.svf import SVFModel
from t2local.tasks.datasets import Curriculum, folds
from t2local.training.loop import train
from t2local.training.methods import Method
from t2local.training.processes import Processes
from t2local.training.reports import TRAINING_WITHOUT
from t2local.training.runs import Plan
from t2local.training.validation import Scored, score_greedy


def leave_one_out(
    loaded: LoadedModel,
    svf: SVFModel,
    source: Curriculum,
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

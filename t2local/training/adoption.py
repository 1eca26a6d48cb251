"""Under which name a finished run's expert is kept, where another has taken its name meanwhile.

A run may be cut off and resumed days later: the user may have given its name to another expert
since. Both are kept. An expert that this very run left (killed before it was over) is replaced, and
a shipped expert's name is free: the user's own stands before it.
"""

from dataclasses import replace

from t2local.experts import Expert, ExpertStore
from t2local.experts.expert import free_name, is_taken

RUN = "run"  # on the card: the run's folder


def to_keep(expert: Expert, run: str, model_slug: str) -> Expert:
    """The expert with its run on its card, under its own name or a free one."""
    expert = replace(expert, training={**expert.training, RUN: run})
    files = ExpertStore(model_slug).files()
    others = [f.path.stem for f in files if not f.shipped and not _left_by(run, f.expert)]
    if not is_taken(expert.name, others):
        return expert
    return replace(expert, name=free_name(expert.name, [f.path.stem for f in files]))


def _left_by(run: str, expert: Expert | None) -> bool:
    return expert is not None and expert.training.get(RUN) == run

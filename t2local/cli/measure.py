"""An expert's accuracy beside the base model's, for commands that bring an expert from elsewhere.

The rows of a file, or the held-out rows of a curriculum; answers are greedy, the interval paired.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from t2local.adapt.mixer import holding
from t2local.cli.common import log
from t2local.errors import T2LocalError
from t2local.experts import Expert, HeldOut
from t2local.models.load.loader import LoadedModel
from t2local.statistics import paired_difference
from t2local.svf import SVFModel
from t2local.tasks.datasets import CURRICULA, curriculum
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example
from t2local.training.validation import score_greedy


def add_measure_arguments(parser: argparse.ArgumentParser) -> None:
    """`--data`, `--reward`, `--limit` and `--max-new-tokens`: measure before and after."""
    named = ", ".join(CURRICULA)
    parser.add_argument("--data", metavar="FILE", help=f"measure on it: a file, or {named}")
    parser.add_argument("--reward", metavar="NAME", help="how answers to --data are scored")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N rows only")
    parser.add_argument("--max-new-tokens", type=int, default=128)


def rows_to_measure(arguments: argparse.Namespace) -> Sequence[Example]:
    """The rows that `--data` names, none without it. Raises `T2LocalError` for a bad file."""
    if not arguments.data:
        return ()
    if not arguments.reward:
        raise T2LocalError("--data needs --reward, such as choice, numeric or exact.")
    if arguments.data in CURRICULA:
        rows = curriculum(arguments.data).held_out
    else:
        file = read_examples(Path(arguments.data).expanduser())
        if file.bad_rows:
            row, reason = file.bad_rows[0]
            raise T2LocalError(
                f"'{arguments.data}' has {len(file.bad_rows)} bad rows, the first is row {row} "
                f"({reason}); mend or remove them and start again."
            )
        rows = file.examples
    if arguments.limit is not None and arguments.limit < 1:
        raise T2LocalError(f"--limit is {arguments.limit}; it must be 1 or more.")
    return rows[: arguments.limit]


def measured(
    loaded: LoadedModel,
    svf: SVFModel,
    expert: Expert,
    rows: Sequence[Example],
    arguments: argparse.Namespace,
) -> HeldOut:
    """Accuracy of base model and expert on the same rows."""
    right, sigma = [], svf.singular_values
    on_device = {name: row.to(sigma[name].device) for name, row in expert.z.items()}
    for stage, z in (("base", {}), (expert.name, on_device)):
        log(f"measuring {stage} on {len(rows)} rows")
        around = holding(loaded, svf, z)
        scored = score_greedy(loaded, around, rows, arguments.reward, arguments.max_new_tokens)
        right.append(scored.right)
    base, own = right
    _, low, high = paired_difference(base, own)
    n = len(rows)
    return HeldOut(n, sum(base) / n, sum(own) / n, (low, high), Path(arguments.data).name)

"""What an expert is trained, validated and measured on: three disjoint sets of examples.

Either a curriculum by name, built from benchmark files (`T2LOCAL_DATA`), or a user's own file.
Held-out rows are never used for a choice during training: validation picks the checkpoint, held-out
only measures. Pure functions of files and a seed.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from t2local.errors import T2LocalError
from t2local.tasks.arithmetic import arithmetic_choices
from t2local.tasks.benchmarks import load_task, show_first_test
from t2local.tasks.examples import Example
from t2local.tasks.splits import split_held_out
from t2local.tasks.topics import HELD_OUT, topic_labels
from t2local.tasks.uploads import read_upload

HELD_OUT_ROWS = 300
VALIDATION_SHARE = 0.15
HELD_OUT_SHARE = 0.25
ENOUGH_PROMPTS = 10  # with fewer, each row is held out in turn


@dataclass(frozen=True)
class Curriculum:
    """Disjoint `train`, `validation` and `held_out` rows. `source`: what a card says of them.

    `leave_one_out`: there are too few rows to set any aside, so all three are the same; each row is
    to be measured by an expert of `folds`, which never saw it. `note`: what a person should know
    of how the file was read, "" for nothing.
    """

    source: str
    train: Sequence[Example]
    validation: Sequence[Example]
    held_out: Sequence[Example]
    leave_one_out: bool = False
    note: str = ""

    @property
    def sha256(self) -> str:
        """A hash of all prompts and answers in order: says on which rows an expert was trained."""
        rows = [
            [(e.key, e.answer) for e in part]
            for part in (self.train, self.validation, self.held_out)
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def curriculum(source: str, seed: int = 0, held_out_share: float = HELD_OUT_SHARE) -> Curriculum:
    """The examples that `source` names: a curriculum or a file of the user's.

    `held_out_share`: of a file's rows; curricula by name have their own held-out rows.
    Raises `T2LocalError` for a name that is neither, for missing benchmark files, bad rows, or
    fewer than 5 examples.
    """
    if source in CURRICULA:
        return CURRICULA[source](seed)
    path = Path(source).expanduser()
    if not path.exists():
        raise T2LocalError(
            f"'{source}' is neither a file nor a curriculum; "
            "give a CSV, TSV, JSON, JSONL, Parquet or spreadsheet file (.xlsx, .xls, .ods), "
            f"or one of {', '.join(CURRICULA)}."
        )
    file = read_upload(path)
    if file.bad_rows:
        row, reason = file.bad_rows[0]
        raise T2LocalError(
            f"'{path.name}' has {len(file.bad_rows)} bad rows, the first is row {row} ({reason}); "
            "mend or remove them and start again."
        )
    different = len({e.group for e in file.examples})
    if different < 5:
        raise T2LocalError(
            f"'{path.name}' holds {different} different prompts; training needs at least 5."
        )
    return replace(split_rows(path.name, file.examples, seed, held_out_share), note=file.note)


def split_rows(
    source: str,
    examples: Sequence[Example],
    seed: int = 0,
    held_out_share: float = HELD_OUT_SHARE,
) -> Curriculum:
    """A person's rows in three: a share is held out, a part of the rest validates.

    Fewer than 10 different prompts are not divided: see `Curriculum.leave_one_out`.
    """
    if len({e.group for e in examples}) < ENOUGH_PROMPTS:
        rows = list(examples)
        return Curriculum(source, rows, rows, rows, leave_one_out=True)
    rest, held_out = split_held_out(examples, held_out_share, seed, at_least=2)
    train, validation = split_held_out(rest, VALIDATION_SHARE, seed)
    return Curriculum(source, train, validation, held_out)


def folds(source: Curriculum) -> list[Curriculum]:
    """One curriculum a prompt: its rows are held out, all others train and validate."""
    parts = []
    for group in dict.fromkeys(e.group for e in source.held_out):
        rest = [e for e in source.train if e.group != group]
        held_out = [e for e in source.held_out if e.group == group]
        parts.append(replace(source, train=rest, validation=rest, held_out=held_out))
    return parts


def _arc_easy(seed: int) -> Curriculum:
    held_out = _sample(load_task("arc_easy", "test"), HELD_OUT_ROWS, seed)
    return Curriculum(
        "ARC-Easy, answers scored by likelihood",
        load_task("arc_easy", "train"),
        _sample(load_task("arc_easy", "validation"), 100, seed),
        held_out,
    )


def _svamp_equations(seed: int) -> Curriculum:
    """SVAMP as a choice: which of four true equations answers the problem?"""
    rows = [c for e in load_task("svamp", "train") if (c := arithmetic_choices(e))]
    held_out = [c for e in load_task("svamp", "test") if (c := arithmetic_choices(e))]
    train, validation = split_held_out(rows, VALIDATION_SHARE, seed)
    return Curriculum(
        "SVAMP, the right equation among wrong ones", train, validation, held_out[:HELD_OUT_ROWS]
    )


def _mbpp(seed: int) -> Curriculum:
    """MBPP as its authors prompt it, with the first test shown; held out: MBPP's test split."""
    train, validation, held_out = (
        [show_first_test(e) for e in load_task("mbpp", split)]
        for split in ("train", "validation", "test")
    )
    prompts = {e.prompt for e in (*train, *validation)}
    fresh = [e for e in held_out if e.prompt not in prompts]
    return Curriculum(
        "MBPP, programs run against their tests",
        [e for e in train if len(e.answer) < 400],
        _sample(validation, 48, seed),
        _sample(fresh, HELD_OUT_ROWS, seed),
    )


def _topics(seed: int) -> Curriculum:
    """Messages with their kind: mathematics, code, reasoning or other (small talk)."""
    rows = topic_labels("train", 140, seed)
    train, validation = split_held_out(rows, VALIDATION_SHARE, seed)
    return Curriculum(
        "GSM8K, SVAMP, MBPP, ARC and small talk, labelled by kind",
        train,
        validation,
        topic_labels(HELD_OUT, 100, seed),
    )


CURRICULA: dict[str, Callable[[int], Curriculum]] = {
    "arc-easy": _arc_easy,
    "svamp-equations": _svamp_equations,
    "mbpp": _mbpp,
    "topics": _topics,
}


def with_prompts(source: Curriculum, wrap: Callable[[str], str]) -> Curriculum:
    """The same rows with each prompt rewritten by `wrap`."""

    def rewritten(rows: Sequence[Example]) -> list[Example]:
        return [replace(example, prompt=wrap(example.prompt)) for example in rows]

    return replace(
        source,
        train=rewritten(source.train),
        validation=rewritten(source.validation),
        held_out=rewritten(source.held_out),
    )


def _sample(rows: Sequence[Example], count: int, seed: int) -> list[Example]:
    return random.Random(seed).sample(list(rows), min(count, len(rows)))

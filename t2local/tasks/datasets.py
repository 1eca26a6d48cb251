"""What an expert is trained, validated and measured on: three disjoint sets of examples.

A dataset has a name (`DATASETS`) or is a file of the user's. Also here: the examples from which the
dispatcher learns the kinds of question, and our own questions for the task of each shipped expert,
by which forgetting is measured.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from t2local.errors import T2LocalError
from t2local.paths import PROJECT_ROOT
from t2local.tasks.arithmetic import arithmetic_choices
from t2local.tasks.benchmarks import load_task, show_first_test
from t2local.tasks.rows import Example, split_held_out
from t2local.tasks.uploads import check_enough, read_upload

HELD_OUT = "held_out"
HELD_OUT_ROWS = 300
VALIDATION_SHARE = 0.15
HELD_OUT_SHARE = 0.25
TOPICS = ("math", "code", "reasoning", "other")  # the kinds of question
SMALL_TALK = PROJECT_ROOT / "assets" / "small_talk.jsonl"
EVERYDAY = PROJECT_ROOT / "assets" / "everyday.jsonl"
SMALL_TALK_SHARE = 64  # messages of it among the everyday ones
ENOUGH_PROMPTS = 10  # with fewer, a share to hold out is a row or two: each is held out in turn


@dataclass(frozen=True)
class Dataset:
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
    def rows(self) -> list[Example]:
        """All, each once."""
        if self.leave_one_out:
            return list(self.train)
        return [*self.train, *self.validation, *self.held_out]

    @property
    def sha256(self) -> str:
        """A hash of all prompts and answers in order: says on which rows an expert was trained."""
        rows = [
            [(e.key, *(e.answers or ("",))) for e in part]
            for part in (self.train, self.validation, self.held_out)
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def dataset(source: str, seed: int = 0, held_out_share: float = HELD_OUT_SHARE) -> Dataset:
    """The examples that `source` names: a dataset or a file of the user's.

    `held_out_share`: of a file's rows; datasets by name have their own held-out rows.
    Raises `T2LocalError` for a name that is neither, for missing benchmark files, bad rows, or
    too few examples.
    """
    if source in DATASETS:
        return DATASETS[source](seed)
    path = Path(source).expanduser()
    if not path.exists():
        raise T2LocalError(
            f"'{source}' is neither a file nor a dataset; "
            "give a CSV, TSV, JSON, JSONL, Parquet or spreadsheet file (.xlsx, .xls, .ods), "
            f"or one of {', '.join(DATASETS)}."
        )
    file = read_upload(path)
    if file.bad_rows:
        row, reason = file.bad_rows[0]
        raise T2LocalError(
            f"'{path.name}' has {len(file.bad_rows)} bad rows, the first is row {row} ({reason}); "
            "mend or remove them and start again."
        )
    check_enough(path.name, file.examples)
    return replace(split_rows(path.name, file.examples, seed, held_out_share), note=file.note)


def split_rows(
    source: str,
    examples: Sequence[Example],
    seed: int = 0,
    held_out_share: float = HELD_OUT_SHARE,
) -> Dataset:
    """A person's rows in three: a share is held out, a part of the rest validates.

    Fewer than `ENOUGH_PROMPTS` different prompts are not divided: see `Dataset.leave_one_out`.
    """
    if len({e.group for e in examples}) < ENOUGH_PROMPTS:
        rows = list(examples)
        return Dataset(source, rows, rows, rows, leave_one_out=True)
    rest, held_out = split_held_out(examples, held_out_share, seed, at_least=2)
    train, validation = split_held_out(rest, VALIDATION_SHARE, seed)
    return Dataset(source, train, validation, held_out)


def folds(source: Dataset) -> list[Dataset]:
    """One dataset a prompt: its rows are held out, all others train and validate."""
    parts = []
    for group in dict.fromkeys(e.group for e in source.held_out):
        rest = [e for e in source.train if e.group != group]
        held_out = [e for e in source.held_out if e.group == group]
        parts.append(replace(source, train=rest, validation=rest, held_out=held_out))
    return parts


def _arc_easy(seed: int) -> Dataset:
    held_out = _sample(load_task("arc_easy", "test"), HELD_OUT_ROWS, seed)
    return Dataset(
        "ARC-Easy, answers scored by likelihood",
        load_task("arc_easy", "train"),
        _sample(load_task("arc_easy", "validation"), 100, seed),
        held_out,
    )


def _arc_easy_written(seed: int) -> Dataset:
    """The same questions with their answers below, of which one is named in writing."""

    def written(rows: Sequence[Example]) -> list[Example]:
        return [
            replace(e, prompt=with_options(e.prompt, e.columns["choices"]), written=True)
            for e in rows
        ]

    listed = _arc_easy(seed)
    return Dataset(
        "ARC-Easy, answers written",
        written(listed.train),
        written(listed.validation),
        written(listed.held_out),
    )


def _gsm8k(seed: int) -> Dataset:
    """The paper's split: even rows of the training set train, odd ones validate."""
    rows = load_task("gsm8k", "train")
    return Dataset(
        "GSM8K, worked out in writing",
        rows[::2],
        _sample(rows[1::2], 64, seed),
        _sample(load_task("gsm8k", "test"), HELD_OUT_ROWS, seed),
    )


def _svamp_equations(seed: int) -> Dataset:
    """SVAMP as a choice: which of four true equations answers the problem?"""
    rows = [c for e in load_task("svamp", "train") if (c := arithmetic_choices(e))]
    held_out = [c for e in load_task("svamp", "test") if (c := arithmetic_choices(e))]
    train, validation = split_held_out(rows, VALIDATION_SHARE, seed)
    return Dataset(
        "SVAMP, the right equation among wrong ones", train, validation, held_out[:HELD_OUT_ROWS]
    )


def _mbpp(seed: int) -> Dataset:
    """MBPP as its authors prompt it, with the first test shown; held out: MBPP's test split."""
    train, validation, held_out = (
        [show_first_test(e) for e in load_task("mbpp", split)]
        for split in ("train", "validation", "test")
    )
    prompts = {e.prompt for e in (*train, *validation)}
    fresh = [e for e in held_out if e.prompt not in prompts]
    return Dataset(
        "MBPP, programs run against their tests",
        [e for e in train if len(e.answer) < 400],
        _sample(validation, 48, seed),
        _sample(fresh, HELD_OUT_ROWS, seed),
    )


def _topics(seed: int) -> Dataset:
    """Messages with their kind: mathematics, code, reasoning or other (small talk)."""
    rows = topic_labels("train", 140, seed)
    train, validation = split_held_out(rows, VALIDATION_SHARE, seed)
    return Dataset(
        "GSM8K, SVAMP, MBPP, ARC and small talk, labelled by kind",
        train,
        validation,
        topic_labels(HELD_OUT, 100, seed),
    )


DATASETS: dict[str, Callable[[int], Dataset]] = {
    "arc-easy": _arc_easy,
    "arc-easy-written": _arc_easy_written,
    "gsm8k": _gsm8k,
    "svamp-equations": _svamp_equations,
    "mbpp": _mbpp,
    "topics": _topics,
}


def with_prompts(source: Dataset, wrap: Callable[[str], str]) -> Dataset:
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


# --- Which kind of question a prompt is: examples for the dispatcher.
#
# `math` (GSM8K, SVAMP), `code` (MBPP, and HumanEval held out only), `reasoning` (ARC) and `other`
# (our own small talk in `assets/`).


_SOURCES = {
    "train": {
        "math": (("gsm8k", "train"), ("svamp", "train")),
        "code": (("mbpp", "train"), ("mbpp", "validation")),
        "reasoning": (("arc_easy", "train"), ("arc_challenge", "train")),
    },
    HELD_OUT: {
        "math": (("gsm8k", "test"), ("svamp", "test")),
        "code": (("mbpp", "test"), ("humaneval", "test")),
        "reasoning": (("arc_easy", "test"), ("arc_challenge", "test")),
    },
}


def topic_labels(
    split: str, per_label: int = 100, seed: int = 0, folder: Path | None = None
) -> list[Example]:
    """Shuffled prompts, `per_label` of each label as evenly over its sources as they allow.

    `split`: "train" or "held_out"; no prompt is in both. `answer` is the label, `choices` are
    `TOPICS`, `label` its index, `source` where the prompt is from. Every second science question
    lists its answers, as people paste them. Fewer where a source is smaller (100 to 140 of small
    talk). Raises `T2LocalError` where the data folder lacks a file.
    """
    assert split in _SOURCES, split
    rng = random.Random(f"{seed}:{split}")
    talk = small_talk(split)
    chosen_talk = rng.sample(talk, min(per_label, len(talk)))
    examples = [_labelled(prompt, "other", "small_talk") for prompt in chosen_talk]
    for topic, sources in _SOURCES[split].items():
        trained_on = _questions(_SOURCES["train"][topic], folder) if split == HELD_OUT else set()
        share = -(-per_label // len(sources))
        rows = [
            _labelled(prompt, topic, task)
            for task, part in sources
            for prompt in _prompts(load_task(task, part, folder), share, trained_on, rng)
        ]
        examples += rows[:per_label]
    rng.shuffle(examples)
    return examples


def everyday_messages(split: str) -> list[str]:
    """What people ask an assistant about anything: no expert's subject, unless somebody trains it.

    Our own: every topic of a day, some in other languages, and small talk. `T2LocalError` if a file
    is gone.
    """
    return [*small_talk(split, EVERYDAY), *small_talk(split)[:SMALL_TALK_SHARE]]


def small_talk(split: str, path: Path = SMALL_TALK) -> list[str]:
    """The prompts of one split of our own small talk. Raises `T2LocalError` if the file is gone."""
    if not path.is_file():
        raise T2LocalError(f"'{path}' is missing; restore it from the project's assets.")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [row["prompt"] for row in rows if row["split"] == split]


def _prompts(
    rows: Sequence[Example], count: int, trained_on: set[str], rng: random.Random
) -> list[str]:
    """`count` random prompts that were not trained on (a few are in both splits)."""
    fresh = [row for row in rows if row.prompt not in trained_on]
    picked = rng.sample(fresh, min(count, len(fresh)))
    return [
        with_options(row.prompt, row.columns["choices"])
        if i % 2 and "choices" in row.columns
        else row.prompt
        for i, row in enumerate(picked)
    ]


def _questions(sources: Sequence[tuple[str, str]], folder: Path | None) -> set[str]:
    return {row.prompt for task, part in sources for row in load_task(task, part, folder)}


def with_options(question: str, choices: Sequence[str]) -> str:
    """The question with its answers below, lettered: "A. …"."""
    return "\n".join([question, *(f"{chr(65 + i)}. {text}" for i, text in enumerate(choices))])


def _labelled(prompt: str, topic: str, source: str) -> Example:
    columns = {"choices": list(TOPICS), "label": TOPICS.index(topic), "source": source}
    return Example(prompt, topic, columns)


# --- Our own sixty questions for the task of each shipped expert.
#
# The project ships no benchmark rows, so these were written in the form that the experts were
# trained on: equations for word problems, answers to science questions, short programs of which
# one passes its tests, messages with their kind. They compare a model with itself, not with
# published numbers.

PROBES = PROJECT_ROOT / "assets" / "probes"
DECIDING = "classifier"  # the shipped expert that decides in pass 1
FILES = {  # shipped expert -> the file of its task
    "math": "math.jsonl",
    "code": "code.jsonl",
    "reasoning": "reasoning.jsonl",
    DECIDING: "topics.jsonl",
}


def probes(folder: Path = PROBES) -> dict[str, tuple[Example, ...]]:
    """Name of a shipped expert -> the questions of its task, each a choice.

    `answer` is one of `choices`, `label` its index. The classifier's prompts are the bare messages.
    Raises `T2LocalError` for a file that is missing or damaged.
    """
    return {expert: _read(folder / file) for expert, file in FILES.items()}


def _read(path: Path) -> tuple[Example, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = tuple(_example(json.loads(line)) for line in lines if line.strip())
        if not rows:
            raise ValueError("it has no rows")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise T2LocalError(
            f"The questions in '{path}' cannot be read ({error}); "
            "restore the file from the project's assets."
        ) from error
    return rows


def _example(row: dict) -> Example:
    prompt, answer, choices, label = (row[k] for k in ("prompt", "answer", "choices", "label"))
    if not prompt or choices[label] != answer or choices.count(answer) != 1:
        raise ValueError(f"the label of '{prompt[:40]}' does not point to its answer")
    return Example(prompt, answer, {"choices": choices, "label": label})

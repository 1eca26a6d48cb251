"""What an expert is trained, validated and measured on: three disjoint sets of examples.

A dataset has a name (`DATASETS`) or is a file of the user's. Also here: the examples from which the
dispatcher learns the kinds of question, and our own questions for the task of each shipped expert,
by which forgetting is measured, and word problems as a choice among equations.
"""

import ast
import hashlib
import itertools
import json
import operator
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from t2local.errors import T2LocalError
from t2local.paths import PROJECT_ROOT
from t2local.tasks.benchmarks import load_task, show_first_test
from t2local.tasks.rows import Example, split_held_out
from t2local.tasks.uploads import check_enough, read_upload

HELD_OUT = "held_out"
HELD_OUT_ROWS = 300
VALIDATION_SHARE = 0.15
HELD_OUT_SHARE = 0.25
TOPICS = ("math", "code", "reasoning", "other")  # the kinds of question
SMALL_TALK = PROJECT_ROOT / "assets" / "small_talk.jsonl"
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


# --- Arithmetic as a choice: the right equation among plausible wrong ones, from word problems.
#
# Each is true as arithmetic ("76 - 25 = 51"); wrong ones use the same numbers with other orders,
# operations and steps, so only reading tells them apart. `ast` parses them; nothing is evaluated.

# A number, or (sign, left, right): ("-", 76, 25).
Equation = Fraction | tuple[str, "Equation", "Equation"]

CHOICES = 4
_MOST_NUMBERS = 4  # of the equation and the prompt together that wrong choices draw on
_MOST_REORDERED = 3  # equations of more numbers keep their order, or there are thousands
_MOST_RESIGNED = 5
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def arithmetic_choices(example: Example, seed: int = 0) -> Example | None:
    """A SVAMP row (column `equation`) as four equations in `choices`, the right one at `label`.

    `None` where the row allows no such task: no operation in the equation, an equation whose value
    is not the row's answer, or too few different results over its numbers.
    """
    equation = _parse(str(example.columns.get("equation", "")))
    if not isinstance(equation, tuple):
        return None
    right_value = _value(equation)
    shown = _shown(right_value)
    if shown is None or right_value != _fraction(example.answer):
        return None
    rng = random.Random(f"{seed}:{example.prompt}")
    right = f"{_text(equation)} = {shown}"
    wrong = _wrong_choices(equation, right_value, _numbers(example.prompt, equation), rng)
    if len(wrong) < CHOICES - 1:
        return None
    choices = [right, *wrong]
    rng.shuffle(choices)
    columns = {**example.columns, "choices": choices, "label": choices.index(right)}
    return replace(example, answer=right, columns=columns)


def _wrong_choices(
    equation: Equation, right_value: Fraction, numbers: list[Fraction], rng: random.Random
) -> list[str]:
    """Two equations of as many steps and one of fewer or more, where the numbers allow it.

    No two choices have the same result, so none is right by accident.
    """
    single = isinstance(equation, tuple) and len(_operands(equation)) == 2
    same = [*_same_shape(equation), *(_one_step(numbers) if single else ())]
    other = [*(_two_steps(numbers) if single else _one_step(_operands(equation)))]
    same, other = _ranked(same, rng), _ranked(other, rng)
    chosen = {right_value: ""}
    for candidates, wanted in ((same, CHOICES - 1), (other, CHOICES), (same, CHOICES)):
        for value, candidate in candidates:
            if len(chosen) == wanted:
                break
            if value not in chosen and (shown := _shown(value)) is not None:
                chosen[value] = f"{_text(candidate)} = {shown}"
    return [text for text in chosen.values() if text]


def _ranked(candidates: list[Equation], rng: random.Random) -> list[tuple]:
    """Values and equations, shuffled; whole results of zero or more first, as right ones are."""
    rng.shuffle(candidates)
    valued = [(_value(candidate), candidate) for candidate in candidates]
    return sorted(valued, key=lambda pair: _implausible(pair[0]))


def _implausible(value: Fraction | None) -> int:
    return 4 if value is None else 2 * (value < 0) + (value.denominator != 1)


def _same_shape(equation: Equation) -> Iterator[Equation]:
    """The equation with its numbers in every order and every choice of signs."""
    operands = _operands(equation)
    reorder = len(operands) <= _MOST_REORDERED
    orders = sorted(set(itertools.permutations(operands))) if reorder else [operands]
    signs = min(len(operands), _MOST_RESIGNED) - 1
    for order in orders:
        for chosen in itertools.product(_OPERATIONS, repeat=signs):
            yield _refilled(equation, list(order), list(chosen))


def _refilled(equation: Equation, numbers: list[Fraction], signs: list[str]) -> Equation:
    """A copy that takes its numbers and signs from the lists, from left to right."""
    if not isinstance(equation, tuple):
        return numbers.pop(0)
    left = _refilled(equation[1], numbers, signs)
    sign = signs.pop(0) if signs else equation[0]
    return (sign, left, _refilled(equation[2], numbers, signs))


def _one_step(numbers: list[Fraction]) -> Iterator[Equation]:
    for left, right in itertools.permutations(numbers, 2):
        for sign in _OPERATIONS:
            yield (sign, left, right)


def _two_steps(numbers: list[Fraction]) -> Iterator[Equation]:
    for first, second, third in itertools.permutations(numbers, 3):
        for inner, outer in itertools.product(_OPERATIONS, repeat=2):
            yield (outer, (inner, first, second), third)


def _numbers(prompt: str, equation: Equation) -> list[Fraction]:
    """The equation's numbers, then further ones of the prompt, without repeats."""
    found = dict.fromkeys(_operands(equation))
    further = (_fraction(text) for text in _NUMBER.findall(prompt))
    found.update(dict.fromkeys(number for number in further if number))
    return list(found)[: max(_MOST_NUMBERS, len(_operands(equation)))]


def _operands(equation: Equation) -> list[Fraction]:
    """The numbers of an equation from left to right."""
    if isinstance(equation, tuple):
        return _operands(equation[1]) + _operands(equation[2])
    return [equation]


def _parse(text: str) -> Equation | None:
    """`+ − × ÷` over plain numbers; `None` where the text is anything else."""
    try:
        return _from_ast(ast.parse(text.strip().replace(",", ""), mode="eval").body)
    except (SyntaxError, ValueError):
        return None


def _from_ast(node: ast.expr) -> Equation:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return (_SIGNS[type(node.op)], _from_ast(node.left), _from_ast(node.right))
    raise ValueError(ast.dump(node))


def _value(equation: Equation) -> Fraction | None:
    """The exact value; `None` for a division by zero."""
    if not isinstance(equation, tuple):
        return equation
    sign, left, right = equation[0], _value(equation[1]), _value(equation[2])
    if left is None or right is None or (sign == "/" and right == 0):
        return None
    return _OPERATIONS[sign](left, right)


def _text(equation: Equation, binding: int = 0) -> str:
    """As people write it: `76 - 25`, brackets only where they matter."""
    if not isinstance(equation, tuple):
        return _shown(equation) or f"{float(equation):g}"
    sign, left, right = equation
    own = 2 if sign in "*/" else 1
    text = f"{_text(left, own)} {sign} {_text(right, own + (sign in '-/'))}"
    return f"({text})" if own < binding else text


def _shown(value: Fraction | None) -> str | None:
    """Whole numbers without a point, others in at most two decimals; else `None`."""
    if value is None:
        return None
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.2f}".rstrip("0") if (value * 100).denominator == 1 else None


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip().replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None

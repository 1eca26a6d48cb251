"""Benchmark tasks, from a folder of normalised JSONL files or from the Hugging Face Hub.

The prompts that were used to choose something are kept as hashes, so that a measurement on the same
prompts can be refused. Also here: how published tables write choices and accepted answers, for
files of anybody's that are written like them.
"""

import hashlib
import json
import os
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from t2local.errors import T2LocalError
from t2local.tasks.rows import (
    Example,
    accepted_answers,
    plain,
    shown,
    text_of,
    unpacked,
)

DATA_VARIABLE = "T2LOCAL_DATA"


@dataclass(frozen=True)
class Task:
    """`reward`: the name in `t2local.tasks.rewards.REWARDS` that scores this task."""

    name: str
    title: str
    reward: str
    splits: tuple[str, ...]


_THREE = ("train", "validation", "test")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("gsm8k", "grade-school mathematics", "math", ("train", "test")),
        Task("svamp", "one-step word problems", "numeric", ("train", "test")),
        Task("mbpp", "small Python functions", "code", (*_THREE, "prompt")),
        Task("mbppplus", "small Python functions, many more tests", "code", ("test",)),
        Task("humaneval", "Python functions to complete", "code", ("test",)),
        Task("arc_easy", "science questions", "choice", _THREE),
        Task("arc_challenge", "harder science questions", "choice", _THREE),
        Task("easy_vqa", "questions on pictures of shapes", "exact", ("train", "test")),
    )
}


def data_folder(folder: Path | None = None) -> Path:
    """`folder`, or what `T2LOCAL_DATA` names. Raises `T2LocalError` where neither exists."""
    named = folder or os.environ.get(DATA_VARIABLE)
    if not named:
        raise T2LocalError(
            "No folder of benchmark files was given; "
            f"name one with {DATA_VARIABLE} (files such as gsm8k.test.jsonl)."
        )
    path = Path(named).expanduser()
    if not path.is_dir():
        raise T2LocalError(
            f"The benchmark folder '{path}' does not exist; name another with {DATA_VARIABLE}."
        )
    return path


def load_task(name: str, split: str = "test", folder: Path | None = None) -> list[Example]:
    """All rows of one split in file order.

    A `humaneval` row gets the column `prefix`: its answer is the body that follows the prompt.
    Raises `T2LocalError` for an unknown task or split, and for a missing or damaged file.
    """
    task = TASKS.get(name)
    if task is None:
        raise T2LocalError(f"There is no task '{name}'; choose one of {', '.join(TASKS)}.")
    if split not in task.splits:
        raise T2LocalError(
            f"Task '{name}' has no split '{split}'; choose one of {', '.join(task.splits)}."
        )
    path = data_folder(folder) / f"{name}.{split}.jsonl"
    if not path.is_file():
        raise T2LocalError(
            f"'{path.parent}' lacks '{path.name}'; put that file there, "
            f"or name another folder with {DATA_VARIABLE}."
        )
    examples = [_example(path, number, line) for number, line in _lines(path)]
    if name == "humaneval":
        return [replace(e, columns={**e.columns, "prefix": e.prompt}) for e in examples]
    return examples


def show_first_test(example: Example) -> Example:
    """A program task whose prompt also shows its first test, so that the name asked for is known.

    MBPP's own prompts describe a function without naming it; its authors show tests for that.
    """
    tests = example.columns["tests"]
    return replace(
        example, prompt=f"{example.prompt.strip()}\nYour code should pass this test:\n{tests[0]}"
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    with path.open(encoding="utf-8") as file:
        return [(n, line) for n, line in enumerate(file, 1) if line.strip()]


def _example(path: Path, number: int, line: str) -> Example:
    try:
        row = json.loads(line)
        prompt, answer = row.pop("prompt"), row.pop("answer")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise T2LocalError(
            f"Line {number} of '{path.name}' is no benchmark row ({error}); "
            "each line must be a JSON object with 'prompt' and 'answer'."
        ) from error
    return Example(str(prompt), str(answer), row)


# --- The same tasks from the Hub, where no folder of files is given.
#
# Through the package `datasets`, which is optional (`pip install datasets`) and keeps what it
# fetched for later runs without a network. Differences from the files: SVAMP has the Hub's own
# split (700 / 300); MATH is the 500-problem test set of "Let's verify step by step", since the
# redistribution of the whole set is contested.

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubTask:
    """Where a task is on the Hub, and how one of its rows becomes an example."""

    path: str
    config: str | None
    read: Callable[[Row], Example]


def _gsm8k(row: Row) -> Example:
    answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
    return Example(row["question"], answer, {"solution": row["answer"]})


def _math(row: Row) -> Example:
    return Example(row["problem"], str(row["answer"]), {"type": row.get("subject", "")})


def _svamp(row: Row) -> Example:
    question = f"{row['Body'].strip()} {row['Question'].strip()}"
    return Example(question, f"{float(row['Answer']):g}", {"equation": row["Equation"]})


def _mbppplus(row: Row) -> Example:
    tests = list(row["test_list"])
    function = tests[0].split("(")[0].split()[-1] if tests else ""
    if "set" in tests[0][:12]:  # assert set(f(...)) == ...
        function = tests[0].split("(")[1]
    columns = {
        "id": f"Mbpp/{row['task_id']}", "text": row["prompt"], "tests": tests,
        "test_setup": "\n".join(row.get("test_imports") or ()), "entry_point": function,
    }  # fmt: skip
    return Example(row["prompt"], row["code"], columns)


def _humaneval(row: Row) -> Example:
    tests = [f"{row['test']}\ncheck({row['entry_point']})\n"]
    columns = {"id": row["task_id"], "tests": tests, "entry_point": row["entry_point"]}
    return Example(row["prompt"], row["canonical_solution"], columns)


def _arc(row: Row) -> Example:
    choices, letters = list(row["choices"]["text"]), list(row["choices"]["label"])
    label = letters.index(row["answerKey"])
    columns = {"id": row["id"], "choices": choices, "label": label}
    return Example(row["question"], chr(ord("A") + label), columns)


HUB: dict[str, HubTask] = {
    "gsm8k": HubTask("openai/gsm8k", "main", _gsm8k),
    "math": HubTask("HuggingFaceH4/MATH-500", None, _math),
    "svamp": HubTask("ChilleD/SVAMP", None, _svamp),
    "mbppplus": HubTask("evalplus/mbppplus", None, _mbppplus),
    "humaneval": HubTask("openai/openai_humaneval", None, _humaneval),
    "arc_easy": HubTask("allenai/ai2_arc", "ARC-Easy", _arc),
    "arc_challenge": HubTask("allenai/ai2_arc", "ARC-Challenge", _arc),
}


def load_from_hub(name: str, split: str = "test") -> list[Example]:
    """All rows of a task's split. Raises `T2LocalError`: `datasets` is not installed, no network,
    or the Hub's rows are not what they were.
    """
    task = HUB[name]
    try:
        import datasets
    except ImportError as error:
        raise T2LocalError(
            f"'{name}' would come from the Hub, for which the package `datasets` is missing; "
            "run `pip install datasets`."
        ) from error
    try:
        rows = datasets.load_dataset(task.path, task.config, split=split, trust_remote_code=False)
        return [task.read(row) for row in rows]
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise T2LocalError(
            f"'{name}' could not be had from the Hub ({task.path}: {reason}); go online once."
        ) from error
    except (KeyError, IndexError, TypeError) as error:
        raise T2LocalError(
            f"The Hub's rows of '{task.path}' have changed ({type(error).__name__}: {error}); "
            "use a folder of files."
        ) from error


# --- Prompts that were used to choose something.
#
# One hash a prompt, of its letters and digits alone, so that other spaces or punctuation do not
# hide it.

DIGITS = 24


def prompt_hash(prompt: str) -> str:
    """24 hexadecimal digits, the same however the prompt is spaced or punctuated.

    >>> prompt_hash("What is 2+2?") == prompt_hash("what is 2 + 2 ?")
    True
    """
    letters = re.sub(r"[\W_]+", "", prompt).casefold() or prompt
    return hashlib.sha256(letters.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def prompt_hashes(examples: Sequence[Example]) -> tuple[str, ...]:
    return tuple(prompt_hash(example.key) for example in examples)


def overlapping(examples: Sequence[Example], hashes: Collection[str]) -> list[Example]:
    """The examples whose prompts are among `hashes`."""
    known = set(hashes)
    return [example for example in examples if prompt_hash(example.key) in known]


# --- Choices: a list, an object of letters, a text cut by one sign, or a column for each.
#
# Which one is right is told by its text, its letter, its label or its index.

_LETTERED = re.compile(r"(?:^|(?<=[\s,;|]))\(?([A-Ja-j]|\d)\s?[).:]\s*")
_LETTER = re.compile(r"\(?([A-Ja-j])\)?[).:]?(?:\s+(.+))?", re.DOTALL)
SIGNS = ("\n", "||", "|", ";", "\t", " / ", ",")
OWN, TEXT, LETTER, INDEX = "its own label", "its text", "its letter", "its number"


@dataclass(frozen=True)
class Choices:
    """How a file writes its choices.

    `columns`: one with a list, or one for each choice; with `wrong` they hold the wrong ones, and
    `right` the right one. Else `right` says which it is: `way`, counted from `first`; "" where the
    list says so itself. `sign`: what cuts a text. `unsure`: all that are right may be a text as
    well as a number.
    """

    columns: tuple[str, ...]
    right: str
    wrong: bool = False
    sign: str = ""
    way: str = TEXT
    first: int = 0
    unsure: bool = False

    def read(self, cells: Mapping[str, Any]) -> tuple[list[str], int, str]:
        """The texts, the place of the right one, and it as the row gives it: a letter or its text.

        Raises `ValueError` with the reason where a row does not say which is right.
        """
        texts, own, marked = self._offered(cells)
        if self.wrong:
            return _shuffled(accepted_answers(cells.get(self.right)), texts)
        if len(texts) < 2:
            raise ValueError("there are fewer than two choices")
        if "" in texts:
            raise ValueError(f"choice {texts.index('') + 1} is empty")
        if marked is not None:
            return texts, marked, texts[marked]
        gold = cells.get(self.right)
        gold = gold[0] if isinstance(gold, list) and len(gold) == 1 else gold
        if text_of(gold) == "":
            raise ValueError("the answer is empty")
        if isinstance(gold, list):
            raise ValueError(f"{len(gold)} choices are right; one must be")
        if whole_number(gold) == -1 and self.way == INDEX:
            raise ValueError("the label is -1: nobody said which choice is right")
        for way in (self.way, OWN, TEXT, LETTER):
            places = _places(way, gold, texts, own, self.first)
            if self.unsure:
                places = sorted({*places, *_places(TEXT, gold, texts, own, self.first)})
            if len(places) > 1:
                raise ValueError(f"the answer '{shown(text_of(gold))}' fits several choices")
            if places:
                letter = way in (OWN, LETTER)
                return texts, places[0], chr(ord("A") + places[0]) if letter else texts[places[0]]
        raise ValueError(f"the answer '{shown(text_of(gold))}' is none of the choices")

    def _offered(self, cells: Mapping[str, Any]) -> tuple[list[str], list[str], int | None]:
        """Texts, their own labels, and the place that the list itself says is right."""
        if len(self.columns) == 1:
            return offered(cells.get(self.columns[0]), self.sign)
        found = [(text_of(cells.get(name)), plain(name)) for name in self.columns]
        while found and not found[-1][0]:
            found.pop()
        return [text for text, _ in found], [name for _, name in found], None


def offered(value: Any, sign: str = "") -> tuple[list[str], list[str], int | None]:
    """The choices of a cell: texts, their own labels, the place that it says is right or None."""
    value = unpacked(value)
    if isinstance(value, str):
        lettered = _cut_at_letters(value)
        parts = lettered or (value.split(sign) if sign else [value])
        return [part.strip() for part in parts if part.strip()], [], None
    if isinstance(value, Mapping):
        held = {plain(str(name)): part for name, part in value.items()}
        texts = next((held[n] for n in ("text", "texts", "choices") if n in held), None)
        if isinstance(texts, list):
            named = held.get("label") or held.get("labels")
            own = list(map(text_of, named)) if isinstance(named, list) else []
            return list(map(text_of, texts)), own, own.index("1") if _marked(own, held) else None
        scores = list(map(text_of, value.values()))
        if set(scores) == {"0", "1"} and scores.count("1") == 1:  # {"Paris": 1, "Oslo": 0}
            return list(value), [], scores.index("1")
        return scores, list(value), None
    parts = list(value) if isinstance(value, list | tuple) else []
    if parts and all(isinstance(part, Mapping) for part in parts):
        texts = [
            next((p[n] for n in ("text", "content", "answer", "choice") if n in p), "")
            for p in parts
        ]
        own = [next((p[n] for n in ("label", "key", "id", "letter") if n in p), "") for p in parts]
        return list(map(text_of, texts)), list(map(text_of, own)), None
    return _bare(list(map(text_of, parts))), [], None


def _marked(own: Sequence[str], held: Mapping[str, Any]) -> bool:
    """Whether the labels are a 1 and zeros, as TruthfulQA marks the right one."""
    return "labels" in held and set(own) == {"0", "1"} and own.count("1") == 1


def _bare(texts: list[str]) -> list[str]:
    """Without the letters in front, where every choice has its own: "A) 21", "B) 22"."""
    found = [_LETTERED.match(text) for text in texts]
    letters = "".join(match[1].upper() for match in found if match)
    if len(texts) < 2 or len(letters) < len(texts) or letters not in "ABCDEFGHIJ":
        return texts
    return [text[match.end() :].strip() for text, match in zip(texts, found, strict=True)]


def _cut_at_letters(text: str) -> list[str]:
    """The parts of "a ) 38 , b ) 27" or of lettered lines; [] for other texts."""
    found = list(_LETTERED.finditer(text))
    letters = "".join(match[1].upper() for match in found)
    if (
        len(found) < 2
        or found[0].start()
        or not (letters in "ABCDEFGHIJ" or letters in "123456789")
    ):
        return []
    ends = [*(match.start() for match in found[1:]), len(text)]
    parts = zip(found, ends, strict=True)
    return [text[match.end() : end].strip().rstrip(",;|").strip() for match, end in parts]


def sign_of(cells: Sequence[Any]) -> str:
    """The sign that cuts most texts among the cells into two or more choices; "" for none."""
    texts = [c for c in cells if isinstance(c, str) and isinstance(unpacked(c), str) and c.strip()]
    cut = {sign: sum(len(_split(text, sign)) > 1 for text in texts) for sign in SIGNS}
    sign = max(SIGNS, key=lambda sign: cut[sign])  # the first of equals
    return sign if cut[sign] * 2 > len(texts) else ""


def _split(text: str, sign: str) -> list[str]:
    return [part for part in text.strip().split(sign) if part.strip()]


def fitted(choices: Choices, rows: Sequence[Mapping[str, Any]]) -> tuple[float, Choices]:
    """The way that most rows say which is right in, and the share of rows that it fits."""
    read = []
    for row in rows:
        try:
            texts, own, marked = choices._offered(row)
        except ValueError:
            continue
        gold = row.get(choices.right)
        gold = gold[0] if isinstance(gold, list) and len(gold) == 1 else gold
        if len(texts) > 1 and (marked is not None or text_of(gold)) and whole_number(gold) != -1:
            read.append((gold, texts, own, marked))
    if not read:
        return 0.0, choices
    if all(marked is not None for *_, marked in read):
        return 1.0, replace(choices, right="")
    whole = all(isinstance(gold, int | float) and not isinstance(gold, bool) for gold, *_ in read)
    first = _first_index(choices, read)
    ways = (OWN, INDEX, TEXT, LETTER) if whole else (OWN, TEXT, LETTER, INDEX)
    fits = {
        way: sum(len(_places(way, g, t, own, first)) == 1 for g, t, own, _ in read) for way in ways
    }
    way = max(ways, key=lambda way: fits[way])
    counted = plain(choices.right).startswith("label") or "idx" in plain(choices.right)
    unsure = way == INDEX and fits[TEXT] == fits[INDEX] == len(read) and not counted
    return fits[way] / len(read), replace(choices, way=way, first=first, unsure=unsure)


def _first_index(choices: Choices, read: Sequence[tuple]) -> int:
    """From where the right ones are counted: 0 or 1, as the rows show, else as is usual."""
    places = [(whole_number(gold), len(texts)) for gold, texts, *_ in read]
    if any(place == 0 for place, _ in places):
        return 0
    if any(place == count for place, count in places):
        return 1
    name, right = plain(choices.columns[0]), plain(choices.right)
    usual = name.endswith("1") and not right.startswith("label") and "idx" not in right
    return 1 if usual and not name.startswith("sol") else 0


def _places(way: str, gold: Any, texts: Sequence[str], own: Sequence[str], first: int) -> list[int]:
    """The places of the choices that `gold` may mean."""
    said = text_of(gold)
    if way == OWN:
        return [
            i
            for i, label in enumerate(own)
            if said in (label, label.strip()) or (plain(said) and plain(label) == plain(said))
        ]
    if way == TEXT:
        wanted = " ".join(said.split()).casefold()
        exact = [i for i, text in enumerate(texts) if text == said]
        return exact or [i for i, t in enumerate(texts) if " ".join(t.split()).casefold() == wanted]
    if way == INDEX:
        place = whole_number(gold)
        return [place - first] if place is not None and 0 <= place - first < len(texts) else []
    match = _LETTER.fullmatch(said)
    place = ord(match[1].upper()) - ord("A") if match else len(texts)
    rest = match[2] if match else None
    return [place] if place < len(texts) and (rest is None or texts[place] == rest.strip()) else []


def whole_number(value: Any) -> int | None:
    """The whole number that a cell holds (1, 1.0, "1", "1.0"), else None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = re.fullmatch(r"\s*([-+]?\d{1,9})(?:\.0+)?\s*", str(value))
    return int(match[1]) if match else None


def _shuffled(right: Sequence[str], wrong: Sequence[str]) -> tuple[list[str], int, str]:
    """The right one among the wrong ones, at a place that only the row's own texts decide."""
    wrong = [text for text in wrong if text]
    if len(right) != 1:
        raise ValueError("several answers are right" if right else "the answer is empty")
    if not wrong or right[0] in wrong:
        raise ValueError("the right answer is among the wrong ones" if wrong else
                         "there are no wrong answers beside the right one")  # fmt: skip
    texts = [right[0], *wrong]
    random.Random("\n".join(texts)).shuffle(texts)
    return texts, texts.index(right[0]), right[0]

"""A row as a file's reader gives it (`Row`), and an example as a task asks it (`Example`).

Also: setting rows aside so that no prompt is on both sides, finding rows that are too long for a
model, and reading the pictures that a row names.
"""

import gc
import io
import json
import random
import re
import tokenize
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from t2local.errors import T2LocalError
from t2local.pictures import COLUMNS, check_picture, resolved
from t2local.tasks.syntax import literal

MOST_COLUMNS = 1_000  # names that all rows of a file have together
MOST_PRINTED = 2**20  # characters of a Python value in a cell
DEEPEST = 50  # lists and objects inside one another that a row may hold

WHOLE = "whole"  # a column: the choices are whole answers, and that they end there counts
Bad = tuple[int, str]
Record = tuple[int, Sequence[str] | None]  # None: its cells could not be told apart


@dataclass(frozen=True)
class Row:
    """`number` as a person counts it in that kind of file."""

    number: int
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class RowsRead:
    """`bad`: (number, reason) of rows that could not be read. `note`: whole sentences, or "".

    `encoding`: of a text, "" for a spreadsheet or Parquet.
    """

    rows: Sequence[Row]
    bad: Sequence[Bad]
    note: str = ""
    encoding: str = ""


def shown(text: str, most: int = 60) -> str:
    """A file's own text inside a sentence: one line, printable, cut after `most` characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


@lru_cache(4096)
def plain(name: str) -> str:
    """A name without case, spaces and signs: equal for all spellings of it.

    >>> plain("Ground Truth") == plain("ground_truth") == plain("groundTruth")
    True
    """
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


@contextmanager
def uncollected() -> Iterator[None]:
    """Cells come to be by the hundred thousand, none in a circle: nobody looks for circles then.

    That search takes a third of the time of reading a large file.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def names(words: str) -> tuple[str, ...]:
    """The names of a text, as `plain` writes them."""
    return tuple(map(plain, words.split()))


def unpacked(value: Any) -> Any:
    """A list or an object that stands in a cell as text; whatever else as it is.

    JSON, or what Python, numpy and pandas print. Raises `ValueError` where it cannot be kept.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return value
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = _printed(text)
    if not isinstance(found, list | dict):
        return value
    if fault := _fault(found):
        raise ValueError(fault)
    return found


_DTYPES = ("dtype", "object", "int32", "int64", "float32", "float64")
_UNSEPARATED = re.compile(r"""["']\s+["']|}\s+{|]\s+\[|\barray\(""")


def _printed(text: str) -> Any:
    """The value that Python printed; None for what is none."""
    if len(text) > MOST_PRINTED:
        return None
    try:
        return literal(_separated(text) if _UNSEPARATED.search(text) else text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
        return None


def _separated(text: str) -> str:
    """With the commas that numpy leaves out, and without its `array(…, dtype=…)`."""
    arrays, kept = "array(" in text, [""]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        word = token.string
        if not word.strip() or (arrays and word in ("array", "(", ")", *_DTYPES)):
            continue
        if word == "=":
            kept.pop()  # the comma before dtype
            continue
        both = kept[-1][-1:] + word[:1]
        if both in ("}{", "][") or (both[:1] in ("'", '"') and both[1:] in ("'", '"')):
            kept.append(",")
        kept.append(word)
    return " ".join(kept).strip()


def text_of(value: Any) -> str:
    """A cell as a text; "" for what a table holds for an empty cell."""
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, float) and value != value:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str)


def accepted_answers(value: Any) -> list[str]:
    """All answers that a cell says are right, the first one first; [] for an empty cell.

    A list (as text only where its parts are quoted: `[0, 1]` is an interval), SQuAD's `text`,
    TriviaQA's `value` and `aliases`. Any other object is one answer, as JSON.

    >>> accepted_answers({"text": ["Northampton", "the town"], "answer_start": [0, 0]})
    ['Northampton', 'the town']
    """
    if isinstance(value, str):
        found = unpacked(value)
        quoted = isinstance(found, list) and all(isinstance(part, str) for part in found)
        held = isinstance(found, Mapping) and {"answer_start", "aliases"} & set(found)
        return accepted_answers(found) if found and (quoted or held) else _kept([value])
    if isinstance(value, list | tuple):
        parts = ([part] if isinstance(part, str) else accepted_answers(part) for part in value)
        return _kept([one for part in parts for one in part])
    if isinstance(value, Mapping):
        if "aliases" in value or "normalized_aliases" in value:
            names = ("value", "aliases")
            said = _kept([one for n in names for one in accepted_answers(value.get(n))])
            folded = {one.casefold() for one in said}
            others = accepted_answers(value.get("normalized_aliases"))
            return said + [one for one in others if one.casefold() not in folded]
        if "ground_truth" in value:
            return accepted_answers(value["ground_truth"])
        if "answer_start" in value or set(value) == {"text"}:
            return accepted_answers(value.get("text"))
    return _kept([text_of(value)])


def _kept(answers: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text for answer in answers if (text := answer.strip())))


def check_columns(file: str, count: int) -> None:
    """Raise `T2LocalError` for a table that is wider than any page can show."""
    if count > MOST_COLUMNS:
        raise T2LocalError(
            f"'{file}' has more than {MOST_COLUMNS:,} columns; keep those that are needed, and "
            "give all rows the same names."
        )


def objects(values: Iterable[tuple[int, Any]]) -> RowsRead:
    """Rows from (number, value), where a value that is no object with columns is a bad row."""
    rows: list[Row] = []
    bad: list[Bad] = []
    for number, value in values:
        if not isinstance(value, Mapping):
            bad.append((number, f"a {type(value).__name__} instead of an object with columns"))
        elif fault := _fault(value):
            bad.append((number, fault))
        else:
            rows.append(Row(number, value))
    return RowsRead(rows, bad)


def _fault(value: Any) -> str:
    """Why a row's value can be neither shown nor written again, or ""."""
    level = [value]
    for _ in range(DEEPEST):
        deeper: list[Any] = []
        for part in level:
            if isinstance(part, str):
                if not part.isascii() and not _encodes(part):
                    return "half of a character (a lone surrogate) stands in it"
            elif isinstance(part, list):
                deeper += part
            elif isinstance(part, Mapping):
                deeper += [*part, *part.values()]
        level = deeper
        if not level:
            return ""
    return f"more than {DEEPEST} lists and objects lie inside one another"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- Examples.


@dataclass(frozen=True)
class Example:
    """`answer` is "" where a row has none (a reward such as `length` or `json` needs none).

    `columns`: `choices` and `label` for a choice; `tests`, `test_setup`, `entry_point` for a
    program; `answers`, all that are right where there are several (`answer` is the first);
    `messages`, the turns before the prompt (`role`, `content`, `images` of an earlier question), a
    system turn among them; `image` and `images`, paths or data URIs; anything else a row brought
    along. `written`: its answer is to be written, though its choices are listed.
    """

    prompt: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    written: bool = False

    @property
    def pictures(self) -> tuple[str, ...]:
        """Paths or data URIs of all pictures that the model is shown, in order."""
        if not self.columns:
            return ()
        earlier = [p for turn in self.before for p in turn.get("images", ())]
        return *earlier, *self.own_pictures

    @property
    def own_pictures(self) -> tuple[str, ...]:
        """Those that the prompt itself is about."""
        found = [value for name in COLUMNS if (value := self.columns.get(name))]
        return tuple(p for value in found for p in ((value,) if isinstance(value, str) else value))

    @property
    def answers(self) -> tuple[str, ...]:
        """All that are right; empty where the row has no answer."""
        several = self.columns.get("answers")
        return tuple(map(str, several)) if several else (self.answer,) if self.answer else ()

    @property
    def wanted(self) -> str:
        """What is right, for a person to read: all answers, or a choice's text after its letter.

        >>> Example("?", "Northampton", {"answers": ["Northampton", "the town"]}).wanted
        'Northampton · also: the town'
        >>> Example("?", "B", {"choices": ["Oslo", "Paris"], "label": 1}).wanted
        'B: Paris'
        """
        choices, label = self.columns.get("choices"), self.columns.get("label")
        if choices and isinstance(label, int) and 0 <= label < len(choices):
            right = str(choices[label])
            return right if self.answer in ("", right) else f"{self.answer}: {right}"
        first, *others = self.answers or ("",)
        return f"{first} · also: {' · '.join(others)}" if others else first

    @property
    def before(self) -> tuple[Mapping[str, Any], ...]:
        """The turns (`role`, `content`) before the prompt, a system turn among them."""
        return tuple(self.columns.get("messages") or ())

    @property
    def turns(self) -> tuple[Mapping[str, Any], ...]:
        """All that the model is shown: the turns before, then the prompt with its pictures."""
        return *self.before, {"role": "user", "content": self.prompt, "images": self.own_pictures}

    @property
    def key(self) -> str:
        """Equal only where the same is asked: the prompt, what was said before it, pictures."""
        if not self.pictures and not self.before:
            return self.prompt
        said = (f"{turn['role']}: {turn['content']}" for turn in self.before)
        return "\n".join([*said, self.prompt, *self.pictures])

    @property
    def group(self) -> str:
        """Rows of one group are set aside together: one prompt's, or one picture's."""
        return "\n".join(self.pictures) or self.key


def as_columns(examples: Sequence[Example]) -> dict[str, list[Any]]:
    """The keyword columns of a reward: `answer` and every column, `None` where a row lacks it.

    An `answer` is a list where several are right.
    """
    names = dict.fromkeys(name for example in examples for name in example.columns)
    given = [list(e.answers) if len(e.answers) > 1 else e.answer for e in examples]
    table: dict[str, list[Any]] = {"answer": given}
    for name in names:
        if name != "answer":
            table[name] = [example.columns.get(name) for example in examples]
    return table


# --- Setting rows aside: no prompt and no picture is on both sides.


def split_held_out(
    examples: Sequence[Example], share: float, seed: int = 0, at_least: int = 1
) -> tuple[list[Example], list[Example]]:
    """`(rest, held_out)`, each in the given order; about `share` of the rows, at least one, is held
    out and `at_least` prompts are not. Rows with the same prompt stay together. Needs `at_least`
    + 1 different prompts.
    """
    prompts = list(dict.fromkeys(e.group for e in examples))
    assert 0 < share < 1, share
    assert len(prompts) > at_least > 0, (len(prompts), at_least)
    count = min(max(1, round(share * len(prompts))), len(prompts) - at_least)
    chosen = set(random.Random(seed).sample(prompts, count))
    rest = [e for e in examples if e.group not in chosen]
    return rest, [e for e in examples if e.group in chosen]


# --- Rows that are too long; the caller counts the tokens.


def too_long(
    examples: Sequence[Example], count_tokens: Callable[[Example], int], most: int
) -> list[int]:
    """Positions, in order, of the examples that take more than `most` tokens."""
    return [i for i, example in enumerate(examples) if count_tokens(example) > most]


# --- Pictures of a row, as paths or data URIs.
#
# A cell may hold a path (relative to the data file), base64, a data URI, what `datasets` stores
# (`bytes` and `path`), or a list of these.


def pictures_of(value: Any, folder: Path, anywhere: bool = False) -> str | list[str]:
    """One picture, or all of a list. `folder`: where the data file is; `anywhere`: as `resolved`.

    Raises `T2LocalError` for a picture that is missing or damaged, `ValueError` for a cell that
    holds none.
    """
    if isinstance(value, list):
        return [_picture(part, folder, anywhere) for part in value]
    return _picture(value, folder, anywhere)


def _picture(value: Any, folder: Path, anywhere: bool) -> str:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the picture is a {type(value).__name__}, not a path or base64")
    picture = resolved(value, folder, anywhere)
    check_picture(picture)
    return picture

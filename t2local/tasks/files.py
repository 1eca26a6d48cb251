"""Examples from the files people have: CSV, TSV, JSONL, JSON, spreadsheets and Parquet.

Content decides, not the file's ending. Columns are found by their usual names or given by a
mapping; a row that cannot be used is listed with its number and the reason, never dropped in
silence. Row numbers are those a person sees: lines of JSONL, rows of a spreadsheet (its header is
row 1), elements of a JSON list from 1.
"""

import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from t2local import paths
from t2local.errors import T2LocalError
from t2local.pictures import COLUMNS
from t2local.tasks.rows import Example, Row, pictures_of, shown
from t2local.tasks.tables import read_rows

PROMPT_NAMES = ("prompt", "question", "instruction", "problem", "query", "input", "text")
ANSWER_NAMES = ("answer", "ground_truth", "response", "output", "completion", "target", "solution")
CHAT_NAMES = ("messages", "conversations")
# A row with one of these can be scored without an answer.
ANSWERING_COLUMNS = ("label", "tests", "schema")
_LISTS = ("choices", "tests")


class BadRow(NamedTuple):
    number: int
    reason: str


@dataclass(frozen=True)
class Wanted:
    """How a person wants a file read. "", None and () leave it to what the file holds.

    `context`: further columns that belong to the question, in order. `label_names`: what the labels
    0, 1, … mean. `without_header`: the first row is a row like the others; its columns are called
    "column 1", "column 2", …
    """

    encoding: str = ""
    prompt: str = ""
    answer: str = ""
    context: tuple[str, ...] | None = None
    label_names: tuple[str, ...] = ()
    without_header: bool = False


DETECTED = Wanted()


@dataclass(frozen=True)
class Table:
    """A file's rows before anybody knows what they ask: what a person chooses columns from.

    `rows`: all that could be read. `encoding`: of a text, "" for a spreadsheet or Parquet.
    `mapping`: the columns taken as `prompt` and `answer` as far as they are known, "" for none.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    encoding: str = ""
    mapping: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class UnusableRows(T2LocalError):
    """The file is a table, but no examples came of it: another choice of columns may help.

    `bad_rows`: why each row could not be used; () where the columns are not known.
    """

    def __init__(self, message: str, table: Table, bad_rows: Sequence[BadRow] = ()) -> None:
        super().__init__(message)
        self.table, self.bad_rows = table, tuple(bad_rows)


@dataclass(frozen=True)
class ExampleFile:
    """`columns`: all names found; `mapping`: which of them are prompt and answer ("" for none).

    `context`: columns that are part of the question. `found`: one line a column that says what it
    was taken as, "left out" for the rest. `encoding`: of a text, "" for a spreadsheet or Parquet.
    `duplicates`: (row number, number of the earlier row with the same prompt and answer); these
    rows are among `examples` all the same. `note`: what else a person should know of the reading,
    in whole sentences, such as which sheet was read; "" for nothing.
    """

    examples: tuple[Example, ...]
    bad_rows: tuple[BadRow, ...]
    columns: tuple[str, ...]
    mapping: Mapping[str, str]
    duplicates: tuple[tuple[int, int], ...]
    sha256: str
    note: str = ""
    encoding: str = ""
    context: tuple[str, ...] = ()
    found: tuple[str, ...] = ()


def read_examples(path: Path, wanted: Wanted = DETECTED) -> ExampleFile:
    """All usable rows of a file, and what is wrong with the others.

    Raises `T2LocalError` for a file that is missing, empty, too large, binary or of a broken
    format, and `UnusableRows` for a table without a prompt column or without one usable row.
    """
    name = shown(path.name)
    read = read_rows(path, wanted.encoding, wanted.without_header)
    if not read.rows and not read.bad:
        raise T2LocalError(f"'{name}' has no rows; add at least one prompt with its answer.")
    columns = tuple(dict.fromkeys(column for row in read.rows for column in row.cells))
    bad_rows = [BadRow(number, reason) for number, reason in read.bad]
    table = Table(columns, tuple(read.rows), read.encoding, note=read.note)
    if not read.rows:
        raise _without_usable_row(name, table, bad_rows)
    chosen = _mapping(name, table, wanted)
    examples: list[Example] = []
    seen: dict[tuple[str, str], int] = {}
    own = is_kept(path)
    duplicates = []
    for row in read.rows:
        try:
            example = _example(row, chosen, path.parent, own)
        except (ValueError, T2LocalError) as reason:
            bad_rows.append(BadRow(row.number, str(reason).rstrip(".")))  # part of a sentence
            continue
        examples.append(example)
        first = seen.setdefault((example.key, example.answer), row.number)
        if first != row.number:
            duplicates.append((row.number, first))
    if not examples:
        raise _without_usable_row(name, replace(table, mapping=chosen), bad_rows)
    bad_rows.sort(key=lambda row: row.number)
    return ExampleFile(
        tuple(examples), tuple(bad_rows), columns, chosen, tuple(duplicates),
        content_hash(examples), read.note, read.encoding,
    )  # fmt: skip


KEPT_NAME = re.compile(r".+-[0-9a-f]{8}\.jsonl")  # as `tasks.uploads` writes rows


def is_kept(path: Path) -> bool:
    """Whether a file is one of rows that this program wrote into the user's data.

    Versions before wrote the pictures' absolute paths there; nobody else's rows may name those.
    Pasted text and uploads, whose rows are somebody's, are kept under other names.
    """
    folder = paths.home() / "data"
    if not KEPT_NAME.fullmatch(path.name):
        return False
    try:
        about, same = path.lstat(), path.parent.samefile(folder)
    except OSError:
        return False
    own = sys.platform == "win32" or about.st_uid == os.geteuid()
    return same and own and stat.S_ISREG(about.st_mode)


def content_hash(examples: Sequence[Example]) -> str:
    """SHA-256 of prompts, answers and columns in order, whatever file they came from."""
    rows = [[e.prompt, e.answer, dict(e.columns)] for e in examples]
    text = json.dumps(rows, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _without_usable_row(file: str, table: Table, bad_rows: Sequence[BadRow]) -> UnusableRows:
    worst = min(bad_rows, key=lambda row: row.number)
    message = f"'{file}' has no usable row; the first fault is in row {worst.number}: "
    return UnusableRows(f"{message}{worst.reason}.", table, bad_rows)


def _mapping(file: str, table: Table, wanted: Wanted) -> dict[str, str]:
    """Which columns are the prompt and the answer; a chat column is both."""
    columns = table.columns
    for name in (wanted.prompt, wanted.answer):
        if name and name not in columns:
            raise UnusableRows(
                f"'{file}' has no column '{shown(name)}'; it has {_listed(columns)}: "
                "choose one of these.",
                table,
            )
    chat = next((c for n in CHAT_NAMES for c in columns if c.lower() == n), "")
    prompt = wanted.prompt or _first(columns, PROMPT_NAMES) or chat
    if not prompt:
        raise UnusableRows(
            f"'{file}' has no column for the prompt; it has {_listed(columns)}: "
            "name one 'prompt', or choose which column it is.",
            table,
        )
    answer = wanted.answer or _first([c for c in columns if c != prompt], ANSWER_NAMES)
    lowered = {column.lower() for column in columns}
    if not answer and prompt != chat and not lowered & set(ANSWERING_COLUMNS):
        raise UnusableRows(
            f"'{file}' has no column for the answer; it has {_listed(columns)}: "
            "name one 'answer', or choose which column it is.",
            replace(table, mapping={"prompt": prompt, "answer": ""}),
        )
    return {"prompt": prompt, "answer": answer}


def _first(columns: Sequence[str], names: Sequence[str]) -> str:
    return next((c for name in names for c in columns if c.lower() == name), "")


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"'{shown(name, 20)}'" for name in columns[:8]) or "no columns"


def _example(row: Row, mapping: Mapping[str, str], folder: Path, own: bool) -> Example:
    """`own`: of `is_kept`. Raises `ValueError` with the reason where a row cannot be used."""
    cells = dict(row.cells)
    value = cells.pop(mapping["prompt"], None)
    if isinstance(value, list):
        prompt, answer, columns = _conversation(value)
    else:
        prompt, answer, columns = _text(value), "", {}
        extra = next((cells.pop(n) for n in list(cells) if n.lower() == "input"), None)
        if _text(extra):
            prompt = f"{prompt}\n\n{_text(extra)}"
    if not prompt:
        raise ValueError("the prompt is empty")
    if mapping["answer"]:
        given = cells.pop(mapping["answer"], None)
        answer = _text(given) or answer
    scored = any(n.lower() in ANSWERING_COLUMNS and v not in (None, "") for n, v in cells.items())
    if not answer and not scored:
        raise ValueError("the answer is empty")
    columns |= {n: pictures_of(v, folder, own) for n, v in cells.items() if n in COLUMNS and v}
    cells = {n: v for n, v in cells.items() if n not in COLUMNS}
    columns |= {name: _column(name, value) for name, value in cells.items() if value is not None}
    return Example(prompt, answer, columns)


def _conversation(turns: Sequence[Any]) -> tuple[str, str, dict[str, Any]]:
    """The last question, its answer, and in `messages` what was said before."""
    messages = [_turn(turn) for turn in turns]
    answer = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else ""
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("the conversation has no question before its last answer")
    prompt = messages.pop()["content"]
    return prompt, answer, {"messages": messages} if messages else {}


def _turn(turn: Any) -> dict[str, str]:
    roles = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}
    if not isinstance(turn, Mapping):
        raise ValueError("a turn of the conversation is no object with 'role' and 'content'")
    role = str(turn.get("role") or turn.get("from") or "")
    content = turn.get("content") if "content" in turn else turn.get("value")
    if not role or not isinstance(content, str):
        raise ValueError("a turn of the conversation lacks 'role' or 'content'")
    return {"role": roles.get(role, role), "content": content.strip()}


def _text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, float) and value != value:  # what a table holds for an empty cell
        return ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _column(name: str, value: Any) -> Any:
    """Lists written in a spreadsheet's cell as JSON, and a label as a whole number."""
    if name == "label" and isinstance(value, str | float):
        try:
            return int(float(value))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"the label '{shown(str(value), 30)}' is no number") from error
    if name in _LISTS and isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
        return parsed if isinstance(parsed, list) else [value]
    return value

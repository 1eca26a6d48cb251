"""Examples from the files people have: CSV, TSV, JSONL, JSON, spreadsheets and Parquet.

Content decides, not the file's ending. The question is told whole: a passage stands before it,
alpaca's `input` after it, each under its column's name where there are several or the two are a
pair; a system text is a turn of its own. What each column was taken as is said in a line. A row
that cannot be used is listed with its number and the reason, never dropped in silence. Row numbers
are those a person sees: lines of JSONL, rows of a spreadsheet (its header is row 1), elements of a
JSON list from 1.
"""

import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.errors import T2LocalError
from t2local.pictures import COLUMNS
from t2local.tasks.benchmarks import INDEX, Choices, whole_number
from t2local.tasks.columns import (
    AFTER_NAMES,
    ANSWERING_COLUMNS,
    DETECTED,
    REWARD_COLUMNS,
    SAMPLE,
    BadRow,
    Plan,
    Table,
    UnusableRows,
    Wanted,
    listed_kinds,
    own_plan,
    plan_of,
)
from t2local.tasks.conversations import (
    ASSISTANT,
    SYSTEM,
    USER,
    Turn,
    as_conversation,
    turns_of,
)
from t2local.tasks.rewards import MOST_CHOICES
from t2local.tasks.rows import (
    Example,
    accepted_answers,
    pictures_of,
    plain,
    shown,
    text_of,
    uncollected,
    unpacked,
)
from t2local.tasks.tables import read_rows


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


@uncollected()
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
    folder, own = path.parent, is_kept(path)
    plan = own_plan(table) if own and wanted == DETECTED else plan_of(name, table, wanted)
    mapping = {"prompt": plan.prompt, "answer": plan.answer}
    examples: list[Example] = []
    seen: dict[tuple[str, str], int] = {}
    duplicates = []
    for row in read.rows:
        try:
            example = example_of(row.cells, plan, folder, own)
        except (ValueError, T2LocalError) as reason:
            bad_rows.append(BadRow(row.number, str(reason).rstrip(".")))  # part of a sentence
            continue
        examples.append(example)
        first = seen.setdefault((example.key, example.answer), row.number)
        if first != row.number:
            duplicates.append((row.number, first))
    if not examples:
        raise _without_usable_row(name, replace(table, mapping=mapping), bad_rows)
    bad_rows.sort(key=lambda row: row.number)
    return ExampleFile(
        tuple(examples), tuple(bad_rows), columns, mapping, tuple(duplicates),
        content_hash(examples), read.note, read.encoding, plan.context,
        tuple(f"`{shown(c, 30)}`: {_taken_as(c, plan, examples)}" for c in columns),
    )  # fmt: skip


_LISTS = ("choices", "tests", "test_list")
# Mean something in an example as it is kept, so no other column goes there.
_TAKEN = ("prompt", "answer", "answers", "messages")
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


# --- A row as an example.


def example_of(cells: Mapping[str, Any], plan: Plan, folder: Path, own: bool) -> Example:
    """`own`: of `is_kept`. Raises `ValueError` with the reason where a row cannot be used."""
    value, cell = cells.get(plan.prompt), cells.get(plan.answer)
    if "label" not in plan.used and text_of(cells.get("label")).lower() == "false":
        raise ValueError("its label is false: this answer is not wanted")  # as in KTO's files
    prompt = value.strip() if plan.asks_plainly and isinstance(value, str) else ""
    said, columns, missing = "", {}, ""
    if not prompt:
        prompt, said, columns, missing = asked_of(cells, plan)
    answer = cell.strip() if plan.answers_plainly and isinstance(cell, str) else ""
    right: dict[str, Any] = {}
    if not answer or answer[0] in "[{":
        answer, right = _right(cells, plan, said)
    if columns:
        _show_pictures(columns, folder, own)
    columns |= right
    for name, value in cells.items():
        if name in plan.used or value is None or name.lower() in _TAKEN or name in right:
            continue
        if name in COLUMNS:
            if value:
                columns[name] = _together(pictures_of(value, folder, own), columns.get(name))
        elif (found := _column(name, value)) is not None:
            columns[name] = found
    if not answer and not _scored(columns):
        raise ValueError(missing or "the answer is empty")
    return Example(prompt, answer, columns)


def _scored(columns: Mapping[str, Any]) -> bool:
    """Whether a row with these can be scored without an answer."""
    return any(n.lower() in ANSWERING_COLUMNS and v not in (None, "") for n, v in columns.items())


def asked_of(cells: Mapping[str, Any], plan: Plan) -> tuple[str, str, dict[str, Any], str]:
    """The question, the answer in the conversation, `messages` and `images`, why there is none."""
    value = cells.get(plan.prompt)
    talks = isinstance(value, list) or plan.prompt in plan.chats
    prompt = "" if talks else _whole(text_of(value), cells, plan)
    if not talks and not prompt:
        raise ValueError("the prompt is empty")
    system = text_of(cells.get(plan.system)) if plan.system else ""
    turns = [Turn(SYSTEM, system)] if system else []
    for column in plan.before:
        if cells.get(column) not in (None, "", []):
            turns += turns_of(cells[column])
    replied = plan.answer in plan.chats and cells.get(plan.answer) not in (None, "", [])
    reply = turns_of(cells[plan.answer]) if replied else []
    if not (talks or turns or reply):
        return prompt, "", {}, ""
    if next((turn.role for turn in reply if turn.role != SYSTEM), "") != USER:  # else it is whole
        turns += turns_of(value) if talks else [Turn(USER, prompt)]
    if not (talks or plan.own):
        turns = _without_repeated(turns)
    found = as_conversation(turns + reply)
    if not found.prompt:
        raise ValueError("the prompt is empty")
    columns: dict[str, Any] = {"messages": list(found.before)} if found.before else {}
    if found.pictures:
        columns["images"] = list(found.pictures)
    asked = _whole(found.prompt, cells, plan) if talks else found.prompt
    return asked, found.answer, columns, found.missing


def _without_repeated(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without the last question where those before it end with the same one."""
    *before, asked = turns or [None]
    if not before or asked.role != USER:
        return list(turns)
    if before[-1] == asked:
        return [*before]
    if len(before) > 1 and before[-1].role == ASSISTANT and before[-2] == asked:
        return [*before]  # with the answer that stands there
    return list(turns)


def _whole(text: str, cells: Mapping[str, Any], plan: Plan) -> str:
    """The question with the columns that belong to it; "" where nothing is asked."""
    parts = [(name, found) for name in plan.context if (found := _passage(cells.get(name)))]
    if not parts or not text:
        return text
    after = [part for part in parts if plain(part[0]) in AFTER_NAMES]
    before = [part for part in parts if part not in after]
    parts = [*before, (plan.prompt, text), *after]
    return "\n\n".join(f"{name}: {said}" if plan.titled else said for name, said in parts)


def _passage(value: Any) -> str:
    """A text, or the texts of a list or an object one below another."""
    value = unpacked(value)
    if isinstance(value, Mapping):
        texts = [
            value[name] for name in ("contexts", "sentences", "passages", "text") if name in value
        ]
        value = texts or list(value.values())
    if isinstance(value, list):
        return "\n\n".join(text for part in value if (text := _passage(part)))
    return text_of(value)


def _right(cells: Mapping[str, Any], plan: Plan, said: str) -> tuple[str, dict[str, Any]]:
    """The answer, and the columns that say which are right: choices, or several answers."""
    if plan.choices and any(cells.get(c) not in (None, "", []) for c in plan.choices.columns):
        texts, label, told = plan.choices.read(cells)
        if plan.answer not in (plan.choices.right, ""):
            told = text_of(cells.get(plan.answer))
        elif plan.chosen == ("choices", "label"):
            told = ""  # as rows are kept
        return told, {"choices": texts, "label": label}
    cell = cells.get(plan.answer)
    if plan.kinds and text_of(cell):
        label = _label(cell, plan)
        return plan.kinds[label], {"choices": list(plan.kinds), "label": label}
    if plan.answer in plan.chats:
        return said, {}
    given = accepted_answers(cell) if plan.several else [text_of(cell)]
    for column in plan.others:
        given += accepted_answers(cells.get(column))
    given = [one for one in dict.fromkeys(given) if one] or [said]
    if not given[0] and isinstance(unpacked(cell), list | dict):
        raise ValueError("the question has no answer, its list of answers is empty")
    return given[0], {"answers": given} if len(given) > 1 else {}


def _label(cell: Any, plan: Plan) -> int:
    """The place of a row's label among the kinds."""
    said = text_of(cell)
    if plan.first is None:
        return plan.kinds.index(said)
    number = whole_number(cell)
    if number == -1:
        raise ValueError("the label is -1: the row is not labelled")
    if number is None or not 0 <= number - plan.first < len(plan.kinds):
        raise ValueError(f"the label {shown(said, 30)} has no name")
    return number - plan.first


def _show_pictures(columns: Mapping[str, Any], folder: Path, own: bool) -> None:
    """Make those of turns paths or data URIs, in place."""
    turns = columns.get("messages", ())
    for pictured in [*(turn for turn in turns if "images" in turn), columns]:
        if "images" in pictured:
            pictured["images"] = [pictures_of(one, folder, own) for one in pictured["images"]]


def _together(found: str | list[str], earlier: list[str] | None) -> str | list[str]:
    if not earlier:
        return found
    return [*earlier, *([found] if isinstance(found, str) else found)]


def _column(name: str, value: Any) -> Any:
    """Lists written in a spreadsheet's cell as JSON, and a label as a whole number."""
    if name == "label":
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"the label '{value}' is no number")
        return whole_number(value)
    if name in _LISTS and isinstance(value, str):
        found = unpacked(value)
        return found if isinstance(found, list) else [value]
    return value


# --- What was found, in words.


def _taken_as(column: str, plan: Plan, examples: Sequence[Example]) -> str:
    """What a column was taken as, in some words."""
    if column in plan.chats and column in (plan.prompt, plan.answer):
        several = sum(any(t["role"] == ASSISTANT for t in e.before) for e in examples)
        many = f", {several} rows have several" if several else ""
        return f"conversations; the last answer is learnt{many}"
    if column == plan.prompt:
        return "the question"
    if column in plan.context:
        return f"part of the question, {'after' if plain(column) in AFTER_NAMES else 'before'} it"
    if plan.choices and column in plan.chosen:
        return _choice_words(column, plan.choices, examples)
    if column == plan.answer:
        return _answer_words(plan, examples)
    roles = ((plan.before, "turns before the question"), (plan.others, "more right answers"),
             ((plan.system,), "a system turn, said first"), (COLUMNS, "what the question shows"),
             (REWARD_COLUMNS, "for the reward"))  # fmt: skip
    return next((words for columns, words in roles if column in columns), "left out")


def _choice_words(column: str, choices: Choices, examples: Sequence[Example]) -> str:
    if column in choices.columns:
        counts = sorted({len(e.columns["choices"]) for e in examples if e.columns.get("choices")})
        many = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else "".join(map(str, counts))
        if choices.wrong:
            return f"wrong, of {many} choices a row"
        return f"one of {many} choices" if len(choices.columns) > 1 else f"choices, {many} a row"
    if choices.wrong:
        return "the right answer, at a place among the wrong ones that the row decides"
    counted = f", counted from {choices.first}" if choices.way == INDEX else ""
    return f"which choice is right, by {choices.way}{counted}"


def _answer_words(plan: Plan, examples: Sequence[Example]) -> str:
    if plan.kinds:
        return f"{len(plan.kinds)} kinds ({listed_kinds(plan.kinds)}), taken as choices"
    most = max((len(example.answers) for example in examples), default=0)
    if most > 1:
        return f"up to {most} right answers a row"
    kinds = {example.answer for example in examples[:SAMPLE]}
    few = 2 <= len(kinds) <= min(MOST_CHOICES, len(examples) // 2)
    return (
        f"the answer, {len(kinds)} kinds ({listed_kinds(sorted(kinds))})" if few else "the answer"
    )


# --- A look at a file, whatever comes of it: for a person who can choose to have it read otherwise.


@dataclass(frozen=True)
class Look:
    """A file as `wanted` reads it.

    `file`: its examples, None where none came of it. `table`: its rows in that case, None where the
    file is no table at all. `problem`: why it cannot serve, "" where it can. `asks`: the field of
    `Wanted` whose choice would mend it, "" where none is known.
    """

    path: Path
    wanted: Wanted
    file: ExampleFile | None = None
    table: Table | None = None
    bad_rows: Sequence[BadRow] = ()
    problem: str = ""
    asks: str = ""

    @property
    def read(self) -> ExampleFile | Table | None:
        """What is known of columns, encoding and note."""
        return self.file or self.table


Read = Callable[[Path, Wanted], ExampleFile]
Fits = Callable[[str, ExampleFile], None]  # raises `T2LocalError` where rows cannot serve


def look_by(read: Read, path: Path, wanted: Wanted, fits: Fits | None) -> Look:
    """Read a file and say what came of it; raises nothing for one that cannot be used.

    `read`: as `read_examples`. `fits`: what else is asked of the examples.
    """
    try:
        file = read(path, wanted)
    except UnusableRows as error:
        asks = _mended_by(error, wanted)
        return Look(path, wanted, None, error.table, error.bad_rows, str(error), asks)
    except T2LocalError as error:
        table, asks = _read_otherwise(path, wanted)
        return Look(path, wanted, None, table, (), str(error), asks)
    problem = ""
    try:
        if fits:
            fits(path.name, file)
    except T2LocalError as error:
        problem = str(error)
    return Look(path, wanted, file, None, file.bad_rows, problem)


def _mended_by(error: UnusableRows, wanted: Wanted) -> str:
    """Columns that are not there, or not known; names for numbers."""
    table = error.table
    named = {
        "prompt": (wanted.prompt,),
        "answer": (wanted.answer,),
        "context": wanted.context or (),
    }
    for part, columns in named.items():
        if not {column for column in columns if column} <= set(table.columns):
            return part
    unknown = [part for part in ("prompt", "answer") if not table.mapping.get(part)]
    if unknown and not error.bad_rows:
        return unknown[0]
    return "label_names" if numbers_as_labels(table) else ""


def _read_otherwise(path: Path, wanted: Wanted) -> tuple[Table | None, str]:
    """The rows as another choice reads them, and which; where no choice does, None."""
    others = {
        "without_header": replace(wanted, without_header=not wanted.without_header),
        "encoding": replace(wanted, encoding=""),
    }
    for asks, other in others.items():
        if other == wanted or not path.is_file():
            continue
        try:
            read = read_rows(path, other.encoding, other.without_header)
        except T2LocalError:
            continue
        if len(read.rows) < 2:  # a header and nothing else is none that another choice mends
            continue
        columns = tuple(dict.fromkeys(column for row in read.rows for column in row.cells))
        return Table(columns, tuple(read.rows), read.encoding, note=read.note), asks
    return None, ""


def numbers_as_labels(table: Table) -> bool:
    """Whether the answers count kinds from 0 or 1, as data sets store them: they need names."""
    named = table.mapping.get("answer") or next(
        (column for column in table.columns if column.lower() == "label"), ""
    )
    cells = [str(row.cells.get(named, "")).strip() for row in table.rows]
    kinds = {int(cell) for cell in cells if cell.isdecimal() and len(cell) < 3}
    counted = kinds and kinds == set(range(min(kinds), max(kinds) + 1)) and min(kinds) < 2
    repeated = 2 <= len(kinds) <= min(MOST_CHOICES, len(cells) / 2)
    return bool(counted and repeated and all(cell.isdecimal() for cell in cells if cell))

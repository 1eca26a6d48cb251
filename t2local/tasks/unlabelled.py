"""A table to be labelled: what each row asks, and the table given back with more columns.

Rows are read as those to train on are (`tasks.files`), so the same file asks the same of a model in
training and here; only that an answer is not needed. What comes back has every column and every row
that could be read, in their order, under the same delimiter.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.columns import Plan, Table, UnusableRows, Wanted, plan_of
from t2local.tasks.delimited import delimiter_of
from t2local.tasks.encodings import decoded
from t2local.tasks.files import example_of
from t2local.tasks.rows import Example, Row, RowsRead, shown
from t2local.tasks.tables import read_rows

STAND_IN = "answer"  # a column that is added, for a table to be read as one to train on
CSV, TSV, JSONL = ".csv", ".tsv", ".jsonl"
KINDS = (CSV, TSV, JSONL)
DELIMITERS = (",", ";", "\t")  # of what is written; others are read alone
MARKS = (*DELIMITERS, "|", '"', "{", "[")  # a header with one of these is not one name
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


@dataclass(frozen=True)
class AskedRow:
    """`example`: what a model is asked, without an answer; None: see `problem`."""

    row: Row
    example: Example | None
    problem: str = ""


@dataclass(frozen=True)
class Unlabelled:
    """`prompt`: the column that asks. `context`: others that belong to it. `bad`: (number, reason)
    of rows that could not even be read. `delimiter`: of a text table, else a comma.
    """

    columns: tuple[str, ...]
    rows: tuple[AskedRow, ...]
    prompt: str
    context: tuple[str, ...] = ()
    bad: tuple[tuple[int, str], ...] = ()
    delimiter: str = ","
    note: str = ""


def read_unlabelled(path: Path, column: str = "", without_header: bool = False) -> Unlabelled:
    """`column`: the one that asks, "" to detect it. `without_header`: the first row is one too.

    Raises `T2LocalError` for what is no table, and where it is unclear which column asks.
    """
    name, wanted = shown(path.name), Wanted(prompt=column, without_header=without_header)
    read = _read(path, without_header)
    table = Table(_columns(read.rows), tuple(read.rows), read.encoding, note=read.note)
    if len(table.columns) == 1:
        wanted = replace(wanted, prompt=column or table.columns[0])
    plan = _plan(name, table, wanted)
    rows = tuple(_asked(row, plan, path.parent) for row in read.rows)
    bad = tuple((number, reason) for number, reason in read.bad)
    delimiter = _delimiter(path, read.encoding)
    return Unlabelled(table.columns, rows, plan.prompt, plan.context, bad, delimiter, read.note)


def columns_of(path: Path, without_header: bool = False) -> tuple[str, ...]:
    """The columns of a table. Raises `T2LocalError` for what is none."""
    return _columns(_read(path, without_header).rows)


def _columns(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for row in rows for column in row.cells))


def _read(path: Path, without_header: bool) -> RowsRead:
    """All rows; of a list of texts under one name each line is a row, whatever stands in it."""
    try:
        read = read_rows(path, without_header=without_header)
    except T2LocalError:
        listed = [] if without_header else _one_a_line(path)
        if not listed:
            raise
        return RowsRead(listed, ())
    if read.bad and not without_header and (listed := _one_a_line(path)):
        return replace(read, rows=listed, bad=())
    if not read.rows:
        why = f"row {read.bad[0][0]}: {read.bad[0][1].rstrip('.')}" if read.bad else "it has none"
        raise T2LocalError(
            f"'{shown(path.name)}' has no rows that can be read ({why}); give it a row with the "
            "columns' names and a row for each text, with quotes around cells that need them."
        )
    return read


def _one_a_line(path: Path) -> list[Row]:
    """The lines below a name that stands alone; [] where they may be something else."""
    try:
        text = decoded(path.name, path.read_bytes(), "").text
    except (OSError, T2LocalError):
        return []
    header, *lines = text.strip("\ufeff\r\n ").splitlines() or [""]
    alone = header.strip() and not any(mark in header for mark in MARKS)
    if not alone or any(line.startswith('"') for line in lines):
        return []
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 2)]
    return [Row(number, {header.strip(): line}) for number, line in numbered if line]


def _plan(name: str, table: Table, wanted: Wanted) -> Plan:
    """How rows are asked. What they are asked with is found as in training, their answer aside."""
    if wanted.prompt and wanted.prompt not in table.columns:
        plan_of(name, table, wanted)  # which says so
    try:
        found = plan_of(name, table, wanted)
        wanted = replace(wanted, prompt=found.prompt, context=found.context)
    except UnusableRows:  # no answer, or one that training would ask more about
        pass
    answer = _free(STAND_IN, table.columns)
    rows = tuple(Row(row.number, {**row.cells, answer: "?"}) for row in table.rows)
    filled = Table((*table.columns, answer), rows, table.encoding)
    try:
        return plan_of(name, filled, replace(wanted, answer=answer))
    except UnusableRows as error:
        raise T2LocalError(
            f"Which column of '{name}' is to be labelled is unclear; choose one of "
            f"{', '.join(shown(c, 30) for c in table.columns[:12])}."
        ) from error


def _asked(row: Row, plan: Plan, folder: Path) -> AskedRow:
    """As in training, its pictures too; what it says of a label counts for nothing."""
    cells = {n: v for n, v in row.cells.items() if n != "label" or n in plan.used}
    try:
        example = example_of({**cells, plan.answer: "?"}, plan, folder, False)
    except (ValueError, T2LocalError) as reason:
        return AskedRow(row, None, str(reason).rstrip("."))
    return AskedRow(row, replace(example, answer=""))


def _delimiter(path: Path, encoding: str) -> str:
    if not encoding or path.suffix.lower() in (JSONL, ".json"):
        return ","
    found = delimiter_of(decoded(path.name, path.read_bytes(), encoding).text)
    return found if found in DELIMITERS else ","


# --- The table given back.


def with_columns(table: Unlabelled, more: Sequence[Mapping[str, str]], kind: str) -> bytes:
    """The table with what `more` says of each row, as a file of a `kind` of `KINDS`.

    A name that the table has already gets " (t2local)" after it. Raises `T2LocalError`.
    """
    if kind not in KINDS:
        raise T2LocalError(f"A table is written as {', '.join(KINDS)}, not as '{shown(kind)}'.")
    names = {name: _free(name, table.columns) for name in (more[0] if more else ())}
    safe = str if kind == JSONL else inert
    rows = [
        {**asked.row.cells, **{names[n]: safe(v) for n, v in said.items()}}
        for asked, said in zip(table.rows, more, strict=True)
    ]
    if kind == JSONL:
        lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows)
        return ("\n".join(lines) + "\n").encode()
    out = io.StringIO(newline="")
    delimiter = "\t" if kind == TSV else table.delimiter
    columns = [*table.columns, *names.values()]
    writer = csv.DictWriter(out, columns, delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: _cell(row.get(name)) for name in columns} for row in rows)
    return out.getvalue().encode("utf-8-sig")  # by which spreadsheets know it


def kind_of(path: Path) -> str:
    """As what a labelled file is given back."""
    ending = path.suffix.lower()
    return ending if ending in KINDS else JSONL if ending in (".json", ".ndjson") else CSV


def inert(text: str) -> str:
    """A text that no spreadsheet runs, where somebody else may have made it.

    >>> inert("=1+1"), inert("-1"), inert("+")
    ("'=1+1", '-1', '+')
    """
    harmless = len(text) < 2 or _NUMBER.fullmatch(text)
    return f"'{text}" if text.startswith(FORMULA) and not harmless else text


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name = f"{name} (t2local)"
    return name


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)

"""A table to be labelled: what each row asks, and the table given back with more columns.

Rows are read as those to train on are (`tasks.files`), so the same file asks the same of a model in
training and here; only that an answer is not needed. What comes back has every column and every row
that could be read, in their order, under the same delimiter.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.columns import Plan, Table, UnusableRows, Wanted, plan_of
from t2local.tasks.delimited import delimiter_of
from t2local.tasks.encodings import decoded
from t2local.tasks.files import asked_of, example_of
from t2local.tasks.rows import Example, Row, shown
from t2local.tasks.tables import read_rows

STAND_IN = "answer"  # a column that is added where nothing says what is right
CSV, TSV, JSONL = ".csv", ".tsv", ".jsonl"
KINDS = (CSV, TSV, JSONL)
DELIMITERS = (",", ";", "\t")  # of what is written; others are read alone
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


@dataclass(frozen=True)
class AskedRow:
    """`example`: what a model is asked, its answer where the file has one; None: see `problem`."""

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


def columns_of(path: Path) -> tuple[str, ...]:
    """The columns of a table. Raises `T2LocalError` for what is none."""
    read = read_rows(path)
    return tuple(dict.fromkeys(column for row in read.rows for column in row.cells))


def read_unlabelled(path: Path, column: str = "") -> Unlabelled:
    """`column`: the one that asks, "" to detect it.

    Raises `T2LocalError` for what is no table, and where it is unclear which column asks.
    """
    name, wanted = shown(path.name), Wanted(prompt=column)
    read = read_rows(path)
    if not read.rows:
        raise T2LocalError(f"'{name}' has no rows that can be read; add some to be labelled.")
    columns = tuple(dict.fromkeys(column for row in read.rows for column in row.cells))
    table = Table(columns, tuple(read.rows), read.encoding, note=read.note)
    plan, answered = _plan(name, table, wanted)
    rows = tuple(_asked(row, plan, answered, path.parent) for row in read.rows)
    delimiter = _delimiter(path, read.encoding)
    bad = tuple((number, reason) for number, reason in read.bad)
    return Unlabelled(columns, rows, plan.prompt, plan.context, bad, delimiter, read.note)


def _plan(name: str, table: Table, wanted: Wanted) -> tuple[Plan, bool]:
    """How rows are read, and whether they have answers."""
    try:
        return plan_of(name, table, wanted), True
    except UnusableRows as error:
        if wanted.prompt and wanted.prompt not in table.columns:
            raise
        rows = tuple(Row(row.number, {**row.cells, STAND_IN: "?"}) for row in table.rows)
        filled = Table((*table.columns, STAND_IN), rows, table.encoding)
        try:
            return plan_of(name, filled, Wanted(prompt=wanted.prompt, answer=STAND_IN)), False
        except UnusableRows:
            raise T2LocalError(
                f"Which column of '{name}' is to be labelled is unclear; choose one of "
                f"{', '.join(shown(c, 30) for c in table.columns[:12])}."
            ) from error


def _asked(row: Row, plan: Plan, answered: bool, folder: Path) -> AskedRow:
    if answered:
        try:
            return AskedRow(row, example_of(row.cells, plan, folder, False))
        except (ValueError, T2LocalError):
            pass  # its answer may be what is missing
    try:
        prompt, _, columns, _ = asked_of(row.cells, plan)
    except (ValueError, T2LocalError) as reason:
        return AskedRow(row, None, str(reason).rstrip("."))
    return AskedRow(row, Example(prompt, "", columns))


def _delimiter(path: Path, encoding: str) -> str:
    if not encoding or path.suffix.lower() in (JSONL, ".json"):
        return ","
    found = delimiter_of(decoded(path.name, path.read_bytes(), encoding).text)
    return found if found in DELIMITERS else ","


# --- The table given back.


def with_columns(table: Unlabelled, more: Sequence[Mapping[str, Any]], kind: str) -> bytes:
    """The table with what `more` says of each row, as a file of a `kind` of `KINDS`.

    A name that the table has already gets " (t2local)" after it. Raises `T2LocalError`.
    """
    if kind not in KINDS:
        raise T2LocalError(f"A table is written as {', '.join(KINDS)}, not as '{shown(kind)}'.")
    names = {name: _free(name, table.columns) for name in (more[0] if more else ())}
    rows = [
        {**asked.row.cells, **{names[n]: v for n, v in said.items()}}
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
    """A text that no spreadsheet runs, where somebody else may have made it."""
    return f"'{text}" if len(text) > 1 and text.startswith(FORMULA) else text


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

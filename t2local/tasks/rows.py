"""What every reader of a file gives: rows with their numbers, the bad ones, and what to tell.

Knows no file format.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from t2local.errors import T2LocalError

DEEPEST = 50  # lists and objects inside one another that a row may hold

Bad = tuple[int, str]
Record = tuple[int, Sequence[str] | None]  # None: its cells could not be told apart


@dataclass(frozen=True)
class Row:
    """`number` as a person counts it in that kind of file."""

    number: int
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class RowsRead:
    """`bad`: (number, reason) of rows that could not be read. `note`: whole sentences, or ""."""

    rows: Sequence[Row]
    bad: Sequence[Bad]
    note: str = ""


def shown(text: str, most: int = 60) -> str:
    """A file's own text inside a sentence: one line, printable, cut after `most` characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def named_rows(file: str, records: Iterable[Record]) -> RowsRead:
    """Rows of a table by the names in its first row. Raises `T2LocalError` when it has none."""
    records = iter(records)
    first = next((cells for _, cells in records if cells is None or any(map(str.strip, cells))), [])
    header, note = _header((first or [])[: _filled(first or [])])
    if not any(header):
        raise T2LocalError(f"'{file}' has no header row; name its columns in the first row.")
    rows: list[Row] = []
    bad: list[Bad] = []
    for number, cells in records:
        if cells is None:
            bad.append((number, "a quotation mark is not closed, or has text right after it"))
        elif (filled := _filled(cells)) > len(header):
            bad.append((number, f"{filled} cells, but the header has {len(header)}"))
        elif filled:
            named = zip_longest(header, cells[: len(header)], fillvalue="")
            rows.append(Row(number, {column: cell for column, cell in named if column}))
    return RowsRead(rows, bad, note)


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


def _filled(cells: Sequence[str]) -> int:
    """How many cells there are up to the last that is not blank."""
    return max((place for place, cell in enumerate(cells, 1) if cell.strip()), default=0)


def _header(cells: Sequence[str]) -> tuple[list[str], str]:
    """Different names: a repeated one gets its place among its equals, and a note says so."""
    names: list[str] = []
    repeated: list[str] = []
    for cell in cells:
        name = cell.strip()
        if name and name in names:
            repeated.append(name)
            place = 2
            while f"{name} ({place})" in names:
                place += 1
            name = f"{name} ({place})"
        names.append(name)
    if not repeated:
        return names, ""
    return names, (
        f"More than one column is called '{shown(repeated[0])}'; "
        f"the later one is '{shown(repeated[0])} (2)' here."
    )


def _fault(value: Any) -> str:
    """Why a row's value can be neither shown nor written again, or ""."""
    level = [value]
    for _ in range(DEEPEST):
        deeper: list[Any] = []
        for part in level:
            if isinstance(part, str) and not _encodes(part):
                return "half of a character (a lone surrogate) stands in it"
            if isinstance(part, Mapping):
                deeper += [*part, *part.values()]
            elif isinstance(part, list):
                deeper += part
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

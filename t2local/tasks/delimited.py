"""Rows of CSV and TSV: the delimiter is found out, and a stray quotation mark costs one row only.

A quotation mark that is never closed, or is closed by one far below, would swallow all rows in
between. So a record that breaks the rules of quoting, or does not fit the header while a line
inside it does, is its first line alone: that is listed as bad, and reading goes on after it.
Two stray marks that are valid quoting together cannot be told from a cell of several lines.
"""

import csv
import io
from collections.abc import Iterator, Sequence

from t2local.errors import T2LocalError
from t2local.tasks.rows import Record, RowsRead, named_rows

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE = 20  # records
_LONGEST_CELL = 2**31 - 1  # characters: the size of the file is the limit


def table_rows(name: str, text: str) -> RowsRead:
    """Rows of a table whose first row names its columns; numbers count rows, the header is 1.

    Raises `T2LocalError` for a table without a header.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = list(io.StringIO(text.replace("\0", ""), newline=""))
    if not lines:
        raise T2LocalError(f"'{name}' has no header row; name its columns in the first row.")
    return named_rows(name, _records(lines, _delimiter(lines)))


def _records(lines: Sequence[str], delimiter: str) -> Iterator[Record]:
    number, start, width = 0, 0, 0
    while start < len(lines):
        ahead = (lines[i] for i in range(start, len(lines)))
        reader = csv.reader(ahead, delimiter=delimiter, strict=True)
        first = start
        while True:
            try:
                cells = next(reader, None)
            except csv.Error:
                broken = True
            else:
                if cells is None:
                    return
                inside = range(first + 1, start + reader.line_num - 1)
                broken = len(cells) != width and any(
                    _width(lines[i], delimiter) == width for i in inside
                )
            number += 1
            if broken:
                yield number, None
                start = first + 1
                break
            width = width or len(cells)
            yield number, cells
            first = start + reader.line_num


def _width(line: str, delimiter: str) -> int:
    """How many cells a line has on its own; -1 where its quoting is broken."""
    try:
        return len(next(csv.reader([line], delimiter=delimiter, strict=True), []))
    except csv.Error:
        return -1


def _delimiter(lines: Sequence[str]) -> str:
    """The one that cuts the first rows into the same number of cells, and into most of them."""

    def score(delimiter: str) -> tuple[float, int]:
        records = zip(range(_SAMPLE), _records(lines, delimiter), strict=False)
        widths = [len(cells or []) for _, (_, cells) in records if cells != []]
        if not widths or widths[0] < 2:
            return (0.0, 0)
        return (sum(width == widths[0] for width in widths) / len(widths), widths[0])

    return max(DELIMITERS, key=score)

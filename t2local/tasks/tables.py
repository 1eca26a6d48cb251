"""Rows of cells from the bytes of a file: encoding, delimiter and format are found out.

Knows nothing of what the columns mean.
"""

import codecs
import csv
import importlib.util
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2local.errors import T2LocalError

MOST_BYTES = 200 * 2**20
_PARQUET = b"PAR1"
_DELIMITERS = (",", ";", "\t", "|")
_ROW_LISTS = ("data", "examples", "rows", "train")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Bad = tuple[int, str]


@dataclass(frozen=True)
class Row:
    """`number` as a person counts it in that kind of file."""

    number: int
    cells: Mapping[str, Any]


def read_rows(path: Path) -> tuple[list[Row], list[Bad]]:
    """The rows of a file, and (number, reason) of those that could not be read.

    Raises `T2LocalError` for a file that is no table at all.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise T2LocalError(
                f"'{path.name}' has {size // 2**20} MB, the most is {MOST_BYTES // 2**20} MB; "
                "take a part of it."
            )
        content = path.read_bytes()
    except OSError as error:
        raise T2LocalError(
            f"'{path}' cannot be read ({error.strerror}); choose another file."
        ) from error
    if not content.strip():
        raise T2LocalError(f"'{path.name}' is empty; add at least one prompt with its answer.")
    if content.startswith(_PARQUET):
        return _parquet(path), []
    text = decoded(path.name, content)
    if text.lstrip()[:1] in ("{", "["):
        return _json(path.name, text)
    return _table(path.name, text)


def decoded(name: str, content: bytes) -> str:
    """The text of a file: by its byte order mark, else UTF-8, UTF-16 or Windows Latin.

    Raises `T2LocalError` for what is no text.
    """
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    zeros = content[:4096].count(0)
    if zeros:
        even = content[:4096:2].count(0)
        for encoding, share in (("utf-16-be", even), ("utf-16-le", zeros - even)):
            if share > 0.3 * len(content[:4096:2]) and share > 0.9 * zeros:
                return content.decode(encoding, "replace")
        raise T2LocalError(
            f"'{name}' is no text; use JSONL, JSON, CSV, TSV or Parquet "
            "(from a spreadsheet: save as CSV)."
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _parquet(path: Path) -> list[Row]:
    if importlib.util.find_spec("pyarrow") is None:
        raise T2LocalError(
            f"'{path.name}' is a Parquet file, which needs the package 'pyarrow'; "
            "run 'pip install pyarrow', or save the table as CSV or JSONL."
        )
    import pandas

    try:
        table = pandas.read_parquet(path)
    except (ValueError, OSError) as error:
        raise T2LocalError(
            f"'{path.name}' is a damaged Parquet file ({error}); save it anew."
        ) from error
    rows = json.loads(table.to_json(orient="records", date_format="iso"))
    return [Row(number, row) for number, row in enumerate(rows, 1)]


def _json(name: str, text: str) -> tuple[list[Row], list[Bad]]:
    """A list of objects, an object that holds one, or an object a line."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[0] == "{":
            return _json_lines(text)
        raise T2LocalError(f"'{name}' is no valid JSON ({error}); mend it there.") from error
    if isinstance(value, dict):
        held = next((value[key] for key in _ROW_LISTS if isinstance(value.get(key), list)), None)
        value = [value] if held is None else held
    return _sorted_out(enumerate(value, 1))


def _json_lines(text: str) -> tuple[list[Row], list[Bad]]:
    rows: list[Row] = []
    bad: list[Bad] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.append((number, f"no valid JSON ({error})"))
            continue
        good, refused = _sorted_out([(number, value)])
        rows += good
        bad += refused
    return rows, bad


def _sorted_out(values: Any) -> tuple[list[Row], list[Bad]]:
    rows: list[Row] = []
    bad: list[Bad] = []
    for number, value in values:
        if isinstance(value, dict):
            rows.append(Row(number, value))
        else:
            bad.append((number, f"a {type(value).__name__} instead of an object with columns"))
    return rows, bad


def _table(name: str, text: str) -> tuple[list[Row], list[Bad]]:
    csv.field_size_limit(MOST_BYTES)
    try:
        records = iter(list(_records(text, _delimiter(text))))
    except csv.Error as error:
        raise T2LocalError(
            f"'{name}' is no table that can be read ({error}); save it anew as CSV."
        ) from error
    header = [cell.strip() for cell in next(records, (0, []))[1]]
    if not any(header):
        raise T2LocalError(f"'{name}' has no header row; name its columns in the first row.")
    rows: list[Row] = []
    bad: list[Bad] = []
    for number, cells in records:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
            bad.append((number, f"{len(cells)} cells, but the header has {len(header)}"))
            continue
        named = zip(header, cells, strict=False)
        rows.append(Row(number, {column: cell for column, cell in named if column}))
    return rows, bad


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    lines = io.StringIO(text.replace("\0", ""), newline="")
    return enumerate(csv.reader(lines, delimiter=delimiter), 1)


def _delimiter(text: str) -> str:
    """The one that cuts the first rows into the same number of cells, and into most of them."""

    def score(delimiter: str) -> tuple[float, int]:
        sample = [cells for _, cells in zip(range(20), _records(text, delimiter), strict=False)]
        widths = [len(cells) for _, cells in sample if cells]
        if not widths or widths[0] < 2:
            return (0.0, 0)
        return (sum(width == widths[0] for width in widths) / len(widths), widths[0])

    return max(_DELIMITERS, key=score)

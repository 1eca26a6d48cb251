"""A file's bytes as rows of cells: CSV, TSV, JSON, JSONL, Parquet and spreadsheets.

Content decides on format and encoding, not the file's ending. A process of its own reads
spreadsheets (`workbook_reader`). What the columns mean is told in `tasks.files`.
"""

import datetime
import io
import json
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from t2local.errors import T2LocalError
from t2local.pictures import data_uri, picture_kind
from t2local.tasks.cell_formats import BUILT_IN, is_format, shown_number
from t2local.tasks.delimited import named_rows, table_rows
from t2local.tasks.encodings import decoded
from t2local.tasks.json_shapes import json_inside, json_rows
from t2local.tasks.rewards.math_worker import held_bytes
from t2local.tasks.rows import Row, RowsRead, check_columns, objects, shown, uncollected
from t2local.tasks.sandbox import bare_environment

MOST_BYTES = 200 * 2**20
_PARQUET = b"PAR1"


@uncollected()
def read_rows(path: Path, encoding: str = "", without_header: bool = False) -> RowsRead:
    """The rows of a file, and (number, reason) of those that could not be read.

    `encoding`: of a text, "" to detect it. `without_header`: a table's first row is no header.
    Raises `T2LocalError` for a file that is no table at all.
    """
    name = shown(path.name)
    content = _content(name, path)
    if content.startswith(_PARQUET):
        return parquet_rows(name, content)  # looks at its columns before it reads them
    if content.startswith(STARTS):
        return workbook_rows(name, path, content, without_header)
    found = decoded(name, content, encoding)
    text = found.text
    if not text.strip("\0\ufeff \t\r\n"):
        raise T2LocalError(f"'{name}' is empty; add at least one prompt with its answer.")
    read = _text_rows(name, text, without_header)
    _check_names(name, read.rows)
    notes = [found.note, read.note]
    lost = text.count("\ufffd") - content.count("\ufffd".encode())
    if lost > 0:
        notes.append(
            f"{lost} characters could not be read and show as \ufffd; save the file as UTF-8."
        )
    note = " ".join(note for note in notes if note)
    return RowsRead(read.rows, read.bad, note, found.encoding)


def _check_names(name: str, rows: Sequence[Row]) -> None:
    """Raise `T2LocalError` where the rows have too many names between them.

    A table of such rows would have a cell for each row and name.
    """
    found: set[str] = set()
    for row in rows:
        if not found.issuperset(row.cells):
            found.update(row.cells)
            check_columns(name, len(found))


def _content(name: str, path: Path) -> bytes:
    """The bytes of a file of bearable size, which is asked for before anything is read."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise T2LocalError(
                f"'{name}' has {size // 2**20} MB, the most is {MOST_BYTES // 2**20} MB; "
                "take a part of it."
            )
        content = path.read_bytes()
    except OSError as error:
        raise T2LocalError(
            f"'{path}' cannot be read ({error.strerror}); choose another file."
        ) from error
    if not content.strip():
        raise T2LocalError(f"'{name}' is empty; add at least one prompt with its answer.")
    return content


def _text_rows(name: str, text: str, without_header: bool) -> RowsRead:
    if text.lstrip()[:1] in ("{", "["):
        return json_rows(name, text)
    if (read := json_inside(name, text)) is not None:
        return read
    return table_rows(name, text, without_header)


# --- Parquet; rows count from 1, for there is no header row.

MOST_UNPACKED_BYTES = 2**30


def parquet_rows(name: str, content: bytes) -> RowsRead:
    """All rows. Raises `T2LocalError` for a damaged file, or one that is too large unpacked."""
    import pyarrow.parquet  # a tenth of a second that most starts can do without

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        check_columns(name, len(file.schema))
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > MOST_UNPACKED_BYTES:
            raise T2LocalError(
                f"'{name}' has {unpacked // 2**20} MB when unpacked, the most is "
                f"{MOST_UNPACKED_BYTES // 2**20} MB; take a part of it."
            )
        rows = file.read(use_threads=False).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, TypeError) as error:
        raise T2LocalError(
            f"'{name}' is a damaged Parquet file ({shown(str(error), 120)}); save it anew."
        ) from error
    return objects((number, _plain(row)) for number, row in enumerate(rows, 1))


def _plain(value: Any) -> Any:
    """What JSON has a word for; a whole number in a column of decimals is written as one."""
    match value:
        case Mapping():
            return {str(key): _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case float() if value.is_integer() and abs(value) < 1e15:
            return int(value)
        case bytes() if picture_kind(value):
            return data_uri(value)
        case bytes():
            return value.decode("utf-8", "replace")
        case datetime.datetime() if value.time() == datetime.time():
            return str(value.date())
        case datetime.date() | datetime.time() | datetime.timedelta() | Decimal():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    return str(value)


# --- Spreadsheets (.xlsx, .xlsm, .xlsb, .xls, .ods), read by a process of its own.

READER = Path(__file__).with_name("workbook_reader.py")
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # old Office
STARTS = (b"PK\x03\x04", OLE)
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # a stream of every protected .xlsx
PASSWORD = "password"  # what the process apart says of protection
_PARTS = ("xl/workbook.xml", "xl/workbook.bin", "content.xml")
MOST_MEMORY_BYTES = 4 * 2**30
MOST_S = 120
WATCH_S = 0.2  # between two looks at the reading process's memory
_OTHERS_SHOWN = 5


def workbook_rows(name: str, path: Path, content: bytes, without_header: bool = False) -> RowsRead:
    """Rows of the first sheet that has some, under the sheet's own row numbers.

    Raises `T2LocalError` for a workbook that is
    empty, damaged, protected or too large, and for any other zip archive or Office file.
    """
    if _is_other_archive(path):
        raise T2LocalError(
            f"'{name}' is an archive or a document, no workbook; unpack it, or save a table as CSV."
        )
    protected = content.startswith(OLE) and ENCRYPTED in content
    found = {"fault": PASSWORD} if protected else _read_apart(name, path)
    if found.get("fault") == PASSWORD:
        raise T2LocalError(f"'{name}' is protected by a password; save it without one, or as CSV.")
    if fault := found.get("fault"):
        raise T2LocalError(
            f"'{name}' is no workbook that can be read ({shown(fault, 120)}); "
            "save it anew as .xlsx or CSV."
        )
    if not found["rows"]:
        raise T2LocalError(f"'{name}' is empty; add at least one prompt with its answer.")
    sheet, unshown = found["sheet"], Counter()
    bad = [
        (int(row), f"cell {cell} of the sheet '{shown(sheet, 30)}' {shown(fault, 120)}")
        for row, (cell, fault) in found.get("bad", {}).items()
    ]
    left_out = {row for row, _ in bad} - {found["rows"][0][0]}  # the header
    kept = ((number, cells) for number, cells in found["rows"] if number not in left_out)
    records = ((n, _as_shown(cells, found, unshown)) for n, cells in kept)
    read = named_rows(name, records, without_header)
    notes = [_which_sheet(sheet, found["others"]), read.note, _without_format(found, unshown)]
    return RowsRead(read.rows, sorted([*read.bad, *bad]), " ".join(note for note in notes if note))


def _as_shown(cells: Sequence[Any], found: Mapping[str, Any], unshown: Counter[str]) -> list[str]:
    """The texts of a row's cells; those whose format is not understood are counted by it."""
    texts = []
    for cell in cells:
        if isinstance(cell, str):
            texts.append(cell)
            continue
        number, style, plain = cell
        code = found["formats"][style]
        code = code if isinstance(code, str) else BUILT_IN.get(code, "")
        text = shown_number(number, code, found["from_1904"])
        if text is None and is_format(code):
            unshown[code] += 1
        texts.append(plain if text is None else text)
    return texts


def _without_format(found: Mapping[str, Any], unshown: Counter[str]) -> str:
    if found.get("unformatted"):
        return (
            "Numbers and dates are read without the formats of their cells, which only .xlsx and "
            ".ods files tell; leading zeros, percents and currencies need a file of these kinds."
        )
    if not unshown:
        return ""
    code = max(unshown, key=unshown.__getitem__)
    return (
        f"{sum(unshown.values())} numbers are read without their cell's format, which is not "
        f"understood, such as '{shown(code, 40)}'."
    )


def _is_other_archive(path: Path) -> bool:
    """Whether it is a zip archive in order, but without a workbook's parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.lower() for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        return False
    return not names & set(_PARTS)


def _read_apart(name: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, "-I", str(READER), str(path), str(MOST_MEMORY_BYTES)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    own = {"stdin": subprocess.DEVNULL, "env": bare_environment()}
    with subprocess.Popen(command, **own, **pipes) as process:
        try:
            found, said, fits = _watched(process)
        except subprocess.TimeoutExpired as error:
            raise T2LocalError(
                f"'{name}' takes more than {MOST_S} s to read; "
                "save the sheet with the examples as CSV."
            ) from error
        finally:
            process.kill()
    if process.returncode == 0:
        return json.loads(found)
    if not fits or b"memory allocation" in said or b"MemoryError" in said:
        raise T2LocalError(
            f"'{name}' takes too much memory to read, as happens when a cell far from the others "
            "is filled; clear that cell, or save the sheet as CSV."
        )
    raise T2LocalError(f"'{name}' is a damaged workbook; save it anew as .xlsx or CSV.")


def _watched(process: subprocess.Popen) -> tuple[bytes, bytes, bool]:
    """What it writes to stdout and stderr, and whether it stayed within the memory it may take.

    Its own limit does not exist on Windows, and macOS may refuse it. Raises `TimeoutExpired`.
    """
    fits, deadline = True, time.monotonic() + MOST_S
    while True:
        try:
            return *process.communicate(timeout=WATCH_S), fits
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise
        if held_bytes(process) > MOST_MEMORY_BYTES:
            fits = False
            process.kill()


def _which_sheet(sheet: str, others: list[str]) -> str:
    if not others:
        return ""
    listed = ", ".join(f"'{shown(other, 30)}'" for other in others[:_OTHERS_SHOWN])
    more = " and more" if len(others) > _OTHERS_SHOWN else ""
    return f"Only the sheet '{shown(sheet, 30)}' is read, the first with rows; not {listed}{more}."

"""Rows of cells from the bytes of a file: format and encoding are found out.

Content decides, not the file's ending. Knows nothing of what the columns mean.
"""

import codecs
from pathlib import Path

from t2local.errors import T2LocalError
from t2local.tasks.delimited import table_rows
from t2local.tasks.json_rows import holds_json_lines, json_lines, json_rows
from t2local.tasks.rows import RowsRead, shown
from t2local.tasks.workbooks import STARTS, workbook_rows

MOST_BYTES = 200 * 2**20
_PARQUET = b"PAR1"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_rows(path: Path) -> RowsRead:
    """The rows of a file, and (number, reason) of those that could not be read.

    Raises `T2LocalError` for a file that is no table at all.
    """
    name = shown(path.name)
    content = _content(name, path)
    if content.startswith(_PARQUET):
        from t2local.tasks.parquet import parquet_rows  # half a second that others need not wait

        return parquet_rows(name, content)
    if content.startswith(STARTS):
        return workbook_rows(name, path, content)
    text = decoded(name, content)
    if not text.strip("\0\ufeff \t\r\n"):
        raise T2LocalError(f"'{name}' is empty; add at least one prompt with its answer.")
    read = _text_rows(name, text)
    lost = text.count("\ufffd") - content.count("\ufffd".encode())
    if lost <= 0:
        return read
    note = f"{lost} characters could not be read and show as \ufffd; save the file as UTF-8."
    return RowsRead(read.rows, read.bad, f"{read.note} {note}".strip())


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
            f"'{name}' is no text; use a spreadsheet's file, CSV, TSV, JSONL, JSON or Parquet."
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


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


def _text_rows(name: str, text: str) -> RowsRead:
    if text.lstrip()[:1] in ("{", "["):
        return json_rows(name, text)
    if holds_json_lines(text):
        return json_lines(text)
    return table_rows(name, text)

"""Rows of a spreadsheet's own file (.xlsx, .xlsm, .xlsb, .xls, .ods), read by a process apart."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.rewards.math_worker import held_bytes
from t2local.tasks.rows import RowsRead, named_rows, shown

READER = Path(__file__).with_name("workbook_reader.py")
ZIP, OLE = STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")  # old Office: OLE
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # a stream of every protected .xlsx
PASSWORD = "password"  # what the process apart says of protection
_PARTS = ("xl/workbook.xml", "xl/workbook.bin", "content.xml")
MOST_MEMORY_BYTES = 4 * 2**30
MOST_S = 120
WATCH_S = 0.2  # between two looks at the reading process's memory
_OTHERS_SHOWN = 5


def workbook_rows(name: str, path: Path, content: bytes) -> RowsRead:
    """Rows of the first sheet that has some, under the sheet's own row numbers.

    The first row with something in it is the header. Raises `T2LocalError` for a workbook that is
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
    read = named_rows(name, found["rows"])
    notes = [_which_sheet(found["sheet"], found["others"]), read.note]
    return RowsRead(read.rows, read.bad, " ".join(note for note in notes if note))


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
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, **pipes) as process:
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

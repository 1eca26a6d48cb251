"""Run as a program: the first sheet with rows of a workbook as JSON on the standard output.

    python workbook_reader.py FILE MOST_BYTES

A process of its own, because a single filled cell far from the others makes the reading library
ask for memory that no machine has, and that ends the process it is in. Numbers and dates are
written as a sheet shows them by default; a cell's own format (currency, percent) is not known.
"""

import contextlib
import datetime
import json
import sys
from pathlib import Path

from python_calamine import (
    CalamineError,
    CalamineSheet,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
    load_workbook,
)


def main(path: str, most_bytes: int) -> dict[str, object]:
    """`{"sheet", "others", "rows": [[number, cells], ...]}`, or `{"fault": ...}`."""
    _limit(most_bytes)
    try:
        with Path(path).open("rb") as file:  # a path's ending would decide over the content
            return _first_with_rows(load_workbook(file))
    except PasswordError:
        return {"fault": "password"}
    except (CalamineError, OSError, ValueError, OverflowError) as error:
        return {"fault": "password" if "password" in str(error).lower() else str(error)}


def _limit(most_bytes: int) -> None:
    """Where the system can; whoever started this process looks at its memory as well."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(ValueError, OSError):  # macOS refuses the second
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))


def _first_with_rows(book: CalamineWorkbook) -> dict[str, object]:
    sheets = [s for s in book.sheets_metadata if s.typ == SheetTypeEnum.WorkSheet]
    sheets.sort(key=lambda sheet: sheet.visible != SheetVisibleEnum.Visible)
    names = [sheet.name for sheet in sheets]
    chosen, rows = "", []
    for name in names:
        found = _rows(book.get_sheet_by_name(name))
        if len(found) > len(rows):
            chosen, rows = name, found
        if len(rows) > 1:  # more than a header
            break
    return {"sheet": chosen, "others": [name for name in names if name != chosen], "rows": rows}


def _rows(sheet: CalamineSheet) -> list[tuple[int, list[str]]]:
    """Rows with something in them, under the numbers at the sheet's edge."""
    rows = []
    for number, cells in enumerate(sheet.iter_rows(), 1):
        texts = [as_shown(cell) for cell in cells]
        if any(text.strip() for text in texts):
            rows.append((number, texts))
    return rows


def as_shown(cell: object) -> str:
    """A cell's text: 12 rather than 12.0, TRUE, 2024-05-01, 30:00:00."""
    match cell:
        case bool():
            return str(cell).upper()
        case float() if cell.is_integer() and abs(cell) < 1e15:
            return str(int(cell))
        case float():
            return format(cell, ".15g")  # the digits a sheet keeps
        case datetime.datetime():
            return cell.isoformat(" ", "seconds")
        case datetime.timedelta():
            seconds = round(cell.total_seconds())
            return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return str(cell)


if __name__ == "__main__":
    json.dump(main(sys.argv[1], int(sys.argv[2])), sys.stdout)

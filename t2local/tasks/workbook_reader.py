"""Run as a program: the first sheet with rows of a workbook as JSON on the standard output.

    python workbook_reader.py FILE MOST_BYTES

A process of its own, because a single filled cell far from the others makes the reading library
ask for memory that no machine has, and that ends the process it is in. The library does not know a
cell's format, so what an .xlsx file says of its numbers, formulas and errors, and the text that an
.ods file shows, are read beside it. Where neither is known (.xls, .xlsb), numbers and dates are
written as a sheet shows them by default.
"""

import contextlib
import datetime
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree
from xml.parsers import expat

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
    """`{"fault": ...}`, or `sheet`, `others` and `rows`: [number, cells].

    A cell is its text, or [number, place of its format, text without the format]. `formats`: codes,
    or numbers of built-in ones. `bad`: row number -> [cell, why it cannot be read]. `from_1904`:
    days are counted from then. `unformatted`: there are numbers whose formats cannot be known.
    """
    _limit(most_bytes)
    try:
        with Path(path).open("rb") as file:  # a path's ending would decide over the content
            found = _first_with_rows(load_workbook(file))
        return found | _as_formatted(path, found)
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


def _first_with_rows(book: CalamineWorkbook) -> dict[str, Any]:
    sheets = [s for s in book.sheets_metadata if s.typ == SheetTypeEnum.WorkSheet]
    sheets.sort(key=lambda sheet: sheet.visible != SheetVisibleEnum.Visible)
    names = [sheet.name for sheet in sheets]
    chosen, rows, left, has_numbers = "", [], 0, False
    for name in names:
        sheet = book.get_sheet_by_name(name)
        found, numbers = _rows(sheet)
        if len(found) > len(rows):
            chosen, rows, has_numbers = name, found, numbers
            left = sheet.start[1] if sheet.start else 0
        if len(rows) > 1:  # more than a header
            break
    others = [name for name in names if name != chosen]
    return {
        "sheet": chosen, "others": others, "rows": rows, "left": left, "unformatted": has_numbers
    }  # fmt: skip


def _rows(sheet: CalamineSheet) -> tuple[list[tuple[int, list[Any]]], bool]:
    """Rows with something in them, under the numbers at the sheet's edge, and whether there are
    numbers or dates among the cells.
    """
    rows, has_numbers = [], False
    for number, cells in enumerate(sheet.iter_rows(), 1):
        texts = [cell if type(cell) is str else as_shown(cell) for cell in cells]
        has_numbers = has_numbers or any(type(cell) not in (str, bool) for cell in cells)
        if any(text.strip() for text in texts):
            rows.append((number, texts))
    return rows, has_numbers


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


# --- What the library does not tell: formats, formulas and errors.

NOT_STORED = "holds a formula without its value; open the file in a spreadsheet program and save it"
_SHEETS_PART, _OPEN_DOCUMENT_PART = "xl/workbook.xml", "content.xml"
_PLACE = re.compile(r"([A-Z]{1,3})(\d{1,7})")
_BYTES_AT_ONCE = 2**18
_DAMAGE = (
    KeyError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile, ElementTree.ParseError,
    expat.ExpatError,
)  # fmt: skip


def _as_formatted(path: str, found: dict[str, Any]) -> dict[str, Any]:
    """The rows with what is said of their cells beside their values."""
    told = {"formats": [], "bad": {}, "from_1904": False}
    if not zipfile.is_zipfile(path):
        return told
    with zipfile.ZipFile(path) as archive, contextlib.suppress(*_DAMAGE):
        if _OPEN_DOCUMENT_PART in archive.namelist():
            shown = _ShownCells(found)
            with archive.open(_OPEN_DOCUMENT_PART) as file:
                _parse(file, shown)
            told |= {"bad": shown.bad, "unformatted": False}
        elif _SHEETS_PART in archive.namelist():
            part, from_1904 = _sheet_part(archive, found["sheet"])
            cells = _Cells(_formats(archive), found)
            with archive.open(part) as file:
                _parse(file, cells)
            told |= {"formats": cells.formats, "bad": cells.bad}
            told |= {"from_1904": from_1904, "unformatted": False}
    return told


def _parse(file: BinaryIO, cells: "_Cells | _ShownCells") -> None:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = cells.starts
    parser.EndElementHandler = cells.ends
    parser.CharacterDataHandler = cells.says
    while part := file.read(_BYTES_AT_ONCE):
        parser.Parse(part)
    parser.Parse(b"", True)


def _sheet_part(archive: zipfile.ZipFile, sheet: str) -> tuple[str, bool]:
    """The part that holds a sheet, and whether the workbook counts days from 1904.

    Raises `KeyError` where there is none.
    """
    relation, from_1904 = "", False
    for name, given in _elements(archive, _SHEETS_PART):
        if name == "workbookPr":
            from_1904 = given.get("date1904") in ("1", "true")
        elif name == "sheet" and given.get("name") == sheet:
            relation = given["id"]
    for name, given in _elements(archive, "xl/_rels/workbook.xml.rels"):
        if name == "Relationship" and given.get("Id") == relation:
            target = given["Target"]
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}", from_1904
    raise KeyError(sheet)


def _formats(archive: zipfile.ZipFile) -> list[str | int]:
    """The format of each style: its code, or the number of a built-in one (0: General)."""
    codes: dict[str, str] = {}
    styles: list[str | int] = []
    in_cells = False
    for name, given in _elements(archive, "xl/styles.xml"):
        if name == "numFmt":
            codes[given["numFmtId"]] = given["formatCode"]
        elif name in ("cellXfs", "cellStyleXfs", "cellStyles", "dxfs"):
            in_cells = name == "cellXfs"
        elif name == "xf" and in_cells:
            number = given.get("numFmtId", "0")
            styles.append(codes.get(number) or int(number))
    return styles


def _elements(archive: zipfile.ZipFile, part: str) -> list[tuple[str, Mapping[str, str]]]:
    """The elements of a part as they begin, with their attributes, both without namespaces."""
    with archive.open(part) as file:
        return [
            (
                element.tag.rpartition("}")[2],
                {name.rpartition("}")[2]: value for name, value in element.attrib.items()},
            )
            for _, element in ElementTree.iterparse(file, ["start"])
        ]


class _Cells:
    """What a sheet of .xlsx tells of its cells goes into the rows that were found.

    `bad`: row -> which of its cells is an error or a formula without a value, and which of these.
    """

    def __init__(self, formats: list[str | int], found: dict[str, Any]) -> None:
        self.formats = formats
        self.bad: dict[int, tuple[str, str]] = {}
        self._rows, self._left = dict(found["rows"]), found["left"]
        self._formatted = {i for i, code in enumerate(formats) if code not in (0, "General")}
        self._row, self._column, self._cell = 0, -1, {}
        self._has_formula, self._value, self._inside = False, "", False

    def starts(self, name: str, given: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        if name == "c":
            self._cell, self._has_formula, self._value = given, False, ""
            place = _PLACE.fullmatch(given.get("r", ""))
            self._column = _column(place[1]) if place else self._column + 1
        elif name == "v":
            self._inside = True
        elif name == "f":
            self._has_formula = True
        elif name == "row":
            self._row, self._column = int(given.get("r") or self._row + 1), -1

    def says(self, text: str) -> None:
        if self._inside:
            self._value += text

    def ends(self, name: str) -> None:
        name = name.rpartition(":")[2]
        if name == "v":
            self._inside = False
        elif name == "c":
            kind, style = self._cell.get("t", "n"), int(self._cell.get("s", 0))
            if kind == "e":
                self._is_bad(f"holds the error {self._value}")
            elif self._has_formula and not self._value and kind != "str":
                self._is_bad(NOT_STORED)
            elif kind == "n" and self._value and style in self._formatted:
                texts, place = self._rows.get(self._row, ()), self._column - self._left
                if 0 <= place < len(texts):
                    texts[place] = [self._value, style, texts[place]]

    def _is_bad(self, reason: str) -> None:
        self.bad.setdefault(self._row, (f"{_letters(self._column)}{self._row}", reason))


class _ShownCells:
    """The text that an OpenDocument sheet shows goes into the rows that were found."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.bad: dict[int, tuple[str, str]] = {}
        self._rows, self._left, self._sheet = dict(found["rows"]), found["left"], found["sheet"]
        self._chosen, self._paragraphs, self._cell = False, [], {}
        self._next_row, self._rows_alike, self._next_column = 1, 1, 0

    def starts(self, name: str, given: dict[str, str]) -> None:
        if name == "table:table":
            self._chosen = given.get("table:name") == self._sheet
            self._next_row = 1
        elif name == "table:table-row":
            self._rows_alike = int(given.get("table:number-rows-repeated", 1))
            self._next_column = 0
        elif name in ("table:table-cell", "table:covered-table-cell"):
            self._cell, self._paragraphs = given, []
        elif name == "text:p":
            self._paragraphs.append("")
        elif name == "text:s" and self._paragraphs:
            self._paragraphs[-1] += " " * min(int(given.get("text:c", 1)), 1_000)

    def says(self, text: str) -> None:
        if self._paragraphs:
            self._paragraphs[-1] += text

    def ends(self, name: str) -> None:
        if name == "table:table-row":
            self._next_row += self._rows_alike
        elif name == "office:annotation":  # a comment is no part of what the cell shows
            self._paragraphs = []
        elif name in ("table:table-cell", "table:covered-table-cell"):
            count = int(self._cell.get("table:number-columns-repeated", 1))
            if self._chosen:
                self._put(self._next_column, count, "\n".join(self._paragraphs))
            self._next_column += count

    def _put(self, column: int, count: int, text: str) -> None:
        kind = self._cell.get("office:value-type", "")
        if self._cell.get("calcext:value-type") == "error":
            self._is_bad(column, f"holds the error {text}")
        elif "table:formula" in self._cell and not kind and not text:
            self._is_bad(column, NOT_STORED)
        elif text and kind not in ("", "string"):
            for row in range(self._next_row, self._next_row + min(self._rows_alike, 2**20)):
                texts, place = self._rows.get(row, ()), column - self._left
                for at in range(max(0, place), min(place + count, len(texts))):
                    texts[at] = text

    def _is_bad(self, column: int, reason: str) -> None:
        self.bad.setdefault(self._next_row, (f"{_letters(column)}{self._next_row}", reason))


def _column(letters: str) -> int:
    """A is 0, AA is 26."""
    count = 0
    for letter in letters:
        count = 26 * count + ord(letter) - 64
    return count - 1


def _letters(column: int) -> str:
    """0 is A, 26 is AA."""
    letters = ""
    while column >= 0:
        column, letter = divmod(column, 26)
        letters, column = chr(65 + letter) + letters, column - 1
    return letters


if __name__ == "__main__":
    json.dump(main(sys.argv[1], int(sys.argv[2])), sys.stdout)

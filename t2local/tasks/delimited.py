"""CSV, TSV and their like as rows, and the header of a table in text or in a spreadsheet.

What people's programs write is read as they meant it: Excel's `sep=;`, other delimiters and line
ends, quotes in quotes however they are written, titles above the header, an index under no name.
What is left out is said in the note.
"""

import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile, zip_longest
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.columns import USUAL_NAMES
from t2local.tasks.rows import Bad, Record, Row, RowsRead, check_columns, plain, shown

# --- Text to records.
#
# A quotation mark that is never closed, or is closed by one far below, would swallow all rows in
# between. So where a record breaks the rules of quoting, or does not fit the header while a line
# inside it does, only its first line is listed as bad, and reading goes on with the next line.
# Two stray marks that are valid quoting together cannot be told from a cell of several lines.

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE = 20  # records
_LONGEST_CELL = 2**31 - 1  # characters: the size of the file is the limit
_NAMED_DELIMITER = re.compile(r'"?sep=(\\t|.)"?[,;\t| ]*[\r\n]*', re.IGNORECASE)  # Excel's
_RULE = re.compile(r"\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?")
_ESCAPED_QUOTE = re.compile(r'(?<!\\)\\"')


def table_rows(name: str, text: str, without_header: bool = False) -> RowsRead:
    """Rows of a table whose first row names its columns; numbers count rows, the header is 1.

    Raises `T2LocalError` for a table without a header, unless it is to be `without_header`.
    """
    lines, without_header = _lines_of(text, without_header)
    lines, delimiter = _cut_at(lines)
    if _is_markdown(lines):
        lines, delimiter = [_unbarred(line) for line in lines], "|"
    return named_rows(name, _all_records(lines, delimiter), without_header)


def delimiter_of(text: str) -> str:
    """What stands between the cells of a table."""
    return _cut_at(_lines_of(text, False)[0])[1]


def _lines_of(text: str, without_header: bool) -> tuple[list[str], bool]:
    csv.field_size_limit(_LONGEST_CELL)
    lines = list(io.StringIO(text.replace("\0", ""), newline=""))
    return _without_remarks(lines, without_header)


def _cut_at(lines: list[str]) -> tuple[list[str], str]:
    """The lines below one that names the delimiter, where there is one, and the delimiter."""
    said = _NAMED_DELIMITER.fullmatch(lines[0]) if lines else None
    if said is None:
        return lines, _delimiter(lines)
    return lines[1:], "\t" if said[1] == "\\t" else said[1]


def _without_remarks(lines: list[str], without_header: bool) -> tuple[list[str], bool]:
    """Blank lines for the remarks (`# …`) above a table, and whether it has no header.

    Anki's say of its notes what they are; they have a header only as a remark.
    """
    remarks = list(takewhile(lambda line: line.startswith("#"), lines))
    if any(_is_usual(cell) for cell in re.split(r"[,;|\t]", "".join(remarks).strip("# \r\n"))):
        return lines, without_header  # the header itself, marked so
    anki = any(line.startswith(("#separator:", "#html:")) for line in remarks)
    return ["\n"] * len(remarks) + lines[len(remarks) :], without_header or anki


def _is_markdown(lines: Sequence[str]) -> bool:
    """Whether the second line is the rule below the header of a table in Markdown."""
    written = [line.strip() for line in islice(lines, _SAMPLE) if line.strip()]
    return len(written) > 1 and bool(_RULE.fullmatch(written[1])) and "|" in written[0]


def _unbarred(line: str) -> str:
    """A row of Markdown without the bars around it; its rule as a blank line."""
    inside = line.strip()
    if _RULE.fullmatch(inside):
        return "\n"
    cells = re.split(r"(?<!\\)\|", inside.removeprefix("|").removesuffix("|"))
    text = io.StringIO()
    csv.writer(text, delimiter="|").writerow(cell.replace("\\|", "|").strip() for cell in cells)
    return text.getvalue() if inside else "\n"


def _all_records(lines: Sequence[str], delimiter: str) -> list[Record]:
    """The records, under the quoting that breaks the fewest: `""` in `"`, `\\"` in `"`, or `'`."""
    with contextlib.suppress(csv.Error):
        whole = list(csv.reader(lines, delimiter=delimiter, strict=True))
        if len(set(map(len, whole)) - {0}) < 2:
            return list(enumerate(whole, 1))
    usual = list(_records(lines, delimiter))
    others = []
    if any('\\"' in line for line in lines):
        escaped = [_ESCAPED_QUOTE.sub('""', line) for line in lines]
        others.append(list(_records(escaped, delimiter)))
    if any(line.lstrip().startswith("'") or f"{delimiter}'" in line for line in lines):
        others.append(list(_records(lines, delimiter, quotechar="'")))
    if any(f'{delimiter} "' in line for line in lines):
        others.append(list(_records(lines, delimiter, skipinitialspace=True)))
    return min((usual, *others), key=_misfits)  # the first of equals


def _misfits(records: Sequence[Record]) -> int:
    """How many records are broken, or have another number of cells than the most."""
    widths = Counter(-1 if cells is None else len(cells) for _, cells in records if cells != [])
    fitting = max((count for width, count in widths.items() if width > 0), default=0)
    return widths.total() - fitting


def _records(lines: Sequence[str], delimiter: str, **other: Any) -> Iterator[Record]:
    number, start, width = 0, 0, 0
    marks = {"delimiter": delimiter, "strict": True, **other}
    while start < len(lines):
        ahead = (lines[i] for i in range(start, len(lines)))
        reader = csv.reader(ahead, **marks)
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
                    _width(lines[i], marks) == width for i in inside
                )
            number += 1
            if broken:
                yield number, _mended(lines[first], marks, width)
                start = first + 1
                break
            width = width or len(cells)
            yield number, cells
            first = start + reader.line_num


def _mended(line: str, marks: Mapping[str, Any], width: int) -> list[str] | None:
    """The cells of a line whose quotes stand after backslashes; None where they are not enough."""
    line = _ESCAPED_QUOTE.sub('""', line)
    fits = width and _width(line, marks) == width
    return next(csv.reader([line], **marks)) if fits else None


def _width(line: str, marks: Mapping[str, Any]) -> int:
    """How many cells a line has on its own; -1 where its quoting is broken."""
    try:
        return len(next(csv.reader([line], **marks), []))
    except csv.Error:
        return -1


def _delimiter(lines: Sequence[str]) -> str:
    """The one that cuts the first rows into the same number of cells, and into most of them.

    A first row of one cell that is a usual name has no delimiter: what follows are its texts.
    """
    first = next((line.strip() for line in lines if line.strip()), "")
    if _is_usual(first):
        return DELIMITERS[0]

    def score(delimiter: str) -> tuple[bool, float, bool, int]:
        sample = islice(_records(lines, delimiter), _SAMPLE)
        found = [cells or [] for _, cells in sample if cells != []]
        widths = Counter(map(len, found))
        width, count = max(widths.items(), key=lambda one: (one[1], one[0]), default=(0, 0))
        if width < 2:
            return False, 0.0, False, 0
        named = any(sum(map(_is_usual, cells)) > 1 for cells in found)
        return named, count / len(found), len(found[0]) == width, width

    return max(DELIMITERS, key=score)


# --- The header of a table, in text or in a spreadsheet.

_FIGURE = re.compile(r"\d")
_LONG = 60  # characters: longer is a text, and no name
_ALIKE = 0.8  # of a column's cells
_ENDS = ("?", "？", "؟", ";", "!", "！", "。", ".")


def named_rows(file: str, records: Iterable[Record], without_header: bool = False) -> RowsRead:
    """Rows of a table by the names in its first row.

    Rows of fewer cells above the header are titles. Raises `T2LocalError` where there is no header,
    or what stands there is a row like the others.
    """
    every = [record for record in records if record[1] is None or any(map(str.strip, record[1]))]
    above = 0 if without_header else _titles(every)
    first = every[above][1] or [] if every else []
    named = [*_row_names(first, every[above + 1 :]), *first[: _filled(first)]]
    if without_header:
        named = [f"column {place}" for place in range(1, _usual_width(every) + 1)]
    check_columns(file, len(named))
    header, note = _header(named)
    if not any(header):
        raise T2LocalError(f"'{file}' has no header row; name its columns in the first row.")
    below = every if without_header else every[above + 1 :]
    if not without_header and (like := _like_a_row(header, below)):
        raise T2LocalError(
            f"The first row of '{file}' looks like a row and not like names of columns "
            f"('{shown(like, 40)}'); add a header, or say that there is none."
        )
    read = _under(header, below)
    notes = [note, _titles_note(every[:above]), _unnamed_note(header, below)]
    if not without_header and not any(map(_is_usual, header)):
        shown_names = ", ".join(f"'{shown(name, 20)}'" for name in header[:3] if name)
        notes.append(f"The first row is taken as the names of the columns: {shown_names}.")
    return RowsRead(read.rows, read.bad, " ".join(note for note in notes if note))


def _under(header: Sequence[str], records: Sequence[Record]) -> RowsRead:
    rows: list[Row] = []
    bad: list[Bad] = []
    whole = all(header)
    for number, cells in records:
        if cells is None:
            bad.append((number, "a quotation mark is not closed, or has text right after it"))
        elif whole and len(cells) == len(header):
            rows.append(Row(number, dict(zip(header, cells, strict=True))))
        elif (filled := _filled(cells)) > len(header):
            bad.append((number, f"{filled} cells, but the header has {len(header)}"))
        else:
            named = zip_longest(header, cells[: len(header)], fillvalue="")
            rows.append(Row(number, {column: cell for column, cell in named if column}))
    return RowsRead(rows, bad)


def _row_names(header: Sequence[str], below: Sequence[Record]) -> list[str]:
    """A blank name where R wrote its row numbers, to which its header has no name."""
    wide = [cells for _, cells in below if cells]
    numbers = wide and all(len(cells) == len(header) + 1 for cells in wide)
    return [""] if numbers and _counts([cells[0].strip() for cells in wide]) else []


def _filled(cells: Sequence[str]) -> int:
    """How many cells there are up to the last that is not blank."""
    return max((place for place, cell in enumerate(cells, 1) if cell.strip()), default=0)


def _usual_width(records: Sequence[Record]) -> int:
    widths = Counter(_filled(cells) for _, cells in records[:_SAMPLE] if cells)
    return max(widths.items(), key=lambda found: (found[1], found[0]), default=(0, 0))[0]


def _titles(records: Sequence[Record]) -> int:
    """How many rows stand above the header: titles of one cell, remarks, dates.

    They have fewer cells than most rows, and the header has as many, or usual names.
    """
    width = _usual_width(records)
    for above, (_, cells) in enumerate(records[:_SAMPLE]):
        filled = [cell for cell in cells or () if cell.strip()]
        if any(map(_is_usual, filled)) or (cells and _filled(cells) >= width and len(filled) > 1):
            return above
        if not 0 < len(filled) < max(2, width):
            return 0
    return 0


def _titles_note(titles: Sequence[Record]) -> str:
    if not titles:
        return ""
    said = " ".join(cell for cell in titles[0][1] or () if cell.strip())
    if len(titles) == 1:
        return f"1 row stands above the header and is left out: '{shown(said, 40)}'."
    return f"{len(titles)} rows stand above the header and are left out, from '{shown(said, 40)}'."


def _unnamed_note(header: Sequence[str], records: Sequence[Record]) -> str:
    """What is left out because it stands under no name, as the index that pandas writes."""
    places = [place for place, name in enumerate(header) if not name]
    if not places:
        return ""
    numbers = [cells[places[0]].strip() for _, cells in records if cells and len(cells) > places[0]]
    if numbers and _counts(numbers):
        return "A column without a name only counts the rows and is left out."
    if any(numbers) or len(places) > 1:
        return "A column without a name is left out; name it in the header to use it."
    return ""


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells count up, one by one."""
    if not all(cell.isdecimal() and len(cell) < 10 for cell in cells):
        return False
    return [int(cell) - int(cells[0]) for cell in cells] == list(range(len(cells)))


def _like_a_row(header: Sequence[str], records: Sequence[Record]) -> str:
    """The cell of the header that is like those below it, "" where the header is one."""
    if any(map(_is_usual, header)):
        return ""
    rows = [cells for _, cells in records[: 10 * _SAMPLE] if cells]
    columns = [[c[at].strip() for c in rows if at < len(c)] for at in range(len(header))]
    named = [(n, [c for c in below if c]) for n, below in zip(header, columns, strict=True) if n]
    if any(map(_is_unlike, *zip(*named, strict=True))):
        return ""
    found = (n for n, below in named if below and any(alike(n, below) for alike in _LIKE))
    return next(found, "")


def _is_usual(cell: str) -> bool:
    """Whether a cell is a name that columns have."""
    return bool(cell.strip()) and plain(cell) in USUAL_NAMES


def _is_unlike(name: str, below: Sequence[str]) -> bool:
    """Whether a name has no figures while all below it have, as the times of a form's answers."""
    return bool(below) and not _FIGURE.search(name) and all(map(_FIGURE.search, below))


def _most(found: Iterable[bool], of: int) -> bool:
    return sum(found) >= _ALIKE * of


def _ends_alike(name: str, below: Sequence[str]) -> bool:
    same = _most((cell.endswith(name[-1]) for cell in below), len(below))
    return name.endswith(_ENDS) and same


def _repeats(name: str, below: Sequence[str]) -> bool:
    """One of a few kinds that stand there again and again."""
    return name in below and len(set(below)) <= (len(below) + 1) / 2


def _begins_alike(name: str, below: Sequence[str]) -> bool:
    first = name.split()[:2]
    return len(first) == 2 and _most((cell.split()[:2] == first for cell in below), len(below))


def _is_long(name: str, below: Sequence[str]) -> bool:
    return len(name) > _LONG and _most((len(cell) > _LONG for cell in below), len(below))


def _holds_object(name: str, below: Sequence[str]) -> bool:
    """What is left of an object of JSON that has a number or a time before it in its line."""
    return '{"' in name and _most(('{"' in cell for cell in below), len(below))


_LIKE = (_ends_alike, _repeats, _begins_alike, _is_long, _holds_object)


def _header(cells: Sequence[str]) -> tuple[list[str], str]:
    """Different names: a repeated one gets its place among its equals, and a note says so."""
    names: dict[str, None] = {}
    found: list[str] = []
    places: Counter[str] = Counter()
    repeated: list[str] = []
    for cell in cells:
        name = cell.strip()
        if name and name in names:
            repeated.append(name)
            places[name] = max(places[name], 1) + 1
            while f"{name} ({places[name]})" in names:
                places[name] += 1
            name = f"{name} ({places[name]})"
        names[name] = None
        found.append(name)
    if not repeated:
        return found, ""
    return found, (
        f"More than one column is called '{shown(repeated[0])}'; "
        f"the later one is '{shown(repeated[0])} (2)' here."
    )

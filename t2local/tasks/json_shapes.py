"""JSON as rows: whatever shape the program that wrote it gives a table.

First the text becomes values: one document, an object a line, or several documents one after the
other, with the small faults that people's files have (a comma too many, Python's notation). Then
values become rows: a list of objects, columns of values, a table under a name, SQuAD's paragraphs.
What had to be decided on the way is said in the note. Departures from JSON: `NaN` is an empty cell,
and a number of more digits than a float has is the text of it.
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.columns import CHAT_NAMES, PROMPT_NAMES, USUAL_NAMES
from t2local.tasks.conversations import is_conversation
from t2local.tasks.rows import Bad, Row, RowsRead, objects, plain, shown
from t2local.tasks.syntax import literal

Numbered = tuple[int, Any]  # a line of a file of lines, else the place of an element; its value

_FIRST_LINES = 20
_MOST_LITERAL = 2**24  # characters that are read in Python's notation, which takes much memory
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])')
_BETWEEN = re.compile(r"[\s,;\ufeff\x1e\0\x1a]*")
_LINE_END = re.compile(r"\r\n|\r|\n")
_NEXT_VALUE = re.compile(r"^[ \t]*[{\[]", re.MULTILINE)
# What may stand above a document: remarks, a Markdown fence, a script's assignment or call.
_BEFORE = re.compile(
    r"""\s*(?://[^\r\n]*|\#[^\r\n]*|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/|```\w{0,20}|export\ default\b|
    (?:(?:var|let|const)\ )?[A-Za-z_$][\w.$]{0,60}\ ?[=(])\s*""",
    re.VERBOSE,
)
_AFTER = " \t\r\n\0\x1a;)`"
_LOOKS_JSON = re.compile(r"[{\[]\s*[{\[\"'\]}]")
_SIGNS_NOTE = "Line ends and tabs that stand in texts as they are were taken as part of them."
_COMMA_NOTE = "Commas before a closing bracket were left out."
_PYTHON_NOTE = "It is written in Python's notation, with single quotes, and was read as that."


def json_rows(name: str, text: str) -> RowsRead:
    """Rows of text that begins with a bracket; numbers count elements, or lines of JSONL.

    Raises `T2LocalError` for a damaged list, or one without columns.
    """
    text = text.strip("\ufeff\0\x1a \t\r\n")
    reader = _Reader()
    first, _, last = text.partition("\n")
    ways: list[RowsRead] = []
    if last and _is_object(first) and _is_object(last[last.rfind("\n") + 1 :]):
        ways = [json_lines(text)]  # at once: the whole is long, and no value
        if _mostly_read(ways[0]):
            return ways[0]
    try:
        value = reader.value(text)
    except (ValueError, RecursionError) as error:
        if not ways and holds_json_lines(text):
            ways = [json_lines(text)]
        if not (ways and _mostly_read(ways[0])) and (several := _several(reader, text)):
            ways.append(reader.noted(_listed(name, several)))
        if ways:
            return max(ways, key=lambda read: len(read.rows))
        if text.startswith("{"):
            return reader.noted(RowsRead([], [(1, f"no valid JSON ({_fault_of(error, text)})")]))
        fault = _fault_of(error, text)
        raise T2LocalError(f"'{name}' is no valid JSON ({fault}); mend it there.") from error
    return reader.noted(_rows_of(name, value))


def json_inside(name: str, text: str) -> RowsRead | None:
    """Rows of JSON that stands in other text; None for text that is no JSON.

    Raises `T2LocalError` where it is there, but cannot be told from what surrounds it.
    """
    at = 0
    while found := _BEFORE.match(text, at):
        at = found.end()
    inside, above = text[at:].rstrip(_AFTER), shown(text[:at], 30)
    if not (at and _LOOKS_JSON.match(inside)):
        return json_lines(text) if holds_json_lines(text) else None
    reader = _Reader()
    try:
        value = reader.value(inside)
    except (ValueError, RecursionError) as error:
        if holds_json_lines(text):
            return json_lines(text)
        fault = f"{_fault_of(error, inside)}, counted from below '{above}'"
        raise T2LocalError(f"'{name}' is no valid JSON ({fault}); mend it there.") from error
    read = reader.noted(_rows_of(name, value))
    return _noted(read, f"What stands around the JSON is left out ('{above}').")


def json_lines(text: str) -> RowsRead:
    """A value a line; every other line that is not blank is a bad row.

    Lines end with a line feed alone, for other ends may stand in a text of JSON as they are.
    """
    reader = _Reader()
    values: list[Numbered] = []
    bad: list[Bad] = []
    lines = text.split("\n") if "\n" in text else text.split("\r")
    for number, line in enumerate(lines, 1):
        line = line.strip("\ufeff\x1e\0\x1a \t\r,")
        if not line:
            continue
        try:
            values.append((number, reader.value(line)))
        except (ValueError, RecursionError) as error:
            bad.append((number, f"no valid JSON ({_why(error)})"))
    read = _listed("", values)
    return reader.noted(RowsRead(read.rows, sorted([*read.bad, *bad]), read.note))


def holds_json_lines(text: str) -> bool:
    """Whether one of the first lines is an object of its own, which no table's line is."""
    lines = (line for line in re.split(r"[\r\n]+", text[: 2**20]) if line.strip())
    return any(_is_object(line) for line in islice(lines, _FIRST_LINES))


def _mostly_read(read: RowsRead) -> bool:
    return len(read.bad) <= len(read.rows)


def _is_object(line: str) -> bool:
    line = line.strip("\ufeff\x1e \t\r,")
    if not line.startswith("{"):
        return False
    try:
        return bool(_Reader().value(line))
    except (ValueError, RecursionError):
        return False


# --- Text to values.


def _noted(read: RowsRead, *notes: str) -> RowsRead:
    return RowsRead(read.rows, read.bad, " ".join(note for note in (read.note, *notes) if note))


class _Reader:
    """Reads values, and remembers what it had to overlook for the note."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}
        others = {"NaN": None, "Infinity": math.inf, "-Infinity": -math.inf}
        hooks = {"parse_constant": others.get, "parse_float": _number}
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, **hooks)
        self._lenient = json.JSONDecoder(object_pairs_hook=self._object, strict=False, **hooks)

    def value(self, text: str) -> Any:
        """The value that a text is. Raises `ValueError`, `RecursionError`."""
        try:
            value, end = self._decoder.scan_once(text, 0)
            if end == len(text):
                return value
        except (StopIteration, ValueError):
            pass
        try:
            return self._decoder.decode(text)
        except ValueError as error:
            whole = error
        mended = _STRING_OR_COMMA.sub(lambda found: found[1] or "", text)
        ways = (
            (self._lenient.decode, text, _SIGNS_NOTE),
            (self._decoder.decode, mended, _COMMA_NOTE),
            (_literal, text, _PYTHON_NOTE),
        )
        for read, other, note in ways:
            try:
                value = read(other)
            except (ValueError, SyntaxError, MemoryError):
                continue
            self._notes[note] = None
            return value
        raise whole

    def next(self, text: str, at: int) -> tuple[Any, int]:
        """The value that begins there, and where it ends. Raises `ValueError`, `RecursionError`."""
        try:
            return self._decoder.raw_decode(text, at)
        except ValueError:
            found = self._lenient.raw_decode(text, at)
        self._notes[_SIGNS_NOTE] = None
        return found

    def noted(self, read: RowsRead) -> RowsRead:
        return _noted(read, *self._notes)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            note = f"The name '{shown(twice, 30)}' stands twice in a row; the last one counts."
            self._notes[note] = None
        return found


def _number(text: str) -> float | str:
    """A number; as it is written where a float would lose some of its digits.

    >>> _number("2.5"), _number("1e400"), _number("3.14159265358979323846")
    (2.5, '1e400', '3.14159265358979323846')
    """
    value = float(text)
    if len(text) <= sys.float_info.dig and "e" not in text and "E" not in text:
        return value
    return value if _digits(repr(value)) == _digits(text) else text


def _digits(number: str) -> str:
    return re.sub(r"[eE].*|[-.]", "", number).strip("0")


def _literal(text: str) -> Any:
    """A list or object in Python's notation. Raises `ValueError`, `SyntaxError`, `MemoryError`."""
    if "'" not in text or len(text) > _MOST_LITERAL:
        raise ValueError("it is not in Python's notation")
    value = literal(text)
    if not isinstance(value, dict | list):
        raise ValueError("it is neither a list nor an object")
    return json.loads(json.dumps(value, default=str))


def _several(reader: _Reader, text: str) -> list[Numbered]:
    """(line where it begins, value) of values one after the other; empty where they are none.

    A damaged one is a text, which is no row; reading goes on with the next that begins a line.
    """
    found: list[Numbered] = []
    at, line, counted = 0, 1, 0
    while (at := _BETWEEN.match(text, at).end()) < len(text):
        line += len(_LINE_END.findall(text, counted, at))
        counted = at
        try:
            value, at = reader.next(text, at)
        except (ValueError, RecursionError) as error:
            if not found and text.startswith("["):
                return []  # a damaged list is refused as a whole: who knows what is missing
            value = _Damaged(_why(error))
            following = _NEXT_VALUE.search(text, at + 1)
            at = following.start() if following else len(text)
        found.append((line, value))
    whole = [value for _, value in found if isinstance(value, dict | list)]
    return found if len(whole) > 1 else []


class _Damaged(str):
    """Why a value could not be read."""


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    if not isinstance(error, json.JSONDecodeError):
        return f"a number has more than {sys.get_int_max_str_digits():,} digits"
    return shown(str(error), 120)


def _fault_of(error: Exception, text: str) -> str:
    """What is wrong with a document, with its place."""
    if isinstance(error, json.JSONDecodeError):
        rest = text[error.pos : error.pos + 2].strip()
        if rest.startswith(("//", "#", "/*")):
            return f"a comment stands in line {error.lineno}, and JSON has none"
        if error.pos >= len(text) or error.msg.startswith("Unterminated"):
            return f"it ends in the middle of what begins in line {error.lineno}"
    return _why(error)


# --- Values to rows.

_HOLDERS = ("data", "rows", "examples", "records", "items", "instances", "train", "questions")
_SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")
_HEADERS = ("columns", "header", "headers", "fields")
_CELLS = ("data", "rows", "values", "records")
_VIEWER = {"row", "row_idx", "truncated_cells"}  # of a row as the Hub's dataset viewer gives it
_ASKING = {*PROMPT_NAMES, *CHAT_NAMES}
_MOST_PARTS = 50  # of a document that holds rows under one of their names
_DEEPEST_PART = 5  # documents inside one another around the rows
_LONGEST_NAME = 60  # characters of a column's name
_FEWEST_PAIRS = 5  # of questions with their answers in one object


def _rows_of(name: str, value: Any) -> RowsRead:
    """Rows of one document. Raises `T2LocalError`."""
    if isinstance(value, list):
        return _listed(name, list(enumerate(_squad(value) or value, 1)))
    if not isinstance(value, dict):
        return objects([(1, value)])
    if split := _split(value):
        return objects(_by_header(name, split[0], enumerate(split[1], 1)))
    if (held := _holder(value)) is not None:
        key, inside = held
        read = _rows_of(name, inside)
        others = [other for other in value if other != key and _holds_rows(value[other])]
        if key.lower() not in _SPLITS or not others:
            return read
        listed = ", ".join(f"'{shown(n, 30)}'" for n in others)
        return _noted(read, f"Only the part '{shown(key, 30)}' is read, not {listed}.")
    return _columns(name, value) or objects([(1, value)])


def _listed(name: str, values: Sequence[Numbered]) -> RowsRead:
    """Objects as they are; lists under the names that the first of them gives."""
    values = _spread(values)
    first = next((value for _, value in values if value is not None), None)
    if isinstance(first, list) and all(isinstance(value, list) for _, value in values):
        (_, header), *rest = values
        return objects(_by_header(name, header, rest))
    if all(isinstance(v, dict) and "row" in v and set(v) <= _VIEWER for _, v in values):
        values = [(number, v["row"]) for number, v in values]
    good = [(number, value) for number, value in values if not isinstance(value, _Damaged)]
    read = objects(good)
    damaged = [(n, f"no valid JSON ({v})") for n, v in values if isinstance(v, _Damaged)]
    return RowsRead(read.rows, sorted([*read.bad, *damaged]), read.note)


def _spread(values: Sequence[Numbered]) -> Sequence[Numbered]:
    """Lists of objects, one after the other, as one: of turns each is a row, else each object is.

    Objects count on from list to list.
    """
    if not values or not all(isinstance(v, list) and _all_objects(v) for _, v in values):
        return values
    if all(is_conversation(v) for _, v in values):
        return [(number, {"messages": turns}) for number, turns in values]
    return list(enumerate((row for _, rows in values for row in rows), 1))


def _by_header(name: str, header: Any, values: Any) -> Iterator[Numbered]:
    """Each list as an object. Raises `T2LocalError` for a first list that names no columns."""
    names = header if isinstance(header, list) else []
    good = all(isinstance(n, str) and n.strip() and len(n) <= _LONGEST_NAME for n in names)
    if not names or not good or len(set(names)) < len(names) or any("?" in n for n in names):
        raise T2LocalError(
            f"'{name}' holds lists, and the first does not name the columns; begin with a list "
            'such as ["prompt", "answer"], or write each row as an object.'
        )
    for number, cells in values:
        if isinstance(cells, list) and len(cells) == len(names):
            yield number, dict(zip(names, cells, strict=True))
        else:
            yield number, cells


def _split(value: Mapping[str, Any]) -> tuple[list[Any], list[Any]] | None:
    """The names and the rows of a table that gives them apart, as pandas' orient="split"."""
    named = {plain(key): value[key] for key in value}
    header = next((named[n] for n in _HEADERS if isinstance(named.get(n), list)), None)
    cells = next((named[n] for n in _CELLS if isinstance(named.get(n), list)), None)
    if not header or cells is None or not all(isinstance(row, list) for row in cells):
        return None
    return [n.get("name", n.get("id")) if isinstance(n, dict) else n for n in header], cells


def _holder(value: Mapping[str, Any], levels: int = _DEEPEST_PART) -> tuple[str, Any] | None:
    """The name and the value of the part that holds the rows, None where the object is a row."""
    if len(value) > _MOST_PARTS:
        return None
    named = {plain(key): key for key in value}
    asks = _asks(value)
    for wanted in (*_HOLDERS, *_SPLITS):
        inside = value.get(named.get(wanted, ""))
        listed = isinstance(inside, list) and all(isinstance(row, dict | list) for row in inside)
        if inside and (listed or (not asks and _holds_rows(inside, levels))):
            return named[wanted], inside
    held = [key for key, inside in value.items() if _all_objects(inside) and len(inside) > 1]
    held = held or [key for key, inside in value.items() if _is_nested(inside, levels)]
    others = (inside for key, inside in value.items() if key not in held)
    if len(held) != 1 or asks or any(isinstance(other, list | dict) and other for other in others):
        return None
    inside = value[held[0]]
    return None if is_conversation(inside) else (held[0], inside)


def _holds_rows(value: Any, levels: int = _DEEPEST_PART) -> bool:
    """Whether a part of a document is a table, in any of its shapes."""
    if not isinstance(value, dict):
        return isinstance(value, list)
    cells = list(value.values())
    objects = all(isinstance(cell, dict) and cell for cell in cells)
    return _is_nested(value, levels) or (len(cells) > 1 and (_are_columns(value) or objects))


def _is_nested(value: Any, levels: int) -> bool:
    inside = isinstance(value, dict) and levels > 0
    return inside and (_split(value) or _holder(value, levels - 1)) is not None


def _asks(value: Mapping[str, Any]) -> bool:
    """Whether one of the names is that of a prompt or of a talk."""
    return any(plain(name) in _ASKING for name in value)


def _all_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _squad(value: Any) -> list[dict[str, Any]]:
    """SQuAD's own file: articles of paragraphs, each with a context and its questions."""
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        return []
    if not all(isinstance(a, dict) and isinstance(a.get("paragraphs"), list) for a in value):
        return []
    paragraphs = [p for article in value for p in article["paragraphs"] if isinstance(p, dict)]
    return [
        {"context": p.get("context"), **question}
        for p in paragraphs
        for question in p.get("qas") or ()
        if isinstance(question, dict)
    ]


def _columns(name: str, value: Mapping[str, Any]) -> RowsRead | None:
    """Columns, each with its cells, or rows by a name of their own; None for a single row."""
    cells = list(value.values())
    if _are_columns(value):
        columns = {key: cells for key, cells in value.items() if isinstance(cells, list)}
        if len({len(cells) for cells in columns.values()}) > 1:
            listed = ", ".join(f"'{shown(n, 20)}' {len(c)}" for n, c in islice(columns.items(), 5))
            raise T2LocalError(
                f"'{name}' has columns of different lengths ({listed}); give all the same."
            )
        table = (
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        )
        once = ", ".join(f"'{shown(key, 30)}'" for key in value if key not in columns)
        note = f"What stands once beside the columns is left out: {once}." if once else ""
        return _noted(objects(enumerate(table, 1)), note)
    if (len(cells) > 1 or _counts(value)) and all(isinstance(c, dict) and c for c in cells):
        return objects(enumerate(_turned(value) if _is_by_column(value) else _by_name(value), 1))
    if _are_pairs(value):
        pairs = [{"prompt": prompt, "answer": answer} for prompt, answer in value.items()]
        note = "Each name is taken as a prompt and its value as the answer."
        return RowsRead([Row(n, pair) for n, pair in enumerate(pairs, 1)], [], note)
    return None


def _are_columns(value: Mapping[str, Any]) -> bool:
    """Whether lists are columns, and not what a single row has: turns, choices, right answers.

    Beside other values they are where the prompts, too, are a list.
    """
    columns = {key: cells for key, cells in value.items() if isinstance(cells, list)}
    if len(columns) < 2 or any(is_conversation(cells) for cells in columns.values()):
        return False
    asked = [cells for key, cells in columns.items() if plain(key) in _ASKING]
    several = any(len(cells) > 1 and all(isinstance(c, str) for c in cells) for cells in asked)
    return several or len(columns) == len(value)


def _is_by_column(value: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether columns hold rows (pandas' default), and not rows columns.

    The side that counts is the rows' side; that of usual names is the columns'; else there are
    more rows than columns.
    """
    inner = dict.fromkeys(name for cells in value.values() for name in cells)
    same = all(set(cells) == set(inner) for cells in value.values())
    if not same:
        return False
    if _counts(inner) != _counts(value):
        return _counts(inner)
    usual_inner, usual_outer = _usual(inner), _usual(value)
    if usual_inner != usual_outer:
        return usual_outer > usual_inner
    return len(inner) > len(value)


def _usual(names: Mapping[str, Any]) -> int:
    return sum(plain(name) in USUAL_NAMES for name in names)


def _counts(names: Mapping[str, Any]) -> bool:
    return all(name.strip().isdecimal() for name in names)


def _turned(value: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    first = next(iter(value.values()))
    return [{column: cells[row] for column, cells in value.items()} for row in first]


def _by_name(value: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows; what each is called is a column of its own, unless it only counts them."""
    if _counts(value) or any("key" in row for row in value.values()):
        return [dict(row) for row in value.values()]
    return [{"key": name, **row} for name, row in value.items()]


def _are_pairs(value: Mapping[str, Any]) -> bool:
    """Whether the names themselves are what is asked: phrases, each with a plain answer."""
    simple = all(isinstance(cell, str | int | float) for cell in value.values())
    phrases = sum(" " in key.strip() or key.rstrip().endswith(("?", "？")) for key in value)
    return simple and len(value) >= _FEWEST_PAIRS and phrases > len(value) / 2

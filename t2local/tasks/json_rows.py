"""Rows of JSON and JSONL: a list of objects, an object that holds one, or an object a line."""

import json
from itertools import islice

from t2local.errors import T2LocalError
from t2local.tasks.rows import Bad, Row, RowsRead, objects, shown

_ROW_LISTS = ("data", "examples", "rows", "train")
_FIRST_BYTES = 20  # lines


def json_rows(name: str, text: str) -> RowsRead:
    """Rows of text that begins with a bracket; numbers count elements, or lines of JSONL.

    Raises `T2LocalError` for a damaged list.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[0] == "{" or holds_json_lines(text):
            return json_lines(text)
        raise T2LocalError(f"'{name}' is no valid JSON ({_why(error)}); mend it there.") from error
    if isinstance(value, dict):
        held = next((value[key] for key in _ROW_LISTS if isinstance(value.get(key), list)), None)
        value = [value] if held is None else held
    return objects(enumerate(value, 1))


def json_lines(text: str) -> RowsRead:
    """An object a line; every other line that is not blank is a bad row."""
    rows: list[Row] = []
    bad: list[Bad] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.append((number, f"no valid JSON ({_why(error)})"))
            continue
        read = objects([(number, value)])
        rows += read.rows
        bad += read.bad
    return RowsRead(rows, bad)


def holds_json_lines(text: str) -> bool:
    """Whether one of the first lines is an object of its own, which no table's line is."""
    lines = (line for line in text[: 2**20].split("\n") if line.strip())
    return any(_is_object(line) for line in islice(lines, _FIRST_BYTES))


def _is_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return bool(json.loads(line))
    except (ValueError, RecursionError):
        return False


def _why(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else shown(str(error), 120)

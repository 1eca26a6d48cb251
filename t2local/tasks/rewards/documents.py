"""The reward `json`: is it JSON, and does it have the shape or the values asked for?

Also how a completion fences blocks, as `code` reads them.
"""

import json as json_text
import re
from collections.abc import Mapping, Sequence
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.rewards.words import blocks, column, said

NOT_JSON, JSON_AT_LEAST = -1.0, -0.5

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
_NOTHING = object()


def json(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """−1 no JSON; −0.5 JSON of the wrong shape; up to +1 by the share of demands that are met.

    Columns: `schema` (JSON Schema: type, required, properties, items, enum, minimum, maximum,
    additionalProperties), else `answer` (the JSON wanted, field by field), else any JSON is right.
    A fenced block or talk around the JSON does not count. Raises `T2LocalError` for a `schema`
    that is no JSON object. `None` for an answer that is no JSON.

    >>> json(["?"] * 2, ['```json\\n{"a": 1}\\n```', "one"], answer=['{"a": 1}', '{"a": 1}'])
    [1.0, -1.0]
    """
    count = len(completions)
    schemas = column(columns.get("schema"), count)
    answers = column(columns.get("answer"), count)
    return [
        _score(said(completion), _schema(schema), answer)
        for completion, schema, answer in zip(completions, schemas, answers, strict=True)
    ]


def _score(text: str, schema: Mapping[str, Any] | None, answer: Any) -> float | None:
    wanted = _NOTHING
    if schema is None and answer not in (None, ""):
        wanted = _parsed(answer) if isinstance(answer, str) else answer
        if wanted is _NOTHING:
            return None
    found = find_json(text)
    if found is _NOTHING:
        return NOT_JSON
    if schema is not None:
        demands = list(_demands(found, schema))
    elif wanted is not _NOTHING:
        demands = _comparisons(found, wanted)
    else:
        demands = [True]
    share = sum(demands) / len(demands) if demands else 1.0
    return JSON_AT_LEAST + (1.0 - JSON_AT_LEAST) * share


def find_json(text: str) -> Any:
    """The JSON value in a completion: all of it, a fenced block, or the first object or list."""
    for candidate in (text, *(content for _, content in blocks(text))):
        value = _parsed(candidate)
        if value is not _NOTHING:
            return value
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    for start in sorted(starts):
        try:
            return json_text.JSONDecoder().raw_decode(text[start:])[0]
        except (ValueError, RecursionError):
            continue
    return _NOTHING


def _parsed(text: str) -> Any:
    try:
        return json_text.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING


def _schema(schema: Any) -> Mapping[str, Any] | None:
    if schema is None or schema == "":
        return None
    value = _parsed(schema) if isinstance(schema, str) else schema
    if not isinstance(value, Mapping):
        raise T2LocalError(
            f"The schema '{str(schema)[:80]}' is no JSON object; "
            'write one such as {"type": "object", "required": ["name"]}.'
        )
    return value


def _demands(value: Any, schema: Mapping[str, Any]) -> list[bool]:
    """Each demand of a schema on a value: met or not."""
    met: list[bool] = []
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        met.append(any(_is(value, kind) for kind in kinds))
    if "enum" in schema:
        met.append(value in schema["enum"])
    if "minimum" in schema:
        met.append(_is(value, "number") and value >= schema["minimum"])
    if "maximum" in schema:
        met.append(_is(value, "number") and value <= schema["maximum"])
    fields = value if isinstance(value, dict) else {}
    properties = schema.get("properties", {})
    met += [name in fields for name in schema.get("required", ())]
    for name, part in properties.items():
        if name in fields:
            met += _demands(fields[name], part)
    if schema.get("additionalProperties") is False and fields:
        met.append(set(fields) <= set(properties))
    if "items" in schema and isinstance(value, list):
        met += [all(_demands(item, schema["items"])) for item in value]
    return met


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind in ("number", "integer"):
        return False
    return isinstance(value, _TYPES.get(kind, ()))


def _comparisons(found: Any, wanted: Any) -> list[bool]:
    """Field by field for objects, as a whole otherwise; surplus fields count against it."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        same = [name in found and found[name] == value for name, value in wanted.items()]
        return same + [False] * len(set(found) - set(wanted))
    return [type(found) is type(wanted) and found == wanted]


# --- Fences: in lists and quotes, of any length, never closed, closed at the end of a line.

_FENCE = re.compile(
    r"(?P<lead>(?:[ \t]*(?:>|[-*+]|\d{1,3}[.)]))*[ \t]*)(?P<mark>`{3,}|~{3,})(?P<info>.*)"
)
_QUOTE = re.compile(r"[ \t]*> ?")
_LANGUAGE = re.compile(r"[{.\s]*([\w+#.-]*)")


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """Blocks as (language, content), without the marks of the lists and quotes they stand in.

    A fence with nothing after it opens none; one that is never closed goes to the end.
    """
    found: list[tuple[str, str]] = []
    lines, at = text.split("\n"), 0
    while at < len(lines):
        fence = _FENCE.fullmatch(lines[at])
        at += 1
        if fence is None or (fence["mark"][0] == "`" and "`" in fence["info"]):
            continue
        content, at = _content(lines, at, fence)
        if content.strip():
            found.append((_LANGUAGE.match(fence["info"])[1].lower(), content))
    return found


def _content(lines: Sequence[str], at: int, fence: re.Match[str]) -> tuple[str, int]:
    """What stands between an opening fence and its end, and the number of the line after it."""
    mark, width = fence["mark"], len(re.sub(r".*>\s?", "", fence["lead"]))
    ending = re.compile(rf"([^{mark[0]}]*){mark[0]}{{{len(mark)},}}[ \t]*")
    content: list[str] = []
    while at < len(lines):
        line, at = lines[at], at + 1
        for _ in range(fence["lead"].count(">")):
            line = _QUOTE.sub("", line, count=1)
        end = ending.fullmatch(line)
        line = end[1] if end else line
        content.append(line if line[:width].strip() else line[width:])
        if end:
            break
    return "\n".join(content), at

"""What a completion says, whatever form it came in. Knows nothing of rewards."""

import re
from collections.abc import Sequence
from typing import Any

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S
)


def said(completion: Any) -> str:
    """The text of a completion: a string, or TRL's list of chat messages (the last one's words)."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion:
        content = completion[-1].get("content") or ""
        return content if isinstance(content, str) else _parts(content)
    return ""


def column(values: Sequence[Any] | None, count: int) -> list[Any]:
    """A column with one value a row; `None` everywhere where the column is missing."""
    if values is None:
        return [None] * count
    assert len(values) == count, (len(values), count)
    return list(values)


def blocks(text: str) -> list[tuple[str, str]]:
    """Fenced blocks as (language, content); the last one may be cut off before its end."""
    return [(match[2].lower(), match[3]) for match in _FENCE.finditer(text)]


def tidy(text: str) -> str:
    """For comparing words: case, spaces, markup and a closing full stop do not count."""
    text = re.sub(r"[*_`]+", "", text).strip().casefold()
    return re.sub(r"\s+", " ", text).strip(" .!\"'“”‘’")


def _parts(content: Sequence[Any]) -> str:
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")

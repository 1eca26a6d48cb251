"""What HTML is made of, and values in which every string tries to become more than text."""

import dataclasses
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from typing import Any

from markupsafe import Markup

from t2local.html import Templates

HARMLESS = "harmlessword"
HOSTILE = (
    """"'><script>alert(1)</script> </style></pre> onload='x' & &lt;b&gt; `{{ 7 * 7 }}` <!--"""
)


def structure(html: str) -> list[tuple[str, ...]]:
    """Every tag with the names of its attributes, in order; nothing of what they say."""
    return _Parser.of(html).tags


def said(html: str) -> list[str]:
    """Every text and every attribute's value, as a person or a script would get them."""
    return _Parser.of(html).words


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.words: list[str] = []

    @classmethod
    def of(cls, html: str) -> "_Parser":
        parser = cls()
        parser.feed(html)
        parser.close()
        return parser

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.words += [value or "" for _, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.append(("a comment",))


def with_strings(value: Any, text: str, kept: Iterable[str] = ()) -> Any:
    """`value` with every string in it replaced by `text`, but those of `kept` and our own HTML."""
    if isinstance(value, str):
        return value if isinstance(value, Markup) or not value or value in kept else text
    if isinstance(value, Mapping):
        return {key: with_strings(one, text, kept) for key, one in value.items()}
    if isinstance(value, list | tuple):
        made = [with_strings(one, text, kept) for one in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if dataclasses.is_dataclass(value):
        copy = object.__new__(type(value))  # past the checks of what it may hold
        copy.__dict__.update(with_strings(dict(value.__dict__), text, kept))
        return copy
    return value


class Recorder:
    """What `templates` are asked to render, and with which values."""

    def __init__(self, templates: Templates, monkeypatch) -> None:
        self.templates, self.calls = templates, []
        self.plain = templates.render
        monkeypatch.setattr(templates, "render", self._render)

    def _render(self, file: str, part: str, /, **values: Any) -> str:
        self.calls.append((file, part, values))
        return self.plain(file, part, **values)

    def check(self, kept: Iterable[str] = ()) -> None:
        """No string of any call changes what tags and attributes there are; all are shown whole."""
        for file, part, values in self.calls:
            harmless = self.plain(file, part, **with_strings(values, HARMLESS, kept))
            hostile = self.plain(file, part, **with_strings(values, HOSTILE, kept))
            assert structure(hostile) == structure(harmless), f"{file}: {part}"
            assert "<script" not in hostile.lower(), f"{file}: {part}"
            shown, whole = said(harmless).count(HARMLESS), said(hostile).count(HOSTILE)
            assert whole == shown, f"{file}: {part} does not show it whole"

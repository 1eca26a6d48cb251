"""HTML from Jinja2 templates, every value escaped; and the few ways we write numbers in it.

A template file is a subject and holds macros. Each macro is a part of a page, and `render` fills
one in; a macro whose name begins with `_` is a part of a part. Only a `Markup` is taken as HTML:
in Python that is Markdown that `ui/markdown` made safe, or highlighted code.

Templates are laid out freely: a line break with its indentation is nothing beside a tag or a
`{% %}`, and one space between words and values.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Macro
from markupsafe import Markup

BREAK = re.compile(r"\s*\n\s*")
BESIDE_TAG = re.compile(r"(?<=>)\s*\n\s*|\s*\n\s*(?=<)")
DATA, BLOCK_BEGIN, BLOCK_END = "data", "block_begin", "block_end"


class Templates:
    """The templates of `folder`, each compiled once.

    `filters`: functions they may use beside ours, by their own names. `names`: values they all see.
    """

    def __init__(
        self, folder: Path, filters: Sequence[Callable[..., Any]] = (), **names: Any
    ) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            extensions=[LineBreaks],
            cache_size=-1,
            auto_reload=False,
        )
        made = {function.__name__: function for function in (*FILTERS, *filters)}
        self._environment.filters.update(made)
        self._environment.globals.update(names)
        self._parts: dict[tuple[str, str], Callable[..., Markup]] = {}

    def render(self, file: str, part: str, /, **values: Any) -> str:
        """One part of a template file, filled in; an error's traceback has the template's lines."""
        try:
            return str(self._part(file, part)(**values))
        except Exception:
            self._environment.handle_exception()  # raises it again

    def parts(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """`(file, part)` -> the values it takes, for every part there is."""
        files = self._environment.list_templates()
        modules = {file: self._environment.get_template(file).module for file in files}
        return {
            (file, name): macro.arguments
            for file, module in modules.items()
            for name, macro in vars(module).items()
            if isinstance(macro, Macro)
        }

    def _part(self, file: str, part: str) -> Callable[..., Markup]:
        if (file, part) not in self._parts:
            module = self._environment.get_template(file).module
            self._parts[file, part] = getattr(module, part)
        return self._parts[file, part]


class LineBreaks(Extension):
    """Takes a template's own line breaks out while it is compiled; never those of a value."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        before = BLOCK_END  # a file begins as if after a block
        token = next(stream)
        while token.type != "eof":
            after = stream.current.type
            if token.type == DATA:
                yield Token(token.lineno, DATA, joined(token.value, before, after))
            else:
                yield token
            before, token = token.type, next(stream)


def joined(text: str, before: str = DATA, after: str = DATA) -> str:
    """Template text without its line breaks. `before`, `after`: the types of the tokens beside it.

    >>> joined("<p>\\n  Two\\n  words\\n</p> <b>")
    '<p>Two words</p> <b>'
    """
    if before == BLOCK_END:
        text = re.sub(r"^\s*\n\s*", "", text)
    if after in (BLOCK_BEGIN, "eof"):
        text = re.sub(r"\s*\n\s*$", "", text)
    return BREAK.sub(" ", BESIDE_TAG.sub("", text))


# --- How numbers are written. All of them are filters of every template.


def percent(share: float, digits: int = 0) -> str:
    """
    >>> percent(0.467), percent(0.467, 1)
    ('47 %', '46.7 %')
    """
    return f"{100 * share:.{digits}f} %"


def css_percent(share: float, digits: int = 1) -> str:
    """A share as a length in CSS.

    >>> css_percent(0.467)
    '46.7%'
    """
    return f"{100 * share:.{digits}f}%"


def fixed(value: float, digits: int = 0) -> str:
    return f"{value:.{digits}f}"


def signed(value: float) -> str:
    """
    >>> signed(0.86), signed(-1), signed(0.001)  # with a real minus sign
    ('+0.86', '−1.00', '0.00')
    """
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def plus_minus(value: float, digits: int = 0) -> str:
    """
    >>> plus_minus(5.2), plus_minus(-0.25, 1)
    ('+5', '−0.2')
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def points(interval: Sequence[float]) -> str:
    """An interval of shares in whole points.

    >>> points((-0.2, 0.05))
    '−20 to +5'
    """
    low, high = (plus_minus(100 * float(end)) for end in interval)
    return f"{low} to {high}"


def commas(number: int) -> str:
    """
    >>> commas(97920)
    '97,920'
    """
    return f"{number:,}"


def thousands(number: int) -> str:
    """As `commas`, with narrow spaces."""
    return f"{number:,}".replace(",", "\u202f")


def gib(n_bytes: int) -> str:
    """Bytes of memory, in the units in which it is sold.

    >>> gib(3 * 2**29)
    '1.5 GB'
    """
    return f"{n_bytes / 2**30:.1f} GB"


def gb(n_bytes: int) -> str:
    """
    >>> gb(8_500_000_000)
    '8.5 GB'
    """
    return f"{n_bytes / 10**9:.1f} GB"


FILTERS = (percent, css_percent, fixed, signed, plus_minus, points, commas, thousands, gib, gb)

"""A model's Markdown as safe HTML, with marks where the mixture changed, or where two texts differ.

Raw HTML in an answer is shown as text, images and unsafe links are not loaded: an answer can
neither run anything on the page nor reach the network. Marks travel through the renderer as
private-use characters, one a mark, and become HTML outside of tags only.
"""

import difflib
import functools
import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from t2local.ui.formulas import add_formulas, formula_html
from t2local.ui.style import PAGE

FIRST_MARK, LAST_MARK = 0xE000, 0xF8FF
MARKS = re.compile(f"[{chr(FIRST_MARK)}-{chr(LAST_MARK)}]")
TAG = re.compile(r"(<[^>]*>)")
END = "</p>"


def render(text: str, marks: Sequence[tuple[int, str]] = ()) -> Markup:
    """HTML of `text`; each mark is `(character, HTML)` and appears at that character of `text`."""
    if not marks:
        return _render_plain(text)
    clean = MARKS.sub("\ufffd", text)  # same length: the marks' places stay right
    marks = sorted(marks, key=lambda mark: mark[0])[: LAST_MARK - FIRST_MARK]
    pieces, start = [], 0
    for number, (at, _) in enumerate(marks):
        pieces += [clean[start:at], chr(FIRST_MARK + number)]
        start = max(start, at)
    html = _parser().render("".join([*pieces, clean[start:]]))

    def replace(found: re.Match[str]) -> str:
        return marks[ord(found[0]) - FIRST_MARK][1]

    parts = TAG.split(html)  # odd: tags
    return Markup(
        "".join(
            MARKS.sub("", part) if i % 2 else MARKS.sub(replace, part)
            for i, part in enumerate(parts)
        )
    )


def split_end(html: Markup) -> tuple[Markup, Markup]:
    """What stands before and after the place, in the last paragraph, of the next word."""
    before = html.removesuffix(END)
    return before, Markup(END if before != html else "")


@functools.lru_cache(maxsize=512)
def _render_plain(text: str) -> Markup:
    return Markup(_parser().render(text))


@functools.lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    options = {"html": False, "breaks": True, "highlight": _code}
    parser = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    parser.disable("image")
    parser.add_render_rule("link_open", _link)
    add_formulas(parser, _formula)
    return parser


def _formula(latex: str, display: bool) -> str:
    """A formula; the marks that fell into it stand behind it."""
    return str(formula_html(MARKS.sub("", latex), display)) + "".join(MARKS.findall(latex))


def _link(renderer, tokens: list[Token], index: int, options, env) -> str:
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer")
    return renderer.renderToken(tokens, index, options, env)


def _code(source: str, language: str, _attributes: str) -> str:
    """A fenced block with its language and a copy button."""
    try:
        lexer = get_lexer_by_name(MARKS.sub("", language) or "text")
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    html = Markup(highlight(source, lexer, HtmlFormatter(nowrap=True)))
    return PAGE.render("chat.html", "code", language=MARKS.sub("", language), source=html)


# --- Two texts beside each other: which of their words stand in one alone.

Piece = tuple[str, bool]  # text, and whether this side alone says it


def pieces(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces that stand in both, or in one alone."""
    old_words, new_words = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (before, after))
    left, right = [], []
    matcher = difflib.SequenceMatcher(None, old_words, new_words, False)
    for kind, a, b, c, d in matcher.get_opcodes():
        old, new = "".join(old_words[a:b]), "".join(new_words[c:d])
        same = kind == "equal" or not (old + new).strip()
        left.append((old, bool(old) and not same))
        right.append((new, bool(new) and not same))
    return left, right


def marked(before: str, after: str) -> tuple[str, str]:
    """Both texts as HTML; words that stand in one alone are in `<del>` or `<ins>`."""
    left, right = pieces(before, after)
    return (
        PAGE.render("shared.html", "marked", pieces=left, tag="del"),
        PAGE.render("shared.html", "marked", pieces=right, tag="ins"),
    )

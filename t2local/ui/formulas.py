"""LaTeX in answers as MathML, which browsers draw themselves: no script, no font, no network.

Found are `$…$`, `$$…$$`, `\\(…\\)` and `\\[…\\]`; money ("$5 and $6") and code are left alone. What
is no LaTeX is shown as its source. Of what the translator gives only `ELEMENTS` and `ATTRIBUTES`
come through, for a model's text must not become a script.
"""

import functools
import re
from collections.abc import Callable
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markupsafe import Markup
from mdit_py_plugins.dollarmath import dollarmath_plugin

LONGEST = 4_000  # characters of a formula
KNOWN = {
    "elements": """math mrow mi mn mo mtext ms mspace msup msub msubsup mfrac msqrt mroot mover
        munder munderover mtable mtr mtd mstyle mpadded mphantom menclose mmultiscripts none
        mprescripts""",
    "attributes": """display stretchy fence separator form lspace rspace width height depth accent
        linethickness minsize maxsize mathvariant mathcolor columnalign rowspacing columnspacing
        columnlines rowlines movablelimits notation displaystyle scriptlevel""",
}
ELEMENTS, ATTRIBUTES = (frozenset(names.split()) for names in KNOWN.values())
PLAIN = re.compile(r"[\w .,;:#%+-]*")  # the values of attributes
# As the translator writes symbols; no halves of characters and none of private use.
ENTITY = re.compile(
    r"&#x(?!0?(?:[Dd][89A-Fa-f]|[Ee][0-9A-Fa-f]|[Ff][0-8])[0-9A-Fa-f]{2};)([0-9A-Fa-f]{2,5});"
)
MONEY = re.compile(r"\d[\d.,]*[\s/,][^$]*[^\W\d_]{2}")  # "$5. You have 6$" is two sums of money
NAMES = re.compile(r"[A-Z_]{2,}\W?/|[\w.:-]*/$|[A-Z_]+/")  # "$HOME/x/$USER" and "$AAPL/$MSFT"
SIGNS = re.compile(r"[\\^_={}<>+*]")  # of a formula
INLINE, BLOCK = "math_inline", "math_block"
BRACKETS = {"\\(": "\\)", "\\[": "\\]"}


def add_formulas(parser: MarkdownIt, formula: Callable[[str, bool], str]) -> None:
    """Let a parser find formulas. `formula(latex, display)` gives the HTML of one."""

    def draw(latex: str, options: dict) -> str:
        return formula(latex, options["display_mode"])

    dollarmath_plugin(
        parser, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True,
        allow_blank_lines=False, renderer=draw,
    )  # fmt: skip
    parser.inline.ruler.before("escape", "brackets_inline", _inline)
    interrupts = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    parser.block.ruler.before("fence", "brackets_block", _block, interrupts)
    for kind, display in ((INLINE, False), ("math_inline_double", True), (BLOCK, True)):
        parser.add_render_rule(kind, _rule(formula, display))


def _rule(formula: Callable[[str, bool], str], display: bool) -> Callable[..., str]:
    def render(_renderer, tokens, index, _options, _env) -> str:
        token = tokens[index]
        said = token.content
        plain = MONEY.match(said) and not SIGNS.search(said)
        if token.markup == "$" and (plain or NAMES.match(said)):
            return str(Markup("${}$").format(said))
        return formula(said, display)

    return render


def _inline(state: StateInline, silent: bool) -> bool:
    opened = state.src[state.pos : state.pos + 2]
    if opened not in BRACKETS:
        return False
    start = state.pos + 2
    end = state.src.find(BRACKETS[opened], start, start + LONGEST)
    if end < 0 or not state.src[start:end].strip():
        return False
    if not silent:
        token = state.push(INLINE if opened == "\\(" else "math_inline_double", "math", 0)
        token.content = state.src[start:end]
    state.pos = end + 2
    return True


def _block(state: StateBlock, first: int, last: int, silent: bool) -> bool:
    """A formula between `\\[` and `\\]` that fills whole lines."""
    start = state.bMarks[first] + state.tShift[first]
    if state.is_code_block(first) or not state.src.startswith("\\[", start):
        return False
    end = state.src.find("\\]", start + 2, start + LONGEST)
    line = first
    while line < last and state.eMarks[line] < end and not state.isEmpty(line):
        line += 1
    if end < 0 or line == last or state.isEmpty(line):
        return False
    if state.src[end + 2 : state.eMarks[line]].strip():
        return False  # more stands behind it: a formula within the text
    text = state.getLines(first, line + 1, state.blkIndent, False).strip()
    if not text[2:-2].strip():
        return False
    if not silent:
        token = state.push(BLOCK, "math", 0)
        token.block, token.content = True, text[2:-2]
        token.map = [first, line + 1]
    state.line = line + 1
    return True


@functools.lru_cache(maxsize=2048)
def formula_html(latex: str, display: bool) -> Markup:
    """A formula; what is none is shown as its source."""
    written = Markup('<code class="latex">{}</code>').format(latex)
    if len(latex) > LONGEST:
        return written
    try:
        element = convert_to_element(latex, display="block" if display else "inline")
        inner = Markup("").join(map(_drawn, element))
    except Exception:  # a dozen kinds without a common one, IndexError and RecursionError besides
        return written
    drawn = Markup('<math display="{}" alttext="{}">{}</math>').format(
        "block" if display else "inline", latex.strip(), inner
    )
    return Markup('<span class="formula">{}</span>').format(drawn)


def _drawn(element: Element) -> Markup:
    """An element and what is in it; of an unknown one what is in it alone."""
    name = element.tag.rpartition("}")[2]
    text = ENTITY.sub(lambda found: chr(int(found[1], 16)), element.text or "")
    inner = Markup("{}{}").format(text, Markup("").join(map(_drawn, element)))
    if name not in ELEMENTS:
        return inner
    attributes = Markup("").join(
        Markup(' {}="{}"').format(key, value)
        for key, value in element.attrib.items()
        if key in ATTRIBUTES and PLAIN.fullmatch(value)
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), attributes, inner)

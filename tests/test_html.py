"""Templates escape what they are given, keep its white space, and refuse what is missing."""

import ast
import doctest
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from t2local import html
from t2local.html import Templates, joined
from t2local.paths import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "t2local"
MODULES = sorted([*(PACKAGE / "ui").rglob("*.py"), *(PACKAGE / "evaluation").rglob("*.py")])
FILES = sorted(PACKAGE.rglob("templates/*.html"))
TAG = re.compile(r"</?[a-zA-Z]")
# Rendered Markdown, and formulas, whose elements are written one by one from a list.
MAKES_HTML = {"ui/markdown.py", "ui/formulas.py"}
# Besides these: what stands on both sides of an answer's end, our style sheets.
TAKES_HTML = {*MAKES_HTML, "ui/chat/view.py", "ui/page.py"}


@pytest.fixture
def templates(tmp_path):
    def write(source: str, **names) -> Templates:
        (tmp_path / "one.html").write_text(source, encoding="utf-8")
        return Templates(tmp_path, **names)

    return write


def test_values_are_escaped_and_our_html_is_not(templates):
    page = templates('{% macro part(text) %}<p title="{{ text }}">{{ text }}</p>{% endmacro %}')
    hostile = '"><script>&'
    assert page.render("one.html", "part", text=hostile).count("&#34;&gt;&lt;script&gt;&amp;") == 2
    assert page.render("one.html", "part", text=Markup("<b>x</b>")).endswith("<b>x</b></p>")


def test_a_part_is_a_plain_string(templates):
    page = templates("{% macro part() %}<p></p>{% endmacro %}")
    assert type(page.render("one.html", "part")) is str


def test_what_is_missing_is_an_error(templates):
    page = templates("{% macro part(one) %}{{ one.two }}{{ three }}{% endmacro %}")
    with pytest.raises(UndefinedError, match="two"):
        page.render("one.html", "part", one=())
    with pytest.raises(UndefinedError, match="one"):
        page.render("one.html", "part")
    with pytest.raises(TypeError, match="four"):
        page.render("one.html", "part", one="", four="")


def test_a_templates_line_breaks_are_layout_and_a_values_are_not(templates):
    page = templates(
        "{% macro part(text, parts) %}\n"
        "  <pre>\n    {{ text }}\n  </pre>\n"
        "  Two words\n  {{ text }}\n  and <b>one</b> more\n"
        "  {% for part in parts %}\n    <i>{{ part }}</i>\n  {% endfor %}\n"
        "{% endmacro %}"
    )
    drawn = page.render("one.html", "part", text="a\n  b", parts="xy")
    assert drawn == "<pre>a\n  b</pre>Two words a\n  b and <b>one</b> more<i>x</i><i>y</i>"


def test_a_space_on_a_line_is_a_space():
    assert joined("<b>one</b> <i>two</i> three ") == "<b>one</b> <i>two</i> three "
    assert joined("\n  word\n", "variable_end", "variable_begin") == " word "
    assert joined("\n  word\n", "block_end", "block_begin") == "word"


def test_a_line_of_a_template_is_named_in_its_error(templates):
    page = templates("{% macro part() %}\n<p>\n{{ missing.name }}\n</p>{% endmacro %}")
    with pytest.raises(UndefinedError) as error:
        page.render("one.html", "part")
    (line,) = (at.lineno + 1 for at in error.traceback if at.path.name == "one.html")
    assert line == 3


def test_numbers_are_written_as_their_docstrings_say():
    failed, attempted = doctest.testmod(html)
    assert attempted > 8
    assert not failed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_html_is_made_by_templates_alone(path):
    name, tree = path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text("utf-8"))
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree)
                  if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.module != "html", f"{name} escapes by hand"
            taken = {alias.name for alias in node.names} if node.module == "markupsafe" else ()
            assert "Markup" not in taken or name in TAKES_HTML, f"{name} vouches for HTML"
        if isinstance(node, ast.Import):
            assert "html" not in {alias.name for alias in node.names}, f"{name} escapes by hand"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            written = node.value not in docstrings and TAG.search(node.value)
            assert not written or name in MAKES_HTML, f"{name} holds HTML: {node.value[:60]!r}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}/{path.name}")
def test_a_template_neither_skips_escaping_nor_leaves_an_attribute_unquoted(path: Path):
    source = path.read_text("utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape|\bMarkup\b", source)
    assert not re.search(r"[\w-]=\{[{%]", source)

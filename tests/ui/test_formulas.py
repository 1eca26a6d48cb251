"""LaTeX, code, tables and right-to-left text in answers, against what is expected of each."""

import re
import time
from html.parser import HTMLParser

import pytest

from t2local.ui.formulas import ATTRIBUTES, ELEMENTS, formula_html
from t2local.ui.markdown import render

FORMULAS = [  # an answer, and the texts of the formulas in it
    (r"The area is $\pi r^2$.", ["πr2"]),
    (r"Two: $a_1$ and $b^2$.", ["a1", "b2"]),
    (r"\(x\) and \(y\)", ["x", "y"]),
    ("$$\nx\n= y + 1\n$$", ["x=y+1"]),
    ("\\[\nx = 2\n\\]", ["x=2"]),
    ("text:\n\\[\n\\sum_{i=1}^n i\n\\]\nmore", ["∑i=1ni"]),
    ("text:\n$$x = 2$$\nmore", ["x=2"]),
    (r"so \[ x = 3 \] ends", ["x=3"]),
    (r"inline $$x^2$$ here", ["x2"]),
    (r"- first $x$" "\n" r"- second \(y\)", ["x", "y"]),
    ("1. so\n   $$x$$\n2. then", ["x"]),
    ("> quoted $x$", ["x"]),
    (r"**bold $x$** and *$y$*", ["x", "y"]),
    ("| a | b |\n|---|---|\n| $x$ | \\(y\\) |", ["x", "y"]),
    (r"$\frac{1}{2}$", ["12"]),
    (r"$\sqrt{2}$", ["2"]),
    (r"$\begin{pmatrix}1&2\\3&4\end{pmatrix}$", ["(1234)"]),
    (r"$\alpha \le \beta$", ["α≤β"]),
    (r"$x \in \mathbb{R}$", ["x∈ℝ"]),
    (r"$\text{if } x > 0$", ["if x>0"]),
    (r"$a < b$ & $c > d$", ["a<b", "c>d"]),
    (r"$f(x)=x$, so $f(1)=1$!", ["f(x)=x", "f(1)=1"]),
    (r"$\lim_{x \to 0} \sin x$", ["limx→0sinx"]),
    (r"$\int_0^1 x\,dx$", ["∫01xdx"]),
    ("# Title $x$", ["x"]),
    (r"[a link](https://example.org) and $x$", ["x"]),
    ("שלום $x$", ["x"]),
    ("$日$", ["日"]),
]
NO_FORMULAS = [  # an answer, and what has to stand in it as text
    ("It costs $5 and $6.", "It costs $5 and $6."),
    ("From $1,000 to $2,000 a year", "From $1,000 to $2,000 a year"),
    ("US$5, CA$7", "US$5, CA$7"),
    ("$ 5 and 6 $", "$ 5 and 6 $"),
    ("I have $5. You have 6$.", "I have $5. You have 6$."),
    ("`$x$`", "$x$"),
    ("`\\(x\\)`", "\\(x\\)"),
    ("```\n$x$ \\(y\\)\n```", "$x$ \\(y\\)"),
    ("```bash\necho $HOME $PATH\n```", "echo $HOME $PATH"),
    ("    $x$ indented", "$x$ indented"),
    (r"\$5 and \$6", "$5 and $6"),
    ("unfinished $x^2 and", "unfinished $x^2 and"),
    ("unfinished $$x^2 and", "unfinished $$x^2 and"),
    (r"a path C:\(new)", r"a path C:(new)"),
    ("$PATH is a variable", "$PATH is a variable"),
    ("$$", "$$"),
    ("\\[\n\nx\n\n\\]", "x"),
    ("<math>x</math>", "<math>x</math>"),
    ("50 % of $x", "50 % of $x"),
    ("A $ sign", "A $ sign"),
]
OTHERS = [  # an answer, and what its HTML has to contain
    ("| a | b |\n|---|---|\n| 1 | 2 |", ["<table>", "<td>1</td>"]),
    ("| a |\n|:-:|\n| **x** |", ["<strong>x</strong>"]),
    ("```python\nx = 1\n```", ["copy-code", "python"]),
    ("```mermaid\ngraph TD; A-->B\n```", ["copy-code", "A--&gt;B"]),
    ("~~gone~~", ["<s>gone</s>"]),
    ("<b>raw</b>", ["&lt;b&gt;raw&lt;/b&gt;"]),
    ("![x](https://example.org/x.png)", ["!"]),
    ("[x](javascript:alert(1))", ["[x](javascript:alert(1))"]),
    ("- [ ] open\n- [x] done", ["<li>"]),
    ("שלום עולם\n\nHello", ["<p>שלום עולם</p>", "<p>Hello</p>"]),
    ("1. مرحبا\n2. two", ["<li>مرحبا</li>"]),
    ("> كلام", ["<blockquote>"]),
]
assert len(FORMULAS) + len(NO_FORMULAS) + len(OTHERS) == 60


class Found(HTMLParser):
    """The texts of the formulas of a page, its text, and all its tags with their attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.formulas, self.text, self.tags, self.depth = [], "", [], 0
        self.feed(str(source))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "math":
            self.depth += 1
            self.formulas.append("")

    def handle_endtag(self, tag):
        self.depth -= tag == "math"

    def handle_data(self, data):
        if self.depth:
            self.formulas[-1] += data.strip(" \n").replace("\xa0", " ")
        self.text += data


@pytest.mark.parametrize(("answer", "formulas"), FORMULAS)
def test_formulas_are_drawn(answer, formulas):
    found = Found(render(answer)).formulas
    assert [re.sub(r"(?<!if)\s", "", text) for text in found] == [
        re.sub(r"(?<!if)\s", "", text) for text in formulas
    ]


@pytest.mark.parametrize(("answer", "text"), NO_FORMULAS)
def test_money_code_and_what_is_unfinished_stay(answer, text):
    found = Found(render(answer))
    assert found.formulas == []
    assert text in found.text


@pytest.mark.parametrize(("answer", "parts"), OTHERS)
def test_all_else_is_as_before(answer, parts):
    html = render(answer)
    assert all(part in html for part in parts), html
    assert "<img" not in html
    assert 'href="javascript' not in html


@pytest.mark.parametrize(
    "latex",
    [
        r"\text{<script>alert(1)</script>}",
        r"\href{javascript:alert(1)}{x}",
        r"\style{background:url(https://example.org)}{x}",
        r"\color{red;x:expression(alert(1))}{x}",
        r"\mathrm{<img src=x onerror=alert(1)>}",
        '"><script>alert(1)</script>',
        r"\unicode{x3C}script\unicode{x3E}",
        "&#x3C;script&#x3E;alert(1)",
        r"\class{x}{y} \cssId{x}{y}",
        r"\textcolor{javascript:x}{y}",
    ],
)
def test_a_formula_cannot_do_anything(latex):
    html = formula_html(latex, False)
    for tag, attributes in Found(html).tags:
        assert tag in ELEMENTS | {"span", "code"}, html
        assert set(attributes) <= ATTRIBUTES | {"class", "alttext"}, html
        assert all("(" not in v for k, v in attributes.items() if k != "alttext"), html


@pytest.mark.parametrize(
    "latex", [r"\frac{", "{" * 3_000, "x" * 5_000, r"\begin{nothing}", r"\left(", "^", r"\\" * 500]
)
def test_what_is_no_latex_stays_as_it_was_written(latex):
    found = Found(formula_html(latex, True))
    assert found.formulas or found.text == latex


def test_while_it_is_written_a_formula_appears_with_its_end():
    text = r"So $\frac{1}{2}$ is a half of $x$."
    seen = [len(Found(render(text[:end])).formulas) for end in range(len(text) + 1)]
    assert seen == sorted(seen)
    assert seen[-1] == 2


MORE = [  # an answer, the texts of its formulas, a text that has to stay
    (r"\[x=1\], so \(y\) is \[z\]", ["x=1", "y", "z"], ", so "),
    ("> \\[\n> x = 1\n> \\]", ["x=1"], ""),
    ("- a\n  \\[\n  x\n  \\]\n- b", ["x"], "b"),
    ("cost $5/unit, total 6$", [], "cost $5/unit, total 6$"),
    ("pay $3,or 4$", [], "pay $3,or 4$"),
    ("A=$B/$C/bin", [], "A=$B/$C/bin"),
    ("$AAPL/$MSFT", [], "$AAPL/$MSFT"),
    ("$a/b$ and $1/2$", ["a/b", "1/2"], " and "),
]


@pytest.mark.parametrize(("answer", "formulas", "text"), MORE)
def test_several_on_a_line_in_quotes_and_lists_and_no_variables(answer, formulas, text):
    found = Found(render(answer))
    assert [re.sub(r"\s", "", formula) for formula in found.formulas] == formulas
    assert text in found.text


@pytest.mark.parametrize("part", ["\\[ a\n", "\\( ", "$$ a\n", "$a ", "\\[\n", "$x^{"])
def test_what_never_ends_costs_no_more_than_its_length(part):
    """A hundred times as much text takes some hundred times as long, not ten thousand times."""
    began = time.perf_counter()
    render(part * 10_000)
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize("latex", ["x^{" * 400 + "}" * 400, r"\sqrt{" * 300 + "x" + "}" * 300])
def test_deep_formulas_and_private_characters_do_no_harm(latex):
    render(f"${latex}$")
    for entity in ("&#xE000;", "&#xE0FF;", "&#x0F8FF;", "&#xD800;"):
        html = render(f"one $\\text{{{entity}}}$ two", [(2, "<i>M</i>")])
        assert html.count("<i>M</i>") == 1
        assert html.encode()


def test_marks_within_a_formula_stand_behind_it():
    html = render("The $x^2$ end", [(6, "<i>M</i>")])
    assert "</math></span><i>M</i> end" in html

"""What a run has learnt, to read: base and current answers to the same prompts, side by side.

Pure functions of a run's curves to HTML. Words that only one of the two says are marked.
"""

import difflib
import re
from collections.abc import Sequence
from html import escape

from t2local.training.reports import Curves
from t2local.ui.messages import term

LONGEST = 600  # characters of an answer
MOST_CHECKS = 8  # earlier ones that can be opened


def answers_html(run: Curves) -> str:
    """The newest check, and the earlier ones folded; "" before the first."""
    if not run.answers:
        return ""
    newest, *earlier = run.answers[::-1]
    folded = "".join(
        f"<details><summary>{_when(step)}</summary>{_table(rows)}</details>"
        for step, rows in earlier[:MOST_CHECKS]
    )
    return (
        f'<div class="answers"><h4>{term("base", "Base")} and now, {_when(newest[0]).lower()}</h4>'
        f"{_table(newest[1])}{folded}</div>"
    )


def marked(base: str, current: str) -> tuple[str, str]:
    """Both texts as HTML; words that stand in one alone are in `<del>` or `<ins>`."""
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text[:LONGEST]) for text in (base, current))
    left, right = [], []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        old, new = escape("".join(before[a:b])), escape("".join(after[c:d]))
        same = kind == "equal" or not (old + new).strip()
        left.append(old if same or not old else f"<del>{old}</del>")
        right.append(new if same or not new else f"<ins>{new}</ins>")
    return "".join(left), "".join(right)


def _when(step: int) -> str:
    return f"After step {step}" if step else "Before the first step"


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    body = ""
    for prompt, base, current in rows:
        left, right = marked(base, current)
        body += (
            f'<tr class="asked"><td colspan="2">{escape(prompt)}</td></tr>'
            f"<tr><td><pre>{left}</pre></td><td><pre>{right}</pre></td></tr>"
        )
    return (
        '<div class="scroll"><table class="answers"><thead><tr><th>the base model</th>'
        f"<th>with the current z</th></tr></thead><tbody>{body}</tbody></table></div>"
    )

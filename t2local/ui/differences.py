"""Two texts beside each other: which of their words stand in one alone."""

import difflib
import re

from t2local.ui.style import PAGE

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

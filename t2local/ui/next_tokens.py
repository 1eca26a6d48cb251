"""The likeliest next tokens, base and adapted side by side, as HTML bars."""

from collections.abc import Sequence
from html import escape

from t2local.engine.requests import NextTokens


def next_tokens_html(tokens: NextTokens) -> str:
    """Two columns of bars on one scale; a token only one side lists is marked."""
    pairs = (*tokens.base, *tokens.adapted)
    largest = max((p for _, p in pairs), default=1.0) or 1.0
    before = {text for text, _ in tokens.base}
    after = {text for text, _ in tokens.adapted}
    return (
        '<div class="next"><section><h6>base</h6>'
        f"{_rows(tokens.base, largest, after, 'gone')}</section>"
        '<section class="adapted"><h6>adapted</h6>'
        f"{_rows(tokens.adapted, largest, before, 'new')}</section></div>"
    )


def hint_html(sentence: str) -> str:
    return f'<p class="quiet">{escape(sentence)}</p>'


def visible(text: str) -> str:
    """A token with its white space made visible: a leading space is `·`, a newline `⏎`."""
    if not text.strip(" "):
        return "·" * len(text) or "∅"
    spaces = len(text) - len(text.lstrip(" "))
    return "·" * spaces + text.lstrip(" ").replace("\n", "⏎").replace("\t", "⇥")


def _rows(tokens: Sequence[tuple[str, float]], largest: float, others: set[str], alone: str) -> str:
    return "".join(
        f'<div class="tok{"" if text in others else " " + alone}" '
        f'style="--w:{100 * p / largest:.1f}%"><i></i><span>{escape(visible(text))}</span>'
        f"<b>{p:.2f}</b></div>"
        for text, p in tokens
    )

"""The list of chats on the left, as HTML; `assets/chat_list.js` makes its clicks events."""

import time
from collections.abc import Sequence
from html import escape

from t2local.engine.chat_index import ChatSummary

DAY_S = 86_400
SHOWN = 200  # chats: ten thousand rows are 5 MB for the browser, after every answer
STEP = 4  # the button shows so many times as many


def chat_list_html(
    chats: Sequence[ChatSummary], current: str | None, now: float | None = None, shown: int = SHOWN
) -> str:
    """Newest first, in groups by age; `current` is marked. `now`: seconds since 1970.

    `shown`: how many rows; `current` comes after them where it is older. A button asks for more.
    """
    if not chats:
        return '<p class="quiet">Your chats appear here. They stay on this computer.</p>'
    now = time.time() if now is None else now
    rows = [*chats[:shown], *(chat for chat in chats[shown:] if chat.id == current)]
    html, group = [], None
    for chat in rows:
        if _age(now - chat.updated) != group:
            group = _age(now - chat.updated)
            html.append(f"<h6>{group}</h6>")
        html.append(_row(chat, chat.id == current))
    html.append(_more(len(chats) - len(rows), shown))
    return f'<nav class="chats" aria-label="Chats">{"".join(html)}</nav>'


def _age(age_s: float) -> str:
    if age_s < DAY_S:
        return "last 24 hours"
    return "last 7 days" if age_s < 7 * DAY_S else "older"


def _more(older: int, shown: int) -> str:
    """The button below the rows; nothing where all are shown."""
    if older <= 0:
        return ""
    return (
        f'<button type="button" class="chats-more" data-act="more" data-shown="{STEP * shown}">'
        f"Show more ({older:,} older)</button>"
    )


def shown_rows(event: object) -> int:
    """How many rows an event of the list leaves in it: as many as the browser had, or asks for."""
    shown = getattr(event, "shown", SHOWN)
    return max(SHOWN, shown) if isinstance(shown, int) else SHOWN


def _row(chat: ChatSummary, is_current: bool) -> str:
    title = escape(chat.title, quote=True)
    current = ' aria-current="true"' if is_current else ""
    return (
        f'<div class="chat-row" data-id="{escape(chat.id, quote=True)}"{current}>'
        f'<button type="button" class="chat-title" data-act="pick" title="{title}">{title}</button>'
        '<span class="chat-acts"><button type="button" data-act="rename" title="Rename" '
        f'aria-label="Rename {title}">✎</button><button type="button" data-act="ask" '
        f'title="Delete" aria-label="Delete {title}">✕</button></span>'
        '<span class="chat-ask">Delete it? <button type="button" data-act="remove">Delete</button>'
        '<button type="button" data-act="keep">Keep</button></span></div>'
    )

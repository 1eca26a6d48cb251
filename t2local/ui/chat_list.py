"""The list of chats on the left, as HTML; `assets/chat_list.js` makes its clicks events."""

import time
from collections.abc import Sequence
from html import escape

from t2local.engine.chats import ChatSummary

DAY_S = 86_400


def chat_list_html(
    chats: Sequence[ChatSummary], current: str | None, now: float | None = None
) -> str:
    """Newest first, in groups by age; `current` is marked. `now`: seconds since 1970."""
    if not chats:
        return '<p class="quiet">Your chats appear here. They stay on this computer.</p>'
    now = time.time() if now is None else now
    html, group = [], None
    for chat in chats:
        if _age(now - chat.updated) != group:
            group = _age(now - chat.updated)
            html.append(f"<h6>{group}</h6>")
        html.append(_row(chat, chat.id == current))
    return f'<nav class="chats" aria-label="Chats">{"".join(html)}</nav>'


def _age(age_s: float) -> str:
    if age_s < DAY_S:
        return "last 24 hours"
    return "last 7 days" if age_s < 7 * DAY_S else "older"


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

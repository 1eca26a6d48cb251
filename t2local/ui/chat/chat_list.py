"""The list of chats on the left, as HTML; `assets/chat_list.js` makes its clicks events.

Here are the values; the elements are in `templates/chat_list.html`.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from t2local.engine.chat_index import ChatSummary
from t2local.ui.style import PAGE
from t2local.untrusted import encodes

FILE = "chat_list.html"
DAY_S = 86_400
PINNED = "pinned"  # the first group
SHOWN = 200  # chats: ten thousand rows are 5 MB for the browser, after every answer
MOST_SHOWN = 1_000_000
STEP = 4  # the button shows so many times as many
LONGEST_QUERY = 200  # characters


class Listing(NamedTuple):
    """How many rows the list has, and which words and `#tag`s its chats have."""

    rows: int = SHOWN
    query: str = ""


AT_FIRST = Listing()


def chat_list_html(
    chats: Sequence[ChatSummary],
    current: str | None,
    now: float | None = None,
    listing: Listing = AT_FIRST,
    answered: Collection[str] = (),
    judged: Mapping[str, int] | None = None,
    deleted: tuple[str, str] | None = None,
) -> str:
    """Pinned ones, then the newest first in groups by age; `current` and `answered` are marked.

    `now`: seconds since 1970. `listing`: how many rows; `current` comes after them where it is
    older, and a button asks for more. `judged`: how many verdicts there are on each chat's answers.
    `deleted`: id and title of one that has just gone, and can come back.
    """
    shown, nothing = listing.rows, "Your chats appear here. They stay on this computer."
    if listing.query:
        nothing = "No chat has all of these words."
    now = time.time() if now is None else now
    chats = [*(c for c in chats if c.pinned), *(c for c in chats if not c.pinned)]
    listed = [*chats[:shown], *(chat for chat in chats[shown:] if chat.id == current)]
    rows, group = [], ""
    for chat in listed:
        of = PINNED if chat.pinned else _age(now - chat.updated)
        rows.append((of if of != group else "", chat))
        group = of
    return PAGE.render(
        FILE,
        "chat_list",
        rows=rows,
        current=current,
        answered=answered,
        judged=judged or {},
        filters={word[1:].lower() for word in listing.query.split() if word.startswith("#")},
        older=len(chats) - len(rows),
        next_shown=STEP * shown,
        nothing=nothing,
        deleted=deleted,
    )


def _age(age_s: float) -> str:
    if age_s < DAY_S:
        return "last 24 hours"
    return "last 7 days" if age_s < 7 * DAY_S else "older"


def listing_of(event: object) -> Listing:
    """What an event of the list leaves in it: as the browser had it, or asks for."""
    try:
        rows, query = getattr(event, "shown", SHOWN), getattr(event, "query", "")
    except TypeError:  # the event says nothing that has names
        return Listing()
    rows = min(max(SHOWN, rows), MOST_SHOWN) if isinstance(rows, int) else SHOWN
    fit = isinstance(query, str) and encodes(query)
    return Listing(rows, query[:LONGEST_QUERY] if fit else "")

"""The conversation as HTML: messages, their cards, marks and buttons; and the empty chat.

Pure functions from a `Chat` to HTML; what the buttons do is in `assets/transcript.js`, which turns
clicks into events. The live answer is the last message of the chat while `stage` is not None.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from t2local.engine.chats import Chat, Message
from t2local.ui import card
from t2local.ui.examples import EXAMPLES
from t2local.ui.markdown import render
from t2local.ui.messages import term

SHOWN_CHARACTERS = 6_000  # of a user's message; copying and editing have all of it


def transcript_html(
    chat: Chat,
    answer_with: Sequence[str] = (),
    stage: str | None = None,
    compare: bool = False,
    sees: bool = True,
) -> str:
    """`answer_with`: names that may answer instead. `stage`: what the model is doing, or None.

    `sees`: whether it is given the pictures.
    """
    if not chat.messages:
        return welcome_html()
    last = len(chat.messages) - 1
    turns = [
        _user(i, message, idle=stage is None, sees=sees)
        if message.role == "user"
        else _assistant(
            message,
            is_last=i == last,
            live=stage is not None and i == last,
            answer_with=answer_with,
            compare=compare,
        )
        for i, message in enumerate(chat.messages)
    ]
    if chat.last_answer is None:
        turns.append(_waiting(stage))
    return f'<div class="turns">{"".join(turns)}</div>'


def welcome_html() -> str:
    """An empty chat: what this is, and six prompts that show the dispatcher off."""
    buttons = "".join(
        f'<button type="button" data-act="example" data-text="{escape(e.prompt, quote=True)}" '
        f'style="--c:{e.colour}"><small>{escape(e.shows)}</small>{escape(e.prompt)}</button>'
        for e in EXAMPLES
    )
    return (
        '<div class="welcome"><h2>A model that adapts itself to what you ask</h2>'
        "<p>It reads your prompt once, decides which experts fit, mixes them into its own weights, "
        "and answers. You can watch the decision, and take the wheel at any moment.</p>"
        f'<div class="examples">{buttons}</div></div>'
    )


def steer_marks(message: Message) -> list[tuple[int, str]]:
    """`(character, HTML)` where the mixture changed; several changes at one place are one mark."""
    before: Mapping[str, Any] = message.dispatch or {}
    places: dict[int, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for at, mixture in message.steered:
        first = places[at][0] if at in places else before
        places[at] = (first, mixture)
        before = mixture
    return [
        (at, _mark(card.describe_change(first, after))) for at, (first, after) in places.items()
    ]


def _mark(change: str) -> str:
    tip = escape(f"Here the mixture changed: {change}", quote=True)
    return f'<span class="steer" tabindex="0" data-tip="{tip}" aria-label="{tip}">◆</span>'


def _user(index: int, message: Message, *, idle: bool, sees: bool) -> str:
    actions = _button("copy", "Copy", "❐") + _button("edit", "Edit", "✎") if idle else ""
    raw = f' data-raw="{_raw(message.content)}"' if idle else ""  # not with every token
    shown = escape(message.content[:SHOWN_CHARACTERS])
    if len(message.content) > SHOWN_CHARACTERS:
        more = len(message.content) - SHOWN_CHARACTERS
        shown += f'<span class="quiet"> … and {more:,} characters more</span>'
    return (
        f'<article class="turn user" data-index="{index}"{raw}>'
        f'{_pictures(message, sees)}<div class="said">{shown}</div>'
        f'<div class="acts">{actions}</div></article>'
    )


def _pictures(message: Message, sees: bool) -> str:
    """Small, a click opens them whole."""
    if not message.images:
        return ""
    total = len(message.images)
    shown = [
        _picture(image, f"picture {i} of {total}") for i, image in enumerate(message.images, 1)
    ]
    unseen = "" if sees else "<small>This model reads text only: not seen by it.</small>"
    return f'<div class="pictures">{"".join(shown)}{unseen}</div>'


def _picture(image: str, words: str) -> str:
    if not Path(image).is_file():
        return f'<span class="gone">{words} is no longer on disk</span>'
    where = escape(f"gradio_api/file={quote(image)}", quote=True)
    return f'<a href="{where}" target="_blank"><img src="{where}" alt="{words}" loading="lazy"></a>'


def _assistant(
    message: Message, *, is_last: bool, live: bool, answer_with: Sequence[str], compare: bool
) -> str:
    names = answer_with if is_last and not live else ()
    shown = card.dispatch_card(
        message.dispatch or {}, message.timing, answer_with=names, is_open=is_last
    )
    text = _answer(message.content, steer_marks(message), live)
    if message.base_content is not None or (live and compare):
        base = _answer(message.base_content or "", [], live)
        text = (
            f'<div class="pair"><section><h5>adapted</h5>{text}</section>'
            f"<section><h5>base</h5>{base}</section></div>"
        )
    state = " live" if live else ""
    raw = "" if live else f' data-raw="{_raw(message.content)}"'
    return (
        f'<article class="turn assistant{state}"{raw}>{shown}{text}'
        f"{_footer(message, is_last=is_last, live=live)}</article>"
    )


def _answer(text: str, marks: list[tuple[int, str]], live: bool) -> str:
    html = render(text, marks).rstrip()
    if live:  # inside the last paragraph, where the next word will come
        inside = html.removesuffix("</p>")
        html = f'{inside}<span class="caret"></span>' + "</p>" * (inside != html)
    return f'<div class="answer">{html}</div>'


def _footer(message: Message, *, is_last: bool, live: bool) -> str:
    if live:
        return ""
    timing = message.timing or {}
    actions = _button("copy", "Copy", "❐")
    if is_last:
        actions += _button("retry", "Regenerate", "↻") + _button("carry_on", "Continue", "→")
    facts = [f"{timing['tokens']} tokens" if timing.get("tokens") else ""]
    facts.append(f"{timing['tokens_per_s']:.0f} tok/s" if timing.get("tokens_per_s") else "")
    facts.append(term("8-bit weights") if timing.get("packed_tokens") else "")
    facts.append(
        {"cancelled": "stopped", "length": "cut at the limit"}.get(timing.get("finish"), "")
    )
    facts.append(f"◆ steered {len(steer_marks(message))}×" if message.steered else "")
    line = " · ".join(fact for fact in facts if fact)
    return f'<div class="acts">{actions}<span class="facts">{line}</span></div>'


def _waiting(stage: str | None) -> str:
    if stage is not None:
        return f'<article class="turn assistant live">{card.thinking_card(stage)}</article>'
    retry = '<button type="button" class="again" data-act="retry">Answer this</button>'
    return f'<article class="turn assistant"><p class="quiet">No answer yet.</p>{retry}</article>'


def _button(act: str, label: str, sign: str) -> str:
    return (
        f'<button type="button" data-act="{act}" title="{label}" aria-label="{label}">{sign}'
        f"<span>{label}</span></button>"
    )


def _raw(text: str) -> str:
    return escape(text, quote=True)

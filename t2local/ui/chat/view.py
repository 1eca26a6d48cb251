"""The chat as HTML: messages, dispatch cards, next-token bars, the list of chats."""

import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from t2local.adapt.dispatch import STRATEGIES
from t2local.engine.chat_index import ChatSummary
from t2local.engine.chats import Chat, Message
from t2local.engine.requests import EngineStatus, NextTokens
from t2local.plots import theme
from t2local.ui.markdown import render
from t2local.ui.messages import EXAMPLES, term

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
    return [(at, _mark(describe_change(first, after))) for at, (first, after) in places.items()]


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
    shown = dispatch_card(
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
        return f'<article class="turn assistant live">{thinking_card(stage)}</article>'
    retry = '<button type="button" class="again" data-act="retry">Answer this</button>'
    return f'<article class="turn assistant"><p class="quiet">No answer yet.</p>{retry}</article>'


def _button(act: str, label: str, sign: str) -> str:
    return (
        f'<button type="button" data-act="{act}" title="{label}" aria-label="{label}">{sign}'
        f"<span>{label}</span></button>"
    )


def _raw(text: str) -> str:
    return escape(text, quote=True)


# --- The dispatch card: what pass 1 decided, what pass 2 mixed, and how long each took.
#
# Pure functions from a message's stored values to HTML. Colours come from `plots.theme`.

SUMMARY_SEGMENTS = 0.02  # smaller shares are left out of the one-line bar


def dispatch_card(
    dispatch: Mapping[str, Any],
    timing: Mapping[str, Any] | None,
    *,
    answer_with: Sequence[str] = (),
    is_open: bool = True,
) -> str:
    """`dispatch`, `timing`: as a `Message` keeps them. `answer_with`: names offered as override."""
    alpha = dispatch.get("alpha", {})
    opened = " open" if is_open else ""
    return (
        f'<details class="card"{opened}><summary>{_headline(dispatch)}'
        f"{_segments(alpha)}{_times(dispatch, timing)}</summary>"
        '<div class="card-body"><section>'
        f"<h5>{term('dispatch', 'what kind of prompt is this?')}</h5>"
        f"{_probabilities(dispatch)}</section>"
        f"<section><h5>{term('mixture')} that answers</h5>{_mixture(dispatch)}</section></div>"
        f"{_notes(dispatch)}{_override(answer_with, dispatch)}</details>"
    )


def thinking_card(stage: str) -> str:
    """Shown until pass 1 has decided."""
    return f'<div class="card thinking"><span class="pulse"></span>{escape(stage)}</div>'


def describe_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs between two mixtures' JSON, in words: `math +0.86 → −1.00`."""
    changes = [
        f"{name} {signed(old)} → {signed(new)}"
        for name, old, new in _pairs(before.get("alpha", {}), after.get("alpha", {}), 0.0)
    ]
    if before.get("strength", 1.0) != after.get("strength", 1.0):
        changes.append(f"strength {before.get('strength', 1.0):.2f} → {after['strength']:.2f}")
    changes += [
        f"{name} gain {old:.2f} → {new:.2f}"
        for name, old, new in _pairs(before.get("gains", {}), after.get("gains", {}), 1.0)
    ]
    return ", ".join(changes) or "the same mixture again"


def signed(value: float) -> str:
    """`+0.86`, `−1.00`, `0.00`, with a real minus sign."""
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def bar(name: str, share: float, number: str, *, negative: bool = False) -> str:
    """One labelled bar; `share` of the full width, 0 to 1."""
    side = " negative" if negative else ""
    return (
        f'<div class="bar{side}" style="--c:{theme.colour(name)};--w:{100 * share:.1f}%">'
        f'<span class="bar-name">{escape(name)}</span><span class="bar-track"><i></i></span>'
        f'<span class="bar-number">{number}</span></div>'
    )


def _pairs(
    before: Mapping[str, float], after: Mapping[str, float], missing: float
) -> list[tuple[str, float, float]]:
    names = dict.fromkeys((*before, *after))
    pairs = [(name, before.get(name, missing), after.get(name, missing)) for name in names]
    return [(name, old, new) for name, old, new in pairs if abs(old - new) >= 0.005]


def _headline(dispatch: Mapping[str, Any]) -> str:
    chosen = str(dispatch.get("override") or dispatch.get("chosen", "base"))
    answered = f"{chosen} · your choice" if dispatch.get("override") else chosen
    colour = theme.colour(chosen)
    return f'<b class="chip" style="--c:{colour}">{escape(answered)}</b>'


def _segments(alpha: Mapping[str, float]) -> str:
    """The mixture as one thin bar of coloured shares; the base model fills the rest."""
    total = sum(abs(a) for a in alpha.values())
    scale = 1.0 / max(1.0, total)
    segments = "".join(
        f'<i style="--c:{theme.colour(name)};--w:{100 * abs(a) * scale:.1f}%"></i>'
        for name, a in alpha.items()
        if abs(a) * scale >= SUMMARY_SEGMENTS
    )
    return f'<span class="segments" aria-hidden="true">{segments}</span>'


def _times(dispatch: Mapping[str, Any], timing: Mapping[str, Any] | None) -> str:
    strategy = escape(str(dispatch.get("strategy", "")))
    first = f"{term('pass 1')} · {strategy}"
    if dispatch.get("probabilities"):
        first += f" · {dispatch.get('seconds', 0.0):.2f} s"
    if timing is None:
        return f'<span class="times">{first}</span>'
    second = f"{term('pass 2')} · {timing.get('second_pass_s', 0.0):.1f} s"
    return f'<span class="times">{first} <em>→</em> {second}</span>'


def _probabilities(dispatch: Mapping[str, Any]) -> str:
    probabilities = dispatch.get("probabilities") or {}
    if not probabilities:
        kind = str(dispatch.get("strategy")).partition(":")[0]  # few-shot names its mixture
        strategy = None if dispatch.get("override") else STRATEGIES.get(kind)
        by_hand = "Nothing was asked: you chose who answers."
        return f'<p class="quiet">{escape(strategy.unasked) if strategy else by_hand}</p>'
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    return "".join(bar(name, p, f"{p:.2f}") for name, p in ranked)


def _mixture(dispatch: Mapping[str, Any]) -> str:
    alpha = dispatch.get("alpha") or {}
    rest = 1.0 - sum(alpha.values())
    shown = {**{n: a for n, a in alpha.items() if abs(a) >= 0.005}, "base": rest}
    largest = max(1.0, *(abs(a) for a in shown.values()))
    bars = "".join(
        bar(name, abs(a) / largest, signed(a).lstrip("+"), negative=a < 0)
        for name, a in shown.items()
    )
    strength = dispatch.get("strength", 1.0)
    return bars + (f'<p class="quiet">strength × {strength:.2f}</p>' if strength != 1.0 else "")


def _notes(dispatch: Mapping[str, Any]) -> str:
    notes = [str(dispatch["note"])] if dispatch.get("note") else []
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _override(names: Sequence[str], dispatch: Mapping[str, Any]) -> str:
    if not names:
        return ""
    chosen = dispatch.get("override")
    buttons = "".join(
        f'<button type="button" class="chip" style="--c:{theme.colour(name)}" '
        f'data-act="answer_with" data-name="{escape(name, quote=True)}"'
        f"{' aria-pressed=true' if name == chosen else ''}>{escape(name)}</button>"
        for name in names
    )
    return f'<div class="override"><span>answer with</span>{buttons}</div>'


# --- The line under the message box: speed, and how full the model's context is.


def line_html(status: EngineStatus, tokens_per_s: float, context_used: int) -> str:
    if not status.ready:
        return ""
    limit = max(1, status.context_length)
    share = min(100.0, 100 * context_used / limit)
    speed = f"<b>{tokens_per_s:.0f} tok/s</b> · " if tokens_per_s else ""
    full = " full" if share > 85 else ""
    return (
        f'<span class="line">{speed}{context_used:,} of {limit:,} tokens'
        f'<span class="context{full}" title="how full the context is">'
        f'<i style="width:{share:.1f}%"></i></span></span>'
    ).replace(",", "\u202f")


# --- The likeliest next tokens, base and adapted side by side, as HTML bars.


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


# --- The list of chats on the left, as HTML; `assets/chat_list.js` makes its clicks events.

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

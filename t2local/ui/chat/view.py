"""The chat as HTML: messages, dispatch cards, next-token bars.

Here are the values; the elements are in `templates/chat.html`.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from t2local.engine.answers import CUT_OFF
from t2local.engine.attachments import Attachment
from t2local.engine.chat_content import Chat, Message
from t2local.engine.requests import EngineStatus, NextTokens
from t2local.engine.verdicts import Verdict, spoken
from t2local.thinking import THINKING_TAGS, Spoken, split_thinking
from t2local.ui.chat.cards import Card, PromptsOf, card_of, describe_change, like
from t2local.ui.markdown import Piece, pieces, render, split_end
from t2local.ui.messages import EXAMPLES
from t2local.ui.style import PAGE, quiet_html

FILE = "chat.html"
NOT_BEGUN = "The answer did not begin: raise the length, then regenerate it, or press Continue."
SHOWN_CHARACTERS = 6_000  # of a user's message; copying and editing have all of it
SHOWN_MESSAGES = 60  # the newest: two thousand are 5 MB for the browser
MOST_COMPARED, LONGEST_COMPARED = 6, 6_000  # versions of an answer, characters of each
EARLIER = 200  # more of them at a click

ONLY = (1, 1)  # a message without other versions


@dataclass(frozen=True)
class UserTurn:
    """`said` is shown, `more` characters follow; `raw` is all of them.

    While the model speaks, `raw` is None and there are no buttons: that is sent with every token.
    `pictures`: an address, "" where the file is gone, and words. `version`: which of how many.
    """

    role: ClassVar = "user"
    index: int
    said: str
    more: int
    raw: str | None
    pictures: Sequence[tuple[str, str]]
    seen: bool
    version: tuple[int, int]
    files: Sequence[Attachment] = ()


@dataclass(frozen=True)
class Said:
    """`answer`, and what was thought before it: before and after the place of its next word.

    `thinking` is None where nothing was thought. `title`: how much that was. `ends`: the next word
    is the answer's. `missing`: a sentence where the answer did not begin.
    """

    answer: tuple[Markup, Markup]
    thinking: tuple[Markup, Markup] | None = None
    title: str = ""
    ends: bool = True
    missing: str = ""


@dataclass(frozen=True)
class AssistantTurn:
    """`adapted`, `base`: what each has said; `raw`: the answer that is copied.

    `thumb`, `better`: what was thought of it ("up", "down"; "adapted", "base"; "" for nothing);
    `rewritten`: a person wrote over it. `judged`: whether this person's judgement is asked for.
    `version`: which of how many; `compared`: the place of each other one, and both texts.
    """

    role: ClassVar = "assistant"
    index: int
    card: Card
    adapted: "Said"
    base: "Said | None"
    live: bool
    raw: str | None
    last: bool
    facts: Sequence[str]
    thumb: str = ""
    better: str = ""
    rewritten: bool = False
    judged: bool = True
    version: tuple[int, int] = ONLY
    compared: Sequence[tuple[int, list[Piece], list[Piece]]] = ()


class Window(NamedTuple):
    """The part of a chat that a page shows: the messages from `first` on."""

    chat_id: str = ""
    first: int = 0

    def earlier(self) -> "Window":
        return self._replace(first=max(0, self.first - EARLIER))


def window_on(chat: Chat, before: Window) -> Window:
    """The newest messages, and those that `before` showed of this chat already."""
    first = max(0, len(chat.messages) - SHOWN_MESSAGES)
    if first and chat.messages[first].role == "assistant":
        first -= 1  # not without its question
    return Window(chat.id, min(first, before.first) if before.chat_id == chat.id else first)


def transcript_html(
    chat: Chat,
    answer_with: Sequence[str] = (),
    at_work: bool = False,
    sees: bool = True,
    prompts_of: PromptsOf = lambda name: (),
    verdicts: Mapping[int, Verdict] | None = None,
    first: int = 0,
) -> str:
    """The messages from `first` on; `at_work`: all but the answer, which is `live_html`'s then.

    `answer_with`: names that may answer instead. `sees`: whether the model is given the pictures.
    `prompts_of`: what an expert was trained on. `verdicts`: what was thought of the answers, by
    their places; None for whom nobody asks.
    """
    if not chat.messages:
        return welcome_html()
    last, answered = len(chat.messages) - 1, chat.last_answer is not None
    versions = {} if at_work else _versions(chat, first)
    turns = [
        _user(i, message, idle=not at_work, sees=sees, version=versions.get(i, ONLY))
        if message.role == "user"
        else _assistant(
            i,
            message,
            verdict=(verdicts or {}).get(i),
            judged=verdicts is not None,
            is_last=i == last,
            answer_with=answer_with,
            prompts_of=prompts_of,
            version=versions.get(i, ONLY),
            others=chat.others(i) if i == last and i in versions else (),
        )
        for i, message in enumerate(chat.messages[first:], first)
        if not (at_work and answered and i == last)
    ]
    return PAGE.render(
        FILE,
        "transcript",
        turns=turns,
        before=first,
        more=min(first, EARLIER),
        unanswered=not (answered or at_work),
        index=last + 1,
        version=versions.get(last + 1, ONLY),
    )


def live_html(chat: Chat, stage: str, prompts_of: PromptsOf = lambda name: ()) -> str:
    """The answer that is being written. `stage`: what the model does before the first word."""
    message = chat.last_answer
    turn = _assistant(
        len(chat.messages) - 1, message, live=True, is_last=True, prompts_of=prompts_of
    ) if message else None  # fmt: skip
    return PAGE.render(FILE, "live", turn=turn, stage=stage)


def _versions(chat: Chat, first: int) -> dict[int, tuple[int, int]]:
    """Which of how many versions each message from `first` on is, where there are more."""
    parents = {version.parent for version in chat.versions}
    behind = (0, *(message.id for message in chat.messages))
    known = enumerate(behind[first:], first)
    places = (i for i, id in known if id in parents and (id or not i))
    return {i: chat.version_of(i) for i in places}


def welcome_html() -> str:
    """An empty chat: what this is, and six prompts that show the dispatcher off."""
    return PAGE.render(FILE, "welcome", examples=EXAMPLES)


def steer_marks(message: Message) -> list[tuple[int, str]]:
    """`(character, HTML)` where the mixture changed; several changes at one place are one mark."""
    before: Mapping[str, Any] = message.dispatch or {}
    places: dict[int, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for at, mixture in message.steered:
        first = places[at][0] if at in places else before
        places[at] = (first, mixture)
        before = mixture
    return [
        (at, PAGE.render(FILE, "mark", change=describe_change(first, after)))
        for at, (first, after) in places.items()
    ]


def _user(
    index: int, message: Message, *, idle: bool, sees: bool, version: tuple[int, int]
) -> UserTurn:
    return UserTurn(
        index=index,
        said=message.content[:SHOWN_CHARACTERS],
        more=max(0, len(message.content) - SHOWN_CHARACTERS),
        raw=message.content if idle else None,
        pictures=_pictures(message),
        seen=sees,
        version=version,
        files=[_shown_file(file) for file in message.files],
    )


def _shown_file(file: Attachment) -> Attachment:
    text = file.text
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]}\n… and {len(text) - SHOWN_CHARACTERS:,} characters more"
    return replace(file, text=text)


def _pictures(message: Message) -> list[tuple[str, str]]:
    """Small, a click opens them whole."""
    total = len(message.images)
    return [
        (
            f"gradio_api/file={quote(image)}" if Path(image).is_file() else "",
            f"picture {i} of {total}",
        )
        for i, image in enumerate(message.images, 1)
    ]


def _assistant(
    index: int,
    message: Message,
    *,
    is_last: bool,
    prompts_of: PromptsOf,
    live: bool = False,
    verdict: Verdict | None = None,
    judged: bool = False,
    answer_with: Sequence[str] = (),
    version: tuple[int, int] = ONLY,
    others: Sequence[tuple[int, Message]] = (),
) -> AssistantTurn:
    names = answer_with if is_last and not live else ()
    marks, base = steer_marks(message), None
    if message.base_content is not None:
        base = _answer(message.base_content, [], live)
    return AssistantTurn(
        index=index,
        judged=judged,
        thumb=verdict.thumb if verdict else "",
        better=_better(message, verdict),
        rewritten=message.original is not None,
        card=replace(
            card_of(message.dispatch or {}, message.timing, names, is_open=is_last),
            like=like(message.dispatch or {}, prompts_of) if is_last else (),
        ),
        adapted=_answer(message.content, marks, live),
        base=base,
        live=live,
        raw=None if live else _spoken(message.content).answer or message.content,
        last=is_last,
        facts=[] if live else _facts(message, len(marks)),
        version=version,
        compared=[
            (place, *_compared(other.content, message.content))
            for place, other in sorted(others, key=lambda each: abs(each[0] - version[0]))
        ][:MOST_COMPARED],
    )


@functools.lru_cache(maxsize=64)
def _compared(other: str, shown: str) -> tuple[list[Piece], list[Piece]]:
    return pieces(other[:LONGEST_COMPARED], shown[:LONGEST_COMPARED])


def _better(message: Message, verdict: Verdict | None) -> str:
    """Which of two answers side by side was preferred, "" for neither."""
    if verdict is None or not verdict.over:
        return ""
    return "base" if verdict.answer == spoken(message.base_content or "") else "adapted"


def _answer(text: str, marks: list[tuple[int, str]], live: bool) -> Said:
    """An answer with its thinking set apart, each with the marks that stand in it."""
    if live and _begins_tag(text):
        return Said((Markup(""), Markup("")))
    spoken = _spoken(text)
    if not spoken.thinking and spoken.closed:
        return Said(_halves(text, marks, live))
    begins = len(text.rstrip()) - len(spoken.answer) if spoken.answer else len(text)
    within = text.find(spoken.thinking)
    thought = [(max(0, at - within), html) for at, html in marks if at < begins]
    said = [(at - begins, html) for at, html in marks if at >= begins]
    thinks = live and not spoken.closed
    return Said(
        _halves(spoken.answer, said, live and spoken.closed),
        _halves(spoken.thinking, thought, thinks),
        _thought(spoken.thinking, thinks),
        spoken.closed,
        "" if live or spoken.closed else NOT_BEGUN,
    )


def _begins_tag(text: str) -> bool:
    """Whether all of a text may be the beginning of a thinking tag, and is no answer then."""
    begun = text.strip().casefold()
    return any(tag.casefold().startswith(begun) for tag, _ in THINKING_TAGS)


@functools.lru_cache(maxsize=512)
def _spoken(text: str) -> Spoken:
    """What was thought and what was answered; a text without thinking is left as it is."""
    spoken = split_thinking(text)
    return spoken if spoken.thinking or not spoken.closed else Spoken("", text, True)


def _halves(text: str, marks: list[tuple[int, str]], live: bool) -> tuple[Markup, Markup]:
    html = render(text, marks).rstrip()
    return split_end(html) if live else (html, Markup(""))


def _thought(thinking: str, live: bool) -> str:
    """What stands above folded thinking."""
    return "Thinking …" if live else f"Thought first, {len(thinking):,} characters"


ENDS = {"cancelled": "stopped", "length": "cut at the limit", CUT_OFF: "interrupted"}


def _facts(message: Message, steered: int) -> list[str]:
    """What stands under an answer; a term among it explains itself."""
    timing = message.timing or {}
    if (message.dispatch or {}).get("choice"):
        return ["chosen among its labels"]  # no speed of writing
    tokens = timing.get("tokens")
    facts = [
        f"{tokens} token{'s' if tokens != 1 else ''}" if tokens else "",
        f"{timing['tokens_per_s']:.0f} tok/s" if timing.get("tokens_per_s") else "",
        "8-bit weights" if timing.get("packed_tokens") else "",
        ENDS.get(timing.get("finish"), ""),
        f"◆ steered {steered}×" if steered else "",
    ]
    return [fact for fact in facts if fact]


# --- The line under the message box: speed, and how full the model's context is.


def line_html(status: EngineStatus, tokens_per_s: float, context_used: int) -> str:
    if not status.ready:
        return ""
    limit = max(1, status.context_length)
    return PAGE.render(
        FILE,
        "line",
        tokens_per_s=tokens_per_s,
        used=context_used,
        limit=limit,
        share=min(1.0, context_used / limit),
    )


# --- The likeliest next tokens, base and adapted side by side, as HTML bars.


def next_tokens_html(tokens: NextTokens) -> str:
    """Two columns of bars on one scale; a token only one side lists is marked."""
    largest = max((p for _, p in (*tokens.base, *tokens.adapted)), default=1.0) or 1.0
    before = {text for text, _ in tokens.base}
    after = {text for text, _ in tokens.adapted}
    return PAGE.render(
        FILE,
        "next_tokens",
        base=[(visible(t), p, p / largest, t not in after) for t, p in tokens.base],
        adapted=[(visible(t), p, p / largest, t not in before) for t, p in tokens.adapted],
    )


def hint_html(sentence: str) -> str:
    return quiet_html(sentence)


def visible(text: str) -> str:
    """A token with its white space made visible: a leading space is `·`, a newline `⏎`."""
    if not text.strip(" "):
        return "·" * len(text) or "∅"
    spaces = len(text) - len(text.lstrip(" "))
    return "·" * spaces + text.lstrip(" ").replace("\n", "⏎").replace("\t", "⇥")

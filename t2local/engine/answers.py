"""One answer from asking to saving: drives the engine's events into a `Chat`.

Knows nothing of gradio. The chat is saved when the question is asked, every few seconds, and at
the end in a `finally`, so an answer that was stopped, failed or lost its page is kept as far as it
came. Only tokens are accumulated: marks and text therefore share one count of characters.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from t2local.adapt.answer_stream import BASE_ROW, MANUAL, Dispatched, Done, Steered, Token
from t2local.engine.chats import Chat, Message
from t2local.engine.engine import Engine
from t2local.engine.requests import (
    ChatRequest,
    Controls,
    controls_json,
    mixture_from_json,
    mixture_json,
    sampling_json,
)
from t2local.errors import T2LocalError
from t2local.models.decode.sampling import Sampling

SAVE_EVERY_S = 2.0


@dataclass(frozen=True)
class Asked:
    """What the page's settings say: how to answer the next question."""

    controls: Controls
    sampling: Sampling
    system_prompt: str = ""
    compare: bool = False


@dataclass(frozen=True)
class Live:
    """The chat after one more event; `tokens_per_s` and `context_used` as far as known."""

    chat: Chat
    event: Any
    stage: str
    tokens_per_s: float = 0.0
    context_used: int = 0


def answer(engine: Engine, session: str, chat: Chat, asked: Asked) -> Iterator[Live]:
    """Answer the last user message; an answer already there is replaced by the new one.

    Raises `T2LocalError` as the engine does, and when another tab is answering this chat.
    """
    before = chat.last_answer if asked.controls.override else None
    yield from _speak(engine, session, chat.unanswered(), asked, before)


def carry_on(engine: Engine, session: str, chat: Chat, asked: Asked) -> Iterator[Live]:
    """Continue the last answer where it stopped, with the mixture it stopped with.

    Raises `T2LocalError` when there is no answer to continue.
    """
    if chat.last_answer is None:
        raise T2LocalError("There is no answer to continue yet; write a message first.")
    yield from _speak(
        engine, session, chat, replace(asked, compare=False), chat.last_answer, carried=True
    )


def _speak(
    engine: Engine,
    session: str,
    chat: Chat,
    asked: Asked,
    before: Message | None,
    carried: bool = False,
) -> Iterator[Live]:
    chat = replace(
        chat,
        system_prompt=asked.system_prompt,
        controls=controls_json(asked.controls),
        sampling=sampling_json(asked.sampling),
    )
    controls = _controls_of(before) if carried else asked.controls
    turns = chat.turns(engine.status.sees)
    request = ChatRequest(turns, controls, asked.sampling, asked.compare, carried)
    with engine.chats.claim(chat.id):
        chat = engine.chats.save(chat)
        yield Live(chat, None, "reading your prompt …")
        saved = time.monotonic()
        try:
            with closing(engine.answer(session, request)) as events:
                writer = _Writer(asked, before, carried)
                earlier = chat.messages[:-1] if carried else chat.messages
                for event in events:
                    message = writer.take(event)
                    chat = replace(chat, messages=(*earlier, message))
                    if time.monotonic() - saved > SAVE_EVERY_S:
                        chat, saved = engine.chats.save(chat), time.monotonic()
                    yield Live(chat, event, "writing", writer.speed, writer.context_used)
        finally:
            engine.chats.save(chat)


def _controls_of(message: Message) -> Controls:
    """Controls that repeat the mixture with which a message ended."""
    last = message.steered[-1][1] if message.steered else message.dispatch or {}
    return Controls(MANUAL, mixture=mixture_from_json(last))


class _Writer:
    """Collects events into the assistant's message."""

    def __init__(self, asked: Asked, before: Message | None, carried: bool) -> None:
        self.override = asked.controls.override
        self.before, self.carried = before, carried
        self.compare = asked.compare
        self.began: float | None = None
        self.tokens = 0
        self.prompt_tokens = 0
        fresh = Message("assistant", "", base_content="" if asked.compare else None)
        self.message = before if carried and before else fresh

    @property
    def speed(self) -> float:
        """Tokens a second since the first token."""
        spent = time.monotonic() - self.began if self.began is not None else 0.0
        return (self.tokens - 1) / spent if self.tokens > 1 and spent > 0 else 0.0

    @property
    def context_used(self) -> int:
        return self.prompt_tokens + self.tokens

    def take(self, event: Any) -> Message:
        message = self.message
        if isinstance(event, Dispatched):
            self.prompt_tokens = event.context_tokens
            message = replace(message, dispatch=self._dispatch(event), timing=None)
        elif isinstance(event, Token):
            message = self._append(message, event)
        elif isinstance(event, Steered):
            mark = (len(message.content), mixture_json(event.mixture))
            message = replace(message, steered=(*message.steered, mark))
        elif isinstance(event, Done):
            message = replace(message, timing=_timing(event))
        self.message = message
        return message

    def _append(self, message: Message, event: Token) -> Message:
        self.began = self.began or time.monotonic()
        if event.row == BASE_ROW:
            return replace(message, base_content=(message.base_content or "") + event.text)
        self.tokens = max(self.tokens, event.tokens)
        return replace(message, content=message.content + event.text)

    def _dispatch(self, event: Dispatched) -> Mapping[str, Any]:
        """The decision as JSON; an override keeps what pass 1 had said before."""
        dispatch = event.dispatch
        earlier = (self.before.dispatch if self.before else None) or {}
        if self.carried and earlier:
            return {**earlier, "cut_tokens": event.cut_tokens}
        asked = {
            "strategy": dispatch.strategy,
            "probabilities": dict(dispatch.probabilities),
            "seconds": dispatch.seconds,
        }
        if not dispatch.probabilities:
            asked |= {name: earlier[name] for name in asked if name in earlier}
        return {
            **asked,
            "chosen": dispatch.chosen,
            **mixture_json(dispatch.mixture),
            "note": dispatch.note,
            "override": self.override,
            "cut_tokens": event.cut_tokens,
        }


def _timing(done: Done) -> dict[str, Any]:
    return {
        "first_pass_s": done.first_pass_s,
        "second_pass_s": done.second_pass_s,
        "tokens": done.tokens,
        "tokens_per_s": done.tokens_per_s,
        "finish": done.finish,
        "packed_tokens": done.int8_tokens,
        "context_used": done.context_used,
        "context_length": done.context_length,
    }


def preview(
    chat: Chat, draft: str, images: Sequence[str], asked: Asked, sees: bool
) -> ChatRequest | None:
    """What to ask the next-token bars: how an answer to the draft, or to the last message, begins.

    `images`: attached to the draft. `sees`: whether the model does.
    None when there is nothing to answer yet.
    """
    if draft.strip():
        chat = chat.ask(draft).showing(images)
    elif not chat.messages:
        return None
    chat = replace(chat.unanswered(), system_prompt=asked.system_prompt)
    return ChatRequest(chat.turns(sees), asked.controls, asked.sampling)

"""A chat's answer: a job that drives the engine's events into a `Chat`, whoever looks on.

It goes on when the page is closed; any tab follows and stops it by the chat's id. The chat is saved
when the question is asked, every few seconds, and at the end in a `finally`, so an answer that was
stopped or failed is kept as far as it came. Only tokens are accumulated: marks and text therefore
share one count of characters.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from t2local.adapt.dispatch import BASE_ROW, MANUAL, Dispatched, Done, Steered, Token
from t2local.engine.chat_content import Chat, Message
from t2local.engine.chats import ANSWERED, ChatStore, Diverged
from t2local.engine.job_record import ANSWER, JobStatus
from t2local.engine.jobs import Job, Jobs, Work
from t2local.engine.requests import (
    ChatRequest,
    Controls,
    EngineStatus,
    controls_json,
    mixture_from_json,
    mixture_json,
    sampling_json,
)
from t2local.errors import T2LocalError
from t2local.models.decode.sampling import Sampling
from t2local.progress import FAILED, CancelToken
from t2local.svf import Mixture

CUT_OFF = "cut-off"  # how an answer ended of which only a part came
SAVE_EVERY_S = 2.0
JOB = "answer-"  # before a chat's id, and before whose it is


class Speaker(Protocol):
    """What an answer needs of the engine."""

    chats: ChatStore

    @property
    def status(self) -> EngineStatus: ...

    def answer(
        self, chat_id: str, request: ChatRequest, cancel: CancelToken | None = None
    ) -> Iterator[Any]: ...


@dataclass(frozen=True)
class Asked:
    """What the page's settings say: how to answer the next question."""

    controls: Controls
    sampling: Sampling
    system_prompt: str = ""
    compare: bool = False


@dataclass(frozen=True)
class Live:
    """The chat after one more event; `tokens_per_s` and `context_used` as far as known.

    `mixture`: what answers now, None until that is decided.
    """

    chat: Chat
    event: Any
    stage: str
    tokens_per_s: float = 0.0
    context_used: int = 0
    mixture: Mixture | None = None


How = Callable[[Speaker, Chat, Asked, CancelToken | None], Iterator[Live]]  # the two below


def answer(
    engine: Speaker, chat: Chat, asked: Asked, cancel: CancelToken | None = None
) -> Iterator[Live]:
    """Answer the last user message; an answer already there is replaced by the new one.

    Raises `T2LocalError` as the engine does, and when somebody else writes to this chat.
    """
    before = chat.last_answer if asked.controls.override else None
    yield from _speak(engine, chat.unanswered(), asked, cancel, before)


def carry_on(
    engine: Speaker, chat: Chat, asked: Asked, cancel: CancelToken | None = None
) -> Iterator[Live]:
    """Continue the last answer where it stopped, with the mixture it stopped with.

    Raises `T2LocalError` when there is no answer to continue.
    """
    if chat.last_answer is None:
        raise T2LocalError("There is no answer to continue yet; write a message first.")
    asked = replace(asked, compare=False)
    yield from _speak(engine, chat, asked, cancel, chat.last_answer, carried=True)


class AnswerWork(Work):
    """One answer as a job. Its record is the chat's file; `how`: `answer` or `carry_on`."""

    kind = ANSWER
    keeps_events = False  # each has the whole chat in it

    def __init__(self, id: str, engine: Speaker, chat: Chat, asked: Asked, how: How) -> None:
        super().__init__(id, chat.title, lane=id)
        self.engine, self.chat, self.asked, self.how = engine, chat, asked, how

    def run(self, job: Job) -> Generator[Live, None, str]:
        yield from self.how(self.engine, self.chat, self.asked, job.cancel)
        return "Stopped." if job.cancel.cancelled else ""

    def figures(self, event: Live, seconds: float) -> Mapping[str, Any]:
        return {"message": event.stage}


class Answers:
    """The answers of all chats of an engine, at most one of each at a time. From any thread.

    `scope`: sets apart the chats of several engines that share their `jobs`.
    """

    def __init__(self, jobs: Jobs, engine: Speaker, scope: str = "") -> None:
        self._jobs, self._engine, self._prefix = jobs, engine, JOB + scope
        self._starting = threading.Lock()  # around a look at a chat's answer and a new one's start

    def start(self, chat: Chat, asked: Asked, how: How = answer) -> JobStatus:
        """Let a chat be answered in the background; the question is on disk when this returns.

        Raises `T2LocalError` while it is being answered already, and when it cannot be saved.
        """
        with self._starting:
            if self.running(chat.id):
                raise T2LocalError(ANSWERED)
            with self._engine.chats.claim(chat.id):
                chat = self._engine.chats.save(chat)  # an answer stopped at once never begins
            work = AnswerWork(self._prefix + chat.id, self._engine, chat, asked, how)
            id = self._jobs.start(work)
            return self._jobs.status(id)

    def follow(self, chat_id: str, beat_s: float | None = None) -> Iterator[Live | None]:
        """A chat's answer as it stands, again and again until it is over; `beat_s` as in `Jobs`.

        Then raises `T2LocalError` where it failed. Leaving early does nothing to the answer.
        """
        job = self._job(chat_id)
        yield from self._jobs.follow(self._prefix + chat_id, beat_s)
        if job is not None and job.status.stage == FAILED:
            raise T2LocalError(job.status.message)

    def running(self, chat_id: str | None) -> JobStatus | None:
        """Of the chat's answer while it is at work."""
        job = self._job(chat_id)
        return job.status if job is not None and job.status.live else None

    def latest(self, chat_id: str | None) -> Live | None:
        """The chat's answer as it stands; None while there is none at work."""
        job = self._job(chat_id)
        if job is None:
            return None
        with job.changed:
            return job.events[-1] if job.status.live and job.events else None

    def chats(self) -> tuple[str, ...]:
        """The ids of the chats that are being answered."""
        ids = [status.id for status in self._jobs.live(ANSWER)]
        own = [id for id in ids if id.startswith(self._prefix)]
        return tuple(sorted(id.removeprefix(self._prefix) for id in own))

    def stop(self, chat_id: str) -> None:
        """End a chat's answer after its current token; nothing happens where there is none."""
        if self.running(chat_id):
            self._jobs.stop(self._prefix + chat_id)

    def settle(self, chat_id: str, timeout_s: float = 2.0) -> None:
        """Wait until a chat is not being answered, at most `timeout_s`."""
        if self.running(chat_id):
            self._jobs.wait(self._prefix + chat_id, timeout_s)

    def _job(self, chat_id: str | None) -> Job | None:
        return self._jobs.find(f"{self._prefix}{chat_id}")


def _speak(
    engine: Speaker,
    chat: Chat,
    asked: Asked,
    cancel: CancelToken | None,
    before: Message | None,
    carried: bool = False,
) -> Iterator[Live]:
    chat = replace(
        chat,
        system_prompt=asked.system_prompt,
        controls=controls_json(asked.controls),
        sampling=sampling_json(asked.sampling),
    )
    controls = Controls(MANUAL, mixture=mixture_of(before)) if carried else asked.controls
    turns = chat.turns(engine.status.sees)
    request = ChatRequest(turns, controls, asked.sampling, asked.compare, carried)
    with engine.chats.claim(chat.id):
        chat = kept = engine.chats.save(chat)
        yield Live(chat, None, "reading your prompt …")
        saved_s = time.monotonic()
        writer = _Writer(asked, before, carried)
        try:
            with closing(engine.answer(chat.id, request, cancel)) as events:
                earlier = chat.messages[:-1] if carried else chat.messages
                for event in events:
                    message = writer.take(event)
                    chat = replace(chat, messages=(*earlier, message))
                    if isinstance(event, Done) or time.monotonic() - saved_s > SAVE_EVERY_S:
                        saved = engine.chats.save(writer.as_cut_off(chat))
                        chat = kept = replace(chat, updated=saved.updated)
                        saved_s = time.monotonic()
                    yield writer.live(chat, event)
        finally:
            if chat is not kept:
                _keep(engine.chats, writer.as_cut_off(chat))


def _keep(chats: ChatStore, chat: Chat) -> None:
    """Save what was said, wherever it can be: a program without our locks may have written too."""
    try:
        chats.save(chat)
    except Diverged:
        chats.set_aside(chat)
        raise


def mixture_of(message: Message) -> Mixture:
    """The mixture with which an answer ended."""
    last = message.steered[-1][1] if message.steered else message.dispatch or {}
    return mixture_from_json(last)


class _Writer:
    """Collects events into the assistant's message."""

    def __init__(self, asked: Asked, before: Message | None, carried: bool) -> None:
        self.override = asked.controls.override
        self.before, self.carried = before, carried
        self.compare = asked.compare
        self.sampling = asked.sampling
        self.began: float | None = None
        self.tokens = 0
        self.prompt_tokens = 0
        self.mixture: Mixture | None = None
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

    def live(self, chat: Chat, event: Any) -> Live:
        return Live(chat, event, "writing", self.speed, self.context_used, self.mixture)

    def take(self, event: Any) -> Message:
        message = self.message
        if isinstance(event, Dispatched):
            self.mixture = event.dispatch.mixture
            self.prompt_tokens = event.context_tokens
            message = replace(message, dispatch=self._dispatch(event), timing=None)
        elif isinstance(event, Token):
            message = self._append(message, event)
        elif isinstance(event, Steered):
            self.mixture = event.mixture
            mark = (len(message.content), mixture_json(event.mixture))
            message = replace(message, steered=(*message.steered, mark))
        elif isinstance(event, Done):
            message = replace(message, timing=_timing(event))
        self.message = message
        return message

    def as_cut_off(self, chat: Chat) -> Chat:
        """The chat as it is written before the answer's end: the answer says how far it came."""
        message = self.message
        if message.dispatch is None or message.timing is not None or chat.last_answer is None:
            return chat
        timing = {
            "first_pass_s": message.dispatch.get("seconds", 0.0),
            "second_pass_s": time.monotonic() - self.began if self.began is not None else 0.0,
            "tokens": self.tokens,
            "tokens_per_s": self.speed,
            "finish": CUT_OFF,
            "context_used": self.context_used,
        }
        return replace(chat, messages=(*chat.messages[:-1], replace(message, timing=timing)))

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
            kept = (*asked, "near")
            asked |= {name: earlier[name] for name in kept if name in earlier}
        if dispatch.choice is not None:
            choice = dispatch.choice
            asked["choice"] = {"expert": choice.expert, "shares": dict(choice.shares)}
        if dispatch.near:
            asked["near"] = [[each.label, each.place] for each in dispatch.near]
        return {
            **asked,
            "chosen": dispatch.chosen,
            **mixture_json(dispatch.mixture),
            "note": dispatch.note,
            "override": self.override,
            "cut_tokens": event.cut_tokens,
            "sampling": sampling_json(self.sampling),
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

"""What the Chat tab does: each callback reads its inputs, asks the engine, presents the answer."""

import functools
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from t2local.adapt.answer_stream import BASE, Dispatched, Token
from t2local.engine import answers as turns
from t2local.engine.chats import Chat
from t2local.engine.engine import Engine
from t2local.errors import T2LocalError
from t2local.ui.chat.layout import ChatTab, drafted
from t2local.ui.chat.view import (
    SHOWN,
    chat_list_html,
    hint_html,
    line_html,
    next_tokens_html,
    shown_rows,
    transcript_html,
)
from t2local.ui.chat.wheel import mixer_update
from t2local.ui.messages import shown

EMPTY_MESSAGE = {"text": "", "files": []}
FRAME_S = 0.04  # the transcript is redrawn at most this often
MODEL = {"concurrency_id": "model", "concurrency_limit": 4}


class ChatEvents:
    """Binds a `ChatTab` to an engine; holds no state of its own."""

    def __init__(self, engine: Engine, tab: ChatTab) -> None:
        self.engine, self.tab, self.wheel = engine, tab, tab.wheel
        self.inputs = {tab.chat_id, tab.message, tab.compare, *tab.wheel.inputs}
        self.shown_chat = [
            tab.chat_id, tab.last_chat, tab.chats, tab.transcript, tab.line, tab.send, tab.stop,
        ]  # fmt: skip
        self.streams: list[Any] = []

    def bind(self) -> None:
        tab = self.tab
        self._speaks(functools.partial(gr.on, [tab.message.submit, tab.send.click]), self.send)
        self._speaks(tab.transcript.retry, self.retry)
        self._speaks(tab.transcript.edit_message, self.edit)
        self._speaks(tab.transcript.carry_on, self.carry_on)
        self._speaks(tab.transcript.answer_with, self.answer_with)
        self._speaks(tab.transcript.example, self.example)
        tab.stop.click(self.stop, None, None, queue=False)
        self._opens(tab.new.click, self.new)
        self._opens(tab.chats.pick, self.pick)
        self._opens(tab.chats.remove, self.remove)
        for trigger, callback in ((tab.chats.rename, self.rename), (tab.chats.more, self.more)):
            trigger(shown(callback), {tab.chat_id}, tab.chats, show_progress="hidden")

    def _speaks(self, trigger: Any, callback: Any) -> None:
        outputs = [*self.shown_chat, self.tab.message, self.wheel.mixer]
        stream = trigger(
            shown(callback),
            self.inputs,
            outputs,
            show_progress="hidden",
            trigger_mode="once",
            **MODEL,
        )
        for after in (stream.then, stream.failure):  # gradio skips `then` after an error mid-stream
            after(self.settle, self.inputs, self.shown_chat, show_progress="hidden")
        self.streams.append(stream)

    def _opens(self, trigger: Any, callback: Any) -> None:
        outputs = [*self.shown_chat, *self.chat_outputs]
        trigger(
            shown(callback), {self.tab.chat_id}, outputs, show_progress="hidden",
            cancels=self.streams,
        )  # fmt: skip

    @property
    def chat_outputs(self) -> list[Any]:
        return list(self.wheel.inputs)

    # answering -----------------------------------------------------------------------------

    def send(self, values: dict, request: gr.Request) -> Iterator[dict]:
        text, files = drafted(values[self.tab.message])
        chat = self._chat(values).ask(text)
        if files:
            chat = chat.showing(self._kept(chat.id, files))
        yield from self._stream(turns.answer, chat, values, request)

    def example(self, values: dict, request: gr.Request, event: gr.EventData) -> Iterator[dict]:
        chat = self._chat(values).ask(event.text)
        yield from self._stream(turns.answer, chat, values, request)

    def edit(self, values: dict, request: gr.Request, event: gr.EventData) -> Iterator[dict]:
        chat = self._chat(values).edit(event.index, event.text)
        yield from self._stream(turns.answer, chat, values, request)

    def retry(self, values: dict, request: gr.Request) -> Iterator[dict]:
        yield from self._stream(turns.answer, self._chat(values), values, request)

    def carry_on(self, values: dict, request: gr.Request) -> Iterator[dict]:
        yield from self._stream(turns.carry_on, self._chat(values), values, request)

    def answer_with(self, values: dict, request: gr.Request, event: gr.EventData) -> Iterator[dict]:
        chat = self._chat(values)
        yield from self._stream(turns.answer, chat, values, request, override=event.name)

    def stop(self, request: gr.Request) -> None:
        self.engine.stop(request.session_hash)

    def settle(self, values: dict) -> dict:
        return self.present(self._chat(values))

    def _stream(
        self, speak: Any, chat: Chat, values: dict, request: gr.Request, override: str | None = None
    ) -> Iterator[dict]:
        tab = self.tab
        asked = self.wheel.asked(values, compare=bool(values[tab.compare]), override=override)
        drawn, sees = 0.0, self.engine.status.sees
        for live in speak(self.engine, request.session_hash, chat, asked):
            if isinstance(live.event, Token) and time.monotonic() - drawn < FRAME_S:
                continue
            drawn = time.monotonic()
            update = {
                tab.transcript: transcript_html(live.chat, (), live.stage, asked.compare, sees),
                tab.line: line_html(self.engine.status, live.tokens_per_s, live.context_used),
            }
            if live.event is None:
                update |= self._began(live.chat)
            if isinstance(live.event, Dispatched):
                alpha = live.event.dispatch.mixture.alpha
                update[self.wheel.mixer] = mixer_update(self.engine.experts(), alpha)
            yield update

    def _began(self, chat: Chat) -> dict:
        tab = self.tab
        return {
            tab.chat_id: chat.id,
            tab.last_chat: chat.id,
            tab.message: EMPTY_MESSAGE,
            tab.chats: chat_list_html(self.engine.chats.list(), chat.id),
            tab.send: gr.Button(visible=False),
            tab.stop: gr.Button(visible=True),
        }

    # chats ---------------------------------------------------------------------------------

    def new(self, values: dict, request: gr.Request) -> dict:
        self._leave(values, request)
        return self.open(self.engine.chats.new())

    def pick(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        self._leave(values, request)
        return self.open(self.engine.chats.load(event.id), shown_rows(event))

    def remove(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        self._leave(values, request)
        self.engine.chats.delete(event.id)
        kept = values[self.tab.chat_id] if values[self.tab.chat_id] != event.id else None
        return self.open(self.engine.chats.load_or_new(kept), shown_rows(event))

    def rename(self, values: dict, event: gr.EventData) -> str:
        self.engine.chats.rename(event.id, event.title)
        return self.more(values, event)

    def more(self, values: dict, event: gr.EventData) -> str:
        """The list with as many rows as the event asks for."""
        chats, current = self.engine.chats.list(), values[self.tab.chat_id]
        return chat_list_html(chats, current, shown=shown_rows(event))

    def open(self, chat: Chat, rows: int = SHOWN) -> dict:
        """Everything the page shows of a chat, its settings included."""
        settings = self.wheel.show_chat(self.engine, chat) if self.engine.status.ready else {}
        return {**self.present(chat, rows), **settings}

    def present(self, chat: Chat, rows: int = SHOWN) -> dict:
        """The conversation itself, as it is on disk; `rows`: how many chats the list shows."""
        tab = self.tab
        timing = (chat.last_answer.timing if chat.last_answer else None) or {}
        return {
            tab.chat_id: chat.id,
            tab.last_chat: chat.id,
            tab.chats: chat_list_html(self.engine.chats.list(), chat.id, shown=rows),
            tab.transcript: transcript_html(chat, self._answerers(), sees=self.engine.status.sees),
            tab.line: line_html(
                self.engine.status, timing.get("tokens_per_s", 0.0), timing.get("context_used", 0)
            ),
            tab.send: gr.Button(visible=True),
            tab.stop: gr.Button(visible=False),
        }

    def _kept(self, chat_id: str, files: list[str]) -> tuple[str, ...]:
        status = self.engine.status
        if status.ready and not status.sees:
            raise T2LocalError(
                f"{status.model_name} reads text only and cannot see the picture; remove it, or "
                "load a model that sees in the tab Models."
            )
        return self.engine.chats.keep_pictures(chat_id, files)

    def _answerers(self) -> list[str]:
        experts = [e for e in self.engine.experts() if e.kind == "skill" and e.usable]
        return [*(expert.name for expert in experts), BASE]

    def _chat(self, values: dict) -> Chat:
        return self.engine.chats.load_or_new(values[self.tab.chat_id])

    def _leave(self, values: dict, request: gr.Request) -> None:
        """Stop what this tab is saying and wait until it is saved."""
        self.engine.stop(request.session_hash)
        if values[self.tab.chat_id] is not None:
            self.engine.chats.settle(values[self.tab.chat_id])


def last_dispatch(chat: Chat) -> dict:
    answers = [message for message in chat.messages if message.dispatch]
    return dict(answers[-1].dispatch) if answers else {}


# --- What the right column does: steers a running answer, redraws next-token bars and plots.
#
# Steering has its own `concurrency_id`, so that a moved slider reaches an answer that is being
# spoken; drawing has another, so that it never delays steering.

STEER = {"concurrency_id": "steer", "concurrency_limit": 8, "trigger_mode": "always_last"}
DRAW = {"concurrency_id": "draw", "concurrency_limit": 4, "trigger_mode": "always_last"}
NOTHING_YET = "Write a message, then move a slider: the bars show how the answer would begin."


class WheelEvents:
    """Binds the wheel of a `ChatTab` to an engine; holds no state of its own."""

    def __init__(self, engine: Engine, tab: ChatTab) -> None:
        self.engine, self.tab, self.wheel = engine, tab, tab.wheel
        self.inputs = {tab.chat_id, tab.message, tab.plots_open, *tab.wheel.inputs}
        self.inputs.add(tab.wheel.plots.matrix)

    def bind(self, after_answers: list[Any]) -> None:
        """`after_answers`: streams after which bars and plots are drawn anew."""
        wheel, plots, quiet = self.wheel, self.wheel.plots, {"show_progress": "hidden"}
        moved = [slider.input for slider in wheel.sliders]
        gr.on(moved, shown(self.steer), self.inputs, None, **STEER, **quiet)
        gr.on(moved, shown(self.bars), self.inputs, wheel.next_tokens, **DRAW, **quiet)
        wheel.mixer.input(None, None, wheel.strategy, js="() => 'manual'")
        let_go = [slider.release for slider in wheel.sliders]
        gr.on(
            [*let_go, plots.matrix.input],
            shown(self.plots),
            self.inputs,
            plots.outputs,
            **DRAW,
            **quiet,
        )
        opened = plots.accordion.expand(lambda: True, None, self.tab.plots_open, **quiet)
        opened.then(shown(self.plots), self.inputs, plots.outputs, **quiet)
        plots.accordion.collapse(lambda: False, None, self.tab.plots_open, **quiet)
        for stream in after_answers:
            drawn = stream.then(shown(self.bars), self.inputs, wheel.next_tokens, **quiet)
            drawn.then(shown(self.plots), self.inputs, plots.outputs, **quiet)

    def steer(self, values: dict, request: gr.Request) -> None:
        self.engine.steer(request.session_hash, self.wheel.mixture(values))

    def bars(self, values: dict, request: gr.Request) -> str:
        chat = self.engine.chats.load_or_new(values[self.tab.chat_id])
        asked = self.wheel.asked(values, compare=False)
        text, files = drafted(values[self.tab.message])
        status = self.engine.status
        question = turns.preview(chat, text, files, asked, status.sees)
        if question is None or not status.ready:
            return hint_html(NOTHING_YET)
        mixture = asked.controls.mixture
        return next_tokens_html(self.engine.next_tokens(request.session_hash, question, mixture))

    def plots(self, values: dict) -> dict:
        if not values[self.tab.plots_open] or not self.engine.status.ready:
            return {self.wheel.plots.matrix: gr.skip()}
        chat = self.engine.chats.load_or_new(values[self.tab.chat_id])
        mixture, matrix = self.wheel.mixture(values), values[self.wheel.plots.matrix]
        return self.wheel.plots.draw(self.engine, last_dispatch(chat), mixture, matrix)

"""What the right column does: steers a running answer, redraws next-token bars and plots.

Steering has its own `concurrency_id`, so that a moved slider reaches an answer that is being
spoken; drawing has another, so that it never delays steering.
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from t2local.adapt.context import TooLong
from t2local.engine.answers import preview
from t2local.engine.chat_content import Chat
from t2local.engine.engine import Engine
from t2local.ui.chat.layout import ChatTab, drafted
from t2local.ui.chat.view import hint_html, next_tokens_html
from t2local.ui.messages import shown

STEER = {"concurrency_id": "steer", "concurrency_limit": 8, "trigger_mode": "always_last"}
DRAW = {"concurrency_id": "draw", "concurrency_limit": 4, "trigger_mode": "always_last"}
NOTHING_YET = "Write a message, then move a slider: the bars show how the answer would begin."


class WheelEvents:
    """Binds the wheel of a `ChatTab` to an engine; holds no state of its own."""

    def __init__(self, engine: Engine, tab: ChatTab) -> None:
        self.engine, self.tab, self.wheel = engine, tab, tab.wheel
        self.inputs = {tab.chat_id, tab.message, tab.plots_open, *tab.wheel.inputs}
        self.inputs.add(tab.wheel.plots.matrix)

    def bind(self, after: Sequence[Any]) -> None:
        """`after`: events after which bars and plots are drawn anew."""
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
        for event in after:
            drawn = event.then(shown(self.bars), self.inputs, wheel.next_tokens, **quiet)
            drawn.then(shown(self.plots), self.inputs, plots.outputs, **quiet)

    def steer(self, values: dict) -> None:
        self.engine.steer(values[self.tab.chat_id], self.wheel.mixture(values))

    def bars(self, values: dict) -> str:
        chat = self.engine.chats.load_or_new(values[self.tab.chat_id])
        asked = self.wheel.asked(values, compare=False)
        text, pictures, _ = drafted(values[self.tab.message])
        status = self.engine.status
        question = preview(chat, text, pictures, asked, status.sees)
        if question is None or not status.ready:
            return hint_html(NOTHING_YET)
        mixture = asked.controls.mixture
        try:
            return next_tokens_html(self.engine.next_tokens(chat.id, question, mixture))
        except TooLong as error:  # not asked for: no more than a word in its place
            return hint_html(str(error))

    def plots(self, values: dict) -> dict:
        if not values[self.tab.plots_open] or not self.engine.status.ready:
            return {self.wheel.plots.matrix: gr.skip()}
        chat = self.engine.chats.load_or_new(values[self.tab.chat_id])
        mixture, matrix = self.wheel.mixture(values), values[self.wheel.plots.matrix]
        return self.wheel.plots.draw(self.engine, last_dispatch(chat), mixture, matrix)


def last_dispatch(chat: Chat) -> dict:
    answers = [message for message in chat.messages if message.dispatch]
    return dict(answers[-1].dispatch) if answers else {}

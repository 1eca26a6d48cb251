"""The right column: who decides, how much of each expert, how tokens are drawn.

Builds the components and reads them into `Controls`, `Mixture` and `Asked`; the events are in
`wheel_events`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from t2local.adapt.dispatch import offered
from t2local.engine.chats import Chat
from t2local.engine.requests import (
    Controls,
    controls_from_json,
    sampling_from_json,
)
from t2local.svf.mixing import Mixture
from t2local.ui.chat.turns import Asked
from t2local.ui.messages import term
from t2local.ui.mixer import create_mixer, mixer_update, read_alpha
from t2local.ui.next_tokens import hint_html
from t2local.ui.plots_panel import PlotsPanel, create_plots_panel
from t2local.ui.settings import Form, create_gains, create_sampling

SOFT, HARD = "soft", "hard"


@dataclass(frozen=True)
class Wheel:
    strategy: gr.Dropdown
    soft: gr.Radio
    threshold: gr.Slider
    mixer: gr.HTML
    strength: gr.Slider
    gains: Form
    sampling: Form
    system_prompt: gr.Textbox
    next_tokens: gr.HTML
    plots: PlotsPanel

    @property
    def sliders(self) -> list[Any]:
        """What changes z and can be moved while the model speaks."""
        return [self.mixer, self.strength, *self.gains.components.values()]

    @property
    def inputs(self) -> set[Any]:
        """Everything an answer depends on."""
        settings = {self.strategy, self.soft, self.threshold, self.system_prompt}
        return settings | set(self.sliders) | set(self.sampling.components.values())

    def mixture(self, values: Mapping[Any, Any]) -> Mixture:
        return Mixture(
            alpha=read_alpha(values[self.mixer]),
            strength=float(values[self.strength]),
            gains=self.gains.read(values),
        )

    def controls(self, values: Mapping[Any, Any], override: str | None = None) -> Controls:
        return Controls(
            strategy=values[self.strategy],
            soft=values[self.soft] == SOFT,
            threshold=float(values[self.threshold]),
            mixture=self.mixture(values),
            override=override,
        )

    def asked(
        self, values: Mapping[Any, Any], *, compare: bool, override: str | None = None
    ) -> Asked:
        return Asked(
            self.controls(values, override),
            self.sampling.read(values),
            (values[self.system_prompt] or "").strip(),
            compare,
        )

    def show_chat(self, engine: Any, chat: Chat) -> dict[Any, Any]:
        """Updates that bring back the settings a chat was last asked with."""
        controls = controls_from_json(chat.controls)
        mixture = controls.mixture
        strategies = engine.strategies()
        strategy = controls.strategy if controls.strategy in strategies else strategies[0]
        return {
            self.strategy: gr.Dropdown(choices=strategies, value=strategy),
            self.soft: SOFT if controls.soft else HARD,
            self.threshold: controls.threshold,
            self.mixer: mixer_update(engine.experts(), mixture.alpha),
            self.strength: mixture.strength,
            self.system_prompt: chat.system_prompt,
            **self.gains.show(mixture.gains),
            **self.sampling.show(sampling_from_json(chat.sampling)),
        }


def create_wheel() -> Wheel:
    """Lay the column out; called inside the page's right column."""
    strategy, soft, threshold = _create_decision()
    mixer, strength, gains = _create_mixture()
    _heading("next token", term("next token", "what it would say next"))
    next_tokens = gr.HTML(
        hint_html("Move a slider, or write a message, to see what the model would say next."),
        elem_id="next-tokens", apply_default_css=False, js_on_load=None,
    )  # fmt: skip
    with gr.Accordion("plots", open=False, elem_id="plots") as accordion:
        plots = create_plots_panel(accordion)
    with gr.Accordion("sampling and system prompt", open=False):
        system_prompt = gr.Textbox(
            label="system prompt", lines=2, max_lines=6, elem_id="system-prompt",
            placeholder="You are a helpful assistant.",
        )  # fmt: skip
        sampling = create_sampling()
    return Wheel(
        strategy, soft, threshold, mixer, strength, gains, sampling, system_prompt, next_tokens,
        plots,
    )  # fmt: skip


def _create_decision() -> tuple[gr.Dropdown, gr.Radio, gr.Slider]:
    _heading("the wheel", term("strategy", "who decides"))
    strategy = gr.Dropdown(
        offered(), value=Controls.strategy, label="strategy", show_label=False, container=False,
        elem_id="strategy",
    )  # fmt: skip
    soft = gr.Radio(
        [SOFT, HARD], value=SOFT, label="soft or hard", show_label=False, container=False,
        elem_id="soft",
    )  # fmt: skip
    _note(term("soft", "soft: mixed by probability · hard: the winner alone"))
    threshold = gr.Slider(
        0.0, 1.0, Controls.threshold, step=0.05, label="threshold", elem_id="threshold",
        info="less sure than this: the base model answers",
    )  # fmt: skip
    return strategy, soft, threshold


def _create_mixture() -> tuple[gr.HTML, gr.Slider, Form]:
    _heading("experts", f"{term('α')} for each {term('expert')}")
    mixer = create_mixer()
    strength = gr.Slider(
        0.0, 2.0, 1.0, step=0.05, label="strength", elem_id="strength",
        info="scales the whole mixture: 0 is the base model",
    )  # fmt: skip
    with gr.Accordion("layers and bands", open=False):
        _note(f"{term('gains')}: each factor scales the change in one part of the model only.")
        gains = create_gains()
    return mixer, strength, gains


def _heading(anchor: str, html: str) -> None:
    gr.HTML(
        f"<h5>{html}</h5>", elem_classes="heading", apply_default_css=False, js_on_load=None,
        elem_id=f"heading-{anchor.replace(' ', '-')}",
    )  # fmt: skip


def _note(html: str) -> None:
    gr.HTML(f'<p class="quiet">{html}</p>', apply_default_css=False, js_on_load=None)

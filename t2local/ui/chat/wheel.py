"""The right column: who decides, how much of each expert, how tokens are drawn, the plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from t2local import plots
from t2local.adapt.dispatch import offered
from t2local.engine.answers import Asked, mixture_of
from t2local.engine.chat_content import Chat
from t2local.engine.engine import Engine
from t2local.engine.recipes import mixable
from t2local.engine.requests import (
    Controls,
    ExpertInfo,
    controls_from_json,
    sampling_from_json,
)
from t2local.plots import theme
from t2local.svf.mixing import Mixture
from t2local.ui.chat.view import hint_html
from t2local.ui.forms import Form, create_gains, create_sampling
from t2local.ui.style import PAGE, asset

# --- The α sliders: one component whose value is `{expert: α}`, however many experts there are.
#
# `input` fires while a slider moves, `release` when it is let go. Double click sets 0.

LOW, HIGH, STEP = -1.0, 2.0, 0.05
NONE = "This model has no experts yet: the base model answers. Train one in the tab Train."


def create_mixer() -> gr.HTML:
    template = asset("mixer.html").replace("LOW", f"{LOW:g}").replace("HIGH", f"{HIGH:g}")
    return gr.HTML(
        {},
        html_template=template.replace("STEP", f"{STEP:g}"),
        js_on_load=asset("mixer.js"),
        apply_default_css=False,
        elem_id="mixer",
        colours={"base": theme.BASE_COLOUR},
        none="The experts of the loaded model appear here.",
    )


def mixer_update(experts: Sequence[ExpertInfo], alpha: Mapping[str, float]) -> gr.HTML:
    """A slider for each skill, at `alpha` (0 where it names none)."""
    names = mixable(experts)
    colours = {name: theme.colour(name) for name in (*names, "base")}
    value = {name: round(alpha.get(name, 0.0), 3) for name in names}
    return gr.HTML(value=value, colours=colours, none=NONE)


def read_alpha(value: Mapping[str, float] | None) -> dict[str, float]:
    """The component's value as α's within the sliders' range; a 0 is left out."""
    alpha = {str(n): min(HIGH, max(LOW, float(a))) for n, a in (value or {}).items()}
    return {name: a for name, a in alpha.items() if a != 0.0}


@dataclass(frozen=True)
class Pinned:
    """A mixture's α as they are, where sliders that stand at `shown` cannot say so much."""

    shown: Mapping[str, float]
    alpha: Mapping[str, float]
    by_matrix: Mapping[str, Mapping[str, float]]


def pinned_of(experts: Sequence[ExpertInfo], mixture: Mixture) -> Pinned:
    """What `mixer_update` shows of a mixture, and what it stands for."""
    names = mixable(experts)

    def here(alpha: Mapping[str, float]) -> dict[str, float]:
        return {name: a for name, a in alpha.items() if name in names}

    shown = read_alpha({name: round(a, 3) for name, a in here(mixture.alpha).items()})
    by_matrix = {matrix: here(alpha) for matrix, alpha in mixture.by_matrix.items()}
    return Pinned(shown, here(mixture.alpha), by_matrix)


# --- The plots accordion: dispatch, mixture, heat map of |z − 1|, spectrum of a chosen matrix.


@dataclass(frozen=True)
class PlotsPanel:
    accordion: gr.Accordion
    matrix: gr.Dropdown
    dispatch: gr.Plot
    mixture: gr.Plot
    heatmap: gr.Plot
    spectrum: gr.Plot

    @property
    def outputs(self) -> list[Any]:
        return [self.matrix, self.dispatch, self.mixture, self.heatmap, self.spectrum]

    def draw(
        self, engine: Engine, dispatch: Mapping[str, Any], mixture: Mixture, matrix: str | None
    ) -> dict[Any, Any]:
        """All four figures for the last dispatch and the present sliders."""
        names = engine.matrix_names()
        matrix = matrix if matrix in names else next(iter(names), None)
        sigma, z = (), ()
        if matrix is not None:
            spectrum = engine.spectrum(matrix, mixture)
            sigma, z = spectrum.sigma, spectrum.z
        alpha = {name: a * mixture.strength for name, a in mixture.alpha.items()}
        return {
            self.matrix: gr.Dropdown(choices=names, value=matrix),
            self.dispatch: plots.plot_dispatch(dispatch.get("probabilities") or {}),
            self.mixture: plots.plot_mixture(alpha),
            self.heatmap: plots.plot_heatmap(engine.deltas(mixture)),
            self.spectrum: plots.plot_spectrum(sigma, z),
        }


def create_plots_panel(accordion: gr.Accordion) -> PlotsPanel:
    """Four plots, each under one line that says what it shows."""
    _part("dispatch_caption")
    dispatch = gr.Plot(show_label=False, container=False, elem_id="plot-dispatch")
    _part("mixture_caption")
    mixture = gr.Plot(show_label=False, container=False, elem_id="plot-mixture")
    _part("heatmap_caption")
    heatmap = gr.Plot(show_label=False, container=False, elem_id="plot-heatmap")
    _part("spectrum_caption")
    matrix = gr.Dropdown(
        [], label="matrix", show_label=False, container=False, elem_id="matrix", filterable=True
    )
    spectrum = gr.Plot(show_label=False, container=False, elem_id="plot-spectrum")
    return PlotsPanel(accordion, matrix, dispatch, mixture, heatmap, spectrum)


SOFT, HARD = "soft", "hard"


@dataclass(frozen=True)
class Wheel:
    defaults: gr.Button
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
    pinned: gr.State  # `Pinned`, of the mixture that was shown last; None at first

    @property
    def sliders(self) -> list[Any]:
        """What changes z and can be moved while the model speaks."""
        return [self.mixer, self.strength, *self.gains.components.values()]

    @property
    def inputs(self) -> set[Any]:
        """Everything an answer depends on."""
        settings = {self.strategy, self.soft, self.threshold, self.system_prompt, self.pinned}
        return settings | set(self.sliders) | set(self.sampling.components.values())

    def mixture(self, values: Mapping[Any, Any]) -> Mixture:
        """As the sliders stand; the one that was shown, while nobody has moved them."""
        alpha, pinned = read_alpha(values[self.mixer]), values[self.pinned]
        untouched = pinned is not None and pinned.shown == alpha
        return Mixture(
            alpha=pinned.alpha if untouched else alpha,
            strength=float(values[self.strength]),
            gains=self.gains.read(values),
            by_matrix=pinned.by_matrix if untouched else {},
        )

    def controls(self, values: Mapping[Any, Any], override: str | None = None) -> Controls:
        return Controls(
            strategy=str(values[self.strategy] or ""),
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

    def show_chat(self, engine: Engine, chat: Chat) -> dict[Any, Any]:
        """The settings a chat was last asked with, and the mixture its last answer ended with.

        For a new one the best strategy there is.
        """
        controls, last = controls_from_json(chat.controls), chat.last_answer
        mixture = mixture_of(last) if last and last.dispatch else controls.mixture
        strategies, experts = engine.strategies(), engine.experts()
        kept = bool(chat.controls) and controls.strategy in strategies
        return {
            self.strategy: gr.Dropdown(
                choices=strategies, value=controls.strategy if kept else strategies[0]
            ),
            self.soft: SOFT if controls.soft else HARD,
            self.threshold: controls.threshold,
            self.mixer: mixer_update(experts, mixture.alpha),
            self.pinned: pinned_of(experts, mixture),
            self.strength: min(max(mixture.strength, 0.0), 2.0),
            self.system_prompt: chat.system_prompt,
            **self.gains.show(mixture.gains),
            **self.sampling.show(sampling_from_json(chat.sampling)),
        }


def create_wheel() -> Wheel:
    """Lay the column out; called inside the page's right column."""
    defaults, strategy, soft, threshold = _create_decision()
    mixer, strength, gains = _create_mixture()
    _part("next_heading", "heading-next-token")
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
        defaults, strategy, soft, threshold, mixer, strength, gains, sampling, system_prompt,
        next_tokens, plots, gr.State(None),
    )  # fmt: skip


def _create_decision() -> tuple[gr.Button, gr.Dropdown, gr.Radio, gr.Slider]:
    with gr.Row(elem_id="wheel-top"):
        _part("decision_heading", "heading-the-wheel")
        defaults = gr.Button("Defaults", size="sm", elem_id="defaults", scale=0, min_width=0)
    strategy = gr.Dropdown(
        offered(), value=Controls.strategy, label="strategy", show_label=False, container=False,
        elem_id="strategy",
    )  # fmt: skip
    soft = gr.Radio(
        [SOFT, HARD], value=SOFT, label="soft or hard", show_label=False, container=False,
        elem_id="soft",
    )  # fmt: skip
    _part("soft_note")
    threshold = gr.Slider(
        0.0, 1.0, Controls.threshold, step=0.05, label="threshold", elem_id="threshold",
        info="of the way from chance to certain; less sure: the base model answers",
    )  # fmt: skip
    return defaults, strategy, soft, threshold


def _create_mixture() -> tuple[gr.HTML, gr.Slider, Form]:
    _part("mixture_heading", "heading-experts")
    mixer = create_mixer()
    strength = gr.Slider(
        0.0, 2.0, 1.0, step=0.05, label="strength", elem_id="strength",
        info="scales the whole mixture: 0 is the base model",
    )  # fmt: skip
    with gr.Accordion("layers and bands", open=False):
        _part("gains_note")
        gains = create_gains()
    return mixer, strength, gains


def _part(name: str, heading: str | None = None) -> None:
    """A line of `templates/wheel.html`. `heading`: its id in the page, where it is one."""
    gr.HTML(
        PAGE.render("wheel.html", name), elem_id=heading,
        elem_classes=["heading"] if heading else None, apply_default_css=False, js_on_load=None,
    )  # fmt: skip

"""The Adapt tab: a few examples on the left, the search for their mixture on the right.

Laid out here; what it does is in `events`.
"""

from dataclasses import dataclass

import gradio as gr

from t2local import plots
from t2local.adapt.cem import (
    ACCURACY,
    EXPERT,
    LAYERS,
    LEAST_SHOTS,
    LIGHT,
    LOG_LIKELIHOOD,
    MATRIX,
    MOST_SHOTS,
    CEMConfig,
)
from t2local.tasks.rewards import REWARDS
from t2local.ui.forms import create_consent
from t2local.ui.own_rows import Rows, create_rows
from t2local.ui.style import PAGE, caption_html, heading_html, quiet_html

TICK_S = 0.7
QUICK, THOROUGH = "quick", "thorough"
NO_SEARCH = quiet_html("Nothing was searched yet.")
NO_EXAMPLES = quiet_html(
    f"No examples yet: {LEAST_SHOTS} are enough to begin, {MOST_SHOTS} are plenty."
)
PREFERRED = "Use what I preferred, in chats and in the Arena"
LIGHT_MIXTURES = LIGHT["population"] * LIGHT["generations"]
MIXTURES = CEMConfig.population * CEMConfig.generations


@dataclass(frozen=True)
class AdaptTab:
    """`search`: the id of the search that is shown."""

    rows: Rows
    preferred: gr.Button
    reward: gr.Dropdown
    trial: gr.HTML
    consent: gr.Checkbox
    effort: gr.Radio
    sharing: gr.Radio
    objective: gr.Radio
    normalised: gr.Checkbox
    seed: gr.Number
    start: gr.Button
    stop: gr.Button
    status: gr.HTML
    cloud: gr.Plot
    best: gr.Plot
    keep: gr.Column
    name: gr.Textbox
    use: gr.Button
    recipe: gr.Button
    recipe_file: gr.Button
    download: gr.Textbox  # unseen: the path of the file to hand over
    search: gr.Dropdown
    timer: gr.Timer


def create_adapt_tab() -> AdaptTab:
    with gr.Row(elem_id="adapt"):
        with gr.Column(elem_id="adapt-new", scale=1, min_width=0):
            examples = _create_examples()
            choices = _create_choices()
        with gr.Column(elem_id="adapt-run", scale=1, min_width=0):
            live = _create_live()
    return AdaptTab(**examples, **choices, **live)


def _create_examples() -> dict:
    _html(PAGE.render("adapt.html", "introduction", least=LEAST_SHOTS, most=MOST_SHOTS))
    preferred = gr.Button(PREFERRED, size="sm", visible=False, elem_id="adapt-preferred")
    rows = create_rows("adapt", paste_open=True, nothing=NO_EXAMPLES)
    return {"rows": rows, "preferred": preferred}


def _create_choices() -> dict:
    _html(heading_html("2 · What counts as right?"))
    named = [(f"{name} · {reward.explanation}", name) for name, reward in REWARDS.items()]
    reward = gr.Dropdown(
        named, value=None, label="reward", show_label=False, container=False,
        elem_id="adapt-reward",
    )  # fmt: skip
    trial = _html("", "adapt-trial")
    consent = create_consent("adapt")
    effort = gr.Radio(
        [
            (f"quick: {LIGHT['shots']} examples, {LIGHT_MIXTURES} mixtures", QUICK),
            (f"thorough: all examples, {MIXTURES}", THOROUGH),
        ],
        value=QUICK, label="how long to search", elem_id="adapt-effort",
    )  # fmt: skip
    with gr.Accordion("more choices", open=False, elem_id="adapt-more"):
        sharing = gr.Radio(
            [("each expert", EXPERT), ("expert and third of the layers", LAYERS),
             ("expert and matrix", MATRIX)],
            value=EXPERT, label="one α for", elem_id="adapt-sharing",
        )  # fmt: skip
        objective = gr.Radio(
            [("right answers", ACCURACY), ("how likely the right answer is", LOG_LIKELIHOOD)],
            value=ACCURACY, label="look for more", elem_id="adapt-objective",
        )  # fmt: skip
        normalised = gr.Checkbox(False, label="let the α sum to one", elem_id="adapt-normalised")
        seed = gr.Number(0, label="seed", precision=0, minimum=0, elem_id="adapt-seed")
    with gr.Row(elem_id="adapt-acts"):
        start = gr.Button("Search", variant="primary", elem_id="adapt-start", interactive=False)
        stop = gr.Button("Stop", elem_id="adapt-stop", visible=False)
    return {
        "reward": reward, "trial": trial, "consent": consent, "effort": effort, "sharing": sharing,
        "objective": objective, "normalised": normalised, "seed": seed,
        "start": start, "stop": stop,
    }  # fmt: skip


def _create_live() -> dict:
    _html(heading_html("The search"))
    search = gr.Dropdown(
        [], label="searches", show_label=False, container=False, visible=False,
        elem_id="adapt-search",
    )  # fmt: skip
    status = _html(NO_SEARCH, "adapt-status")
    _html(PAGE.render("adapt.html", "cloud_caption"))
    cloud = gr.Plot(plots.plot_cloud(()), show_label=False, container=False, elem_id="plot-cloud")
    _html(caption_html("Right answers on your examples, generation by generation."))
    best = gr.Plot(plots.plot_best(()), show_label=False, container=False, elem_id="plot-best")
    with gr.Column(visible=False, elem_id="adapt-keep") as keep:
        name = gr.Textbox(
            label="keep it as", info="letters, digits, dots, dashes", elem_id="adapt-name"
        )
        use = gr.Button("Use in chat", variant="primary", elem_id="adapt-use")
        with gr.Row():
            recipe = gr.Button("Save as recipe", elem_id="adapt-recipe")
            recipe_file = gr.Button("Recipe as a file", elem_id="adapt-recipe-file")
        download = gr.Textbox(visible=False)
    return {
        "status": status, "cloud": cloud, "best": best, "keep": keep, "name": name, "use": use,
        "recipe": recipe, "recipe_file": recipe_file, "download": download,
        "search": search, "timer": gr.Timer(TICK_S, active=False),
    }  # fmt: skip


def _html(html: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(html, elem_id=elem_id, apply_default_css=False, js_on_load=None)

"""The Models tab: the catalogue on the left; what is loaded, this machine and one model's memory
on the right.

Laid out here; what it does is in `events`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr

from t2local import plots
from t2local.models.fit.estimate import DEFAULT_CONTEXT
from t2local.models.storage import AUTO, BASES, QUANTIZATIONS, BasisStorage, Quantization
from t2local.ui.style import PAGE, asset, caption_html, heading_html, quiet_html

LEAST_CONTEXT, CONTEXT_STEP = 256, 256
AUTOMATIC = ("automatic", AUTO)
TARGETS = [
    AUTOMATIC, ("all matrices", "all"), ("MLP only", "mlp"), ("attention", "attention"),
]  # fmt: skip


@dataclass(frozen=True)
class ModelsTab:
    """`source`: the chosen model, as `--model` takes it. `serial`: of the model shown as loaded."""

    source: gr.State
    serial: gr.State
    typed: gr.Textbox
    look: gr.Button
    offline: gr.HTML
    catalogue: gr.HTML
    loaded: gr.HTML
    machine: gr.HTML
    reach: gr.HTML
    panel: gr.Column
    words: gr.HTML
    quantize: gr.Dropdown
    basis: gr.Dropdown
    targets: gr.Dropdown
    context: gr.Slider
    figure: gr.Plot
    table: gr.HTML
    download: gr.Button
    load: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    timer: gr.Timer


def create_models_tab() -> ModelsTab:
    with gr.Row(elem_id="models"):
        with gr.Column(elem_id="models-catalogue", scale=1, min_width=0):
            left = _create_catalogue()
        with gr.Column(elem_id="models-side", scale=0, min_width=0):
            right = {**_create_loaded(), **_create_sizing()}
    timer = gr.Timer(0.5, active=False)
    return ModelsTab(gr.State(""), gr.State(-1), **left, **right, timer=timer)


def _create_catalogue() -> dict:
    _html(PAGE.render("models.html", "introduction"))
    with gr.Row(elem_id="models-typed"):
        typed = gr.Textbox(
            label="another model", show_label=False, container=False, max_lines=1, scale=1,
            placeholder="or any other: a Hub id, a folder, a .gguf file", elem_id="models-source",
            min_width=0,
        )  # fmt: skip
        look = gr.Button("Look at it", elem_id="models-look", scale=0, min_width=110)
    offline = _html("", "models-offline")
    catalogue = _acting(quiet_html("Measuring this machine …"), "models-cards")
    return {"typed": typed, "look": look, "offline": offline, "catalogue": catalogue}


def _create_loaded() -> dict:
    _html(heading_html("Loaded now"))
    loaded = _acting("", "models-loaded")
    machine = _html("", "models-machine")
    reach = _html("", "models-reach")
    return {"loaded": loaded, "machine": machine, "reach": reach}


def _create_sizing() -> dict:
    with gr.Column(visible=False, elem_id="models-sizing") as panel:
        words = _html("", "models-words")
        with gr.Row(elem_id="models-acts"):
            download = gr.Button(
                "Download", variant="primary", visible=False, elem_id="models-download"
            )
            load = gr.Button("Load", variant="primary", elem_id="models-load")
            cancel = gr.Button("Cancel", visible=False, elem_id="models-cancel")
        progress = _html("", "models-progress")
        _html(caption_html("Where its memory goes; the dotted line is what there is."))
        figure = gr.Plot(
            plots.plot_memory({}, 0), show_label=False, container=False, elem_id="plot-memory"
        )
        context = gr.Slider(
            LEAST_CONTEXT, DEFAULT_CONTEXT, DEFAULT_CONTEXT, step=CONTEXT_STEP,
            label="tokens of a chat to plan for", elem_id="models-context",
        )  # fmt: skip
        with gr.Row(elem_id="models-ways"):
            quantize = _choice(_listed(QUANTIZATIONS), "weights", "models-quantize")
            basis = _choice(_listed(BASES), "bases", "models-basis")
            targets = _choice(TARGETS, "adapt", "models-targets")
        _html(PAGE.render("models.html", "ways_caption"))
        table = _html("", "models-table")
    return {
        "panel": panel, "words": words, "quantize": quantize, "basis": basis, "targets": targets,
        "context": context, "figure": figure, "table": table, "download": download, "load": load,
        "cancel": cancel, "progress": progress,
    }  # fmt: skip


def _listed(table: Mapping[str, Quantization | BasisStorage]) -> list[tuple[str, str]]:
    return [AUTOMATIC, *((held.title, name) for name, held in table.items())]


def _choice(choices: list[tuple[str, str]], label: str, elem_id: str) -> gr.Dropdown:
    return gr.Dropdown(choices, value=AUTO, label=label, elem_id=elem_id, scale=1, min_width=0)


def _acting(html: str, elem_id: str) -> gr.HTML:
    return gr.HTML(html, elem_id=elem_id, apply_default_css=False, js_on_load=asset("models.js"))


def _html(html: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(html, elem_id=elem_id, apply_default_css=False, js_on_load=None)

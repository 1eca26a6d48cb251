"""The Experts tab: cards, experts side by side, a way in for a shared file, a way back from delete.

Laid out here; what it does is in `events`.
"""

from dataclasses import dataclass

import gradio as gr

from t2local.engine.engine import Engine
from t2local.ui.experts.view import experts_html
from t2local.ui.style import asset, caption_html


@dataclass(frozen=True)
class ExpertsTab:
    """`picked`: names being compared. `download`: unseen, the path of the file to hand over."""

    picked: gr.State
    cards: gr.HTML
    panel: gr.Column
    table: gr.HTML
    likeness: gr.Plot
    curves: gr.Plot
    name: gr.Textbox
    add: gr.UploadButton
    trash: gr.HTML
    download: gr.Textbox


def create_experts_tab(engine: Engine) -> ExpertsTab:
    with gr.Column(elem_id="experts-tab"):
        with gr.Column(visible=False, elem_id="compare-panel") as panel:
            table = _html("", "compare-table")
            _caption("How alike they are in each layer: blue alike, red opposite, pale unrelated.")
            likeness = gr.Plot(show_label=False, container=False, elem_id="plot-likeness")
            _caption("Mean reward of each training step, one line an expert.")
            curves = gr.Plot(show_label=False, container=False, elem_id="plot-curves")
        cards = _html(experts_html(engine.experts()), "experts")
        with gr.Row(elem_id="add-expert"):
            add = gr.UploadButton(
                "Add a shared expert", file_types=[".safetensors"], size="sm", min_width=0,
                elem_id="add-file", scale=0,
            )  # fmt: skip
            name = gr.Textbox(
                placeholder="its own name, or another one", show_label=False, container=False,
                label="name of the added expert", elem_id="add-name", min_width=0, max_lines=1,
                scale=0,
            )  # fmt: skip
        trash = _html("", "experts-trash")
        download = gr.Textbox(visible=False)
    return ExpertsTab(
        gr.State([]), cards, panel, table, likeness, curves, name, add, trash, download
    )


def _html(value: str, elem_id: str) -> gr.HTML:
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, js_on_load=asset("experts.js"))


def _caption(sentence: str) -> None:
    gr.HTML(caption_html(sentence), apply_default_css=False, js_on_load=None)

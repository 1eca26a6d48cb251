"""The Label tab: a table on the left, the same table labelled on the right.

Laid out here; what it does is in `events`.
"""

from dataclasses import dataclass

import gradio as gr

from t2local.engine.labelling import DOUBT
from t2local.ui.label.view import FILE
from t2local.ui.style import PAGE, heading_html, quiet_html

TICK_S = 0.7
DETECTED = "found by itself"
NO_CHOOSER = "No expert here chooses among labels yet: train one on rows with labels in Train."


@dataclass(frozen=True)
class LabelTab:
    """`labelling`: the id of the one that is shown. `path`: unseen, of the file to save."""

    expert: gr.Dropdown
    file: gr.File
    column: gr.Dropdown
    no_header: gr.Checkbox
    preview: gr.HTML
    doubt: gr.Slider
    start: gr.Button
    stop: gr.Button
    labelling: gr.Dropdown
    status: gr.HTML
    table: gr.HTML
    save: gr.Button
    path: gr.Textbox
    timer: gr.Timer


def create_label_tab() -> LabelTab:
    with gr.Row(elem_id="label"):
        with gr.Column(elem_id="label-new", scale=1, min_width=0):
            asked = _create_table()
        with gr.Column(elem_id="label-run", scale=1, min_width=0):
            live = _create_live()
    return LabelTab(**asked, **live)


def _create_table() -> dict:
    _html(PAGE.render(FILE, "introduction"))
    expert = gr.Dropdown([], label="expert", info=NO_CHOOSER, elem_id="label-expert")
    file = gr.File(label="Your table", height=120, elem_id="label-file", elem_classes="rows-file")
    column = gr.Dropdown(
        [DETECTED], value=DETECTED, label="column to be labelled", visible=False,
        elem_id="label-column",
    )  # fmt: skip
    no_header = gr.Checkbox(
        False, label="the first row is a row as well, no header", visible=False,
        elem_id="label-no-header",
    )  # fmt: skip
    preview = _html("", "label-preview")
    doubt = gr.Slider(
        0, 1, DOUBT, step=0.05, label="doubtful below", elem_id="label-doubt",
        info="of the way from chance to certain",
    )  # fmt: skip
    with gr.Row(elem_id="label-acts"):
        start = gr.Button("Label", variant="primary", interactive=False, elem_id="label-start")
        stop = gr.Button("Stop", visible=False, elem_id="label-stop")
    return {
        "expert": expert, "file": file, "column": column, "no_header": no_header,
        "preview": preview, "doubt": doubt,
        "start": start, "stop": stop,
    }  # fmt: skip


def _create_live() -> dict:
    _html(heading_html("The labelled table"))
    labelling = gr.Dropdown(
        [], label="labellings", show_label=False, container=False, visible=False,
        elem_id="label-labelling",
    )  # fmt: skip
    status = _html(quiet_html("Nothing was labelled yet."), "label-status")
    save = gr.Button("Save the table", visible=False, elem_id="label-save")
    table = _html("", "label-table")
    return {
        "labelling": labelling, "status": status, "table": table, "save": save,
        "path": gr.Textbox(visible=False), "timer": gr.Timer(TICK_S, active=False),
    }  # fmt: skip


def _html(html: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(html, elem_id=elem_id, apply_default_css=False, js_on_load=None)

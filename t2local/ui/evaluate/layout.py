"""The Evaluate tab: what to measure on the left, the growing table and the samples on the right.

Laid out here; what it does is in `events`.
"""

from dataclasses import dataclass

import gradio as gr

from t2local import plots
from t2local.adapt.dispatch import BASE
from t2local.evaluation.benchmark_tasks import BENCHMARKS, available_offline, files_of_the_folder
from t2local.ui.evaluate.view import ALL, RIGHT, WRONG
from t2local.ui.forms import create_consent
from t2local.ui.own_rows import Rows, create_rows
from t2local.ui.style import PAGE, heading_html, quiet_html

NOTHING = quiet_html("Nothing was measured yet.")
NO_ROWS = quiet_html("A spreadsheet, CSV, TSV, JSON, JSONL or Parquet, with questions and answers.")
LIMIT = 50  # a few minutes on a laptop

TICK_S = 0.7


@dataclass(frozen=True)
class EvaluateTab:
    """`judged`: what answers to the rows earn; `evaluation`: the id of the one that is shown."""

    tasks: gr.CheckboxGroup
    consent: gr.Checkbox
    rows: Rows
    judged: gr.HTML
    strategies: gr.CheckboxGroup
    limit: gr.Number
    seed: gr.Number
    written: gr.Checkbox
    most_tokens: gr.Number
    start: gr.Button
    stop: gr.Button
    status: gr.HTML
    table: gr.HTML
    figure: gr.Plot
    confusion: gr.HTML
    files: gr.File
    browse: gr.Column
    cell: gr.Dropdown
    verdict: gr.Radio
    samples: gr.HTML
    evaluation: gr.Dropdown
    timer: gr.Timer


def create_evaluate_tab() -> EvaluateTab:
    with gr.Row(elem_id="evaluate"):
        with gr.Column(elem_id="evaluate-new", scale=1, min_width=0):
            chosen = {**_create_tasks(), **_create_strategies()}
        with gr.Column(elem_id="evaluate-run", scale=1, min_width=0):
            live = {**_create_results(), **_create_samples()}
    return EvaluateTab(**chosen, **live)


def offered_tasks() -> list[tuple[str, str]]:
    """Label and name of each task; first those whose questions are on this machine."""
    here = available_offline()
    files = [(f"{path.name} · in your folder", str(path)) for path in files_of_the_folder()]
    return [
        *((name, name) for name in BENCHMARKS if name in here),
        *files,
        *((f"{name} · from the Hub", name) for name in BENCHMARKS if name not in here),
    ]


def _create_tasks() -> dict:
    _html(PAGE.render("evaluate.html", "tasks_introduction"))
    tasks = gr.CheckboxGroup(
        offered_tasks(), value=[], label="tasks", show_label=False, container=False,
        elem_id="evaluate-tasks",
    )  # fmt: skip
    rows = create_rows("evaluate", "or your own rows", nothing=NO_ROWS)
    judged = _html("", "evaluate-judged")
    return {"tasks": tasks, "rows": rows, "judged": judged, "consent": create_consent("evaluate")}


def _create_strategies() -> dict:
    _html(PAGE.render("evaluate.html", "strategies_introduction"))
    strategies = gr.CheckboxGroup(
        [BASE], value=[BASE], label="strategies", show_label=False, container=False,
        elem_id="evaluate-strategies",
    )  # fmt: skip
    limit = gr.Number(
        LIMIT, label="questions of each task", precision=0, minimum=1, elem_id="evaluate-limit",
        info="more questions, narrower intervals; 300 tell 5 % apart",
    )  # fmt: skip
    with gr.Accordion("more choices", open=False, elem_id="evaluate-more"):
        seed = gr.Number(
            0, label="seed", info="which questions are drawn", precision=0, minimum=0,
            elem_id="evaluate-seed",
        )  # fmt: skip
        written = gr.Checkbox(
            False, label="write out choices, as the paper's code does (slow)",
            elem_id="evaluate-written",
        )  # fmt: skip
        most_tokens = gr.Number(
            None, label="most tokens of a written answer", precision=0, minimum=1,
            info="empty: what the paper's code allows", elem_id="evaluate-tokens",
        )  # fmt: skip
    with gr.Row(elem_id="evaluate-acts"):
        start = gr.Button("Measure", variant="primary", elem_id="evaluate-start")
        stop = gr.Button("Stop", elem_id="evaluate-stop", visible=False)
    return {
        "strategies": strategies, "limit": limit, "seed": seed, "written": written,
        "most_tokens": most_tokens, "start": start, "stop": stop,
    }  # fmt: skip


def _create_results() -> dict:
    _html(heading_html("Results"))
    evaluation = gr.Dropdown(
        [], label="evaluations", show_label=False, container=False, visible=False,
        elem_id="evaluate-evaluation",
    )  # fmt: skip
    status = _html(NOTHING, "evaluate-status")
    _html(PAGE.render("evaluate.html", "figure_caption"))
    figure = gr.Plot(
        plots.plot_accuracy(()), show_label=False, container=False, elem_id="plot-accuracy"
    )
    table = _html("", "evaluate-table")
    confusion = _html("", "evaluate-confusion")
    files = gr.File(
        label="the results as files", visible=False, interactive=False, file_count="multiple",
        elem_id="evaluate-files",
    )  # fmt: skip
    return {
        "status": status, "table": table, "figure": figure, "confusion": confusion, "files": files,
        "evaluation": evaluation, "timer": gr.Timer(TICK_S, active=False),
    }  # fmt: skip


def _create_samples() -> dict:
    with gr.Column(visible=False, elem_id="evaluate-browse") as browse:
        _html(heading_html("Look at the answers"))
        cell = gr.Dropdown(
            [], label="task and strategy", show_label=False, container=False,
            elem_id="evaluate-cell",
        )  # fmt: skip
        verdict = gr.Radio(
            [ALL, RIGHT, WRONG], value=ALL, label="which", show_label=False, container=False,
            elem_id="evaluate-verdict",
        )  # fmt: skip
        samples = _html("", "evaluate-samples")
    return {"browse": browse, "cell": cell, "verdict": verdict, "samples": samples}


def _html(html: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(html, elem_id=elem_id, apply_default_css=False, js_on_load=None)

"""The Train tab: a new run on the left in three steps, a run as it goes on the right.

Laid out here; what it does is in `events`.
"""

from dataclasses import dataclass

import gradio as gr

from t2local.engine.training import RunReport
from t2local.progress import FINISHED, PAUSED, RUNNING
from t2local.tasks.rewards import REWARDS
from t2local.training.config import SVF, TrainConfig
from t2local.training.forecast import LENGTHS
from t2local.training.runner import DROPPED
from t2local.ui.forms import TrainForm, create_consent, create_train_form
from t2local.ui.own_rows import Rows, create_rows
from t2local.ui.style import PAGE, caption_html, heading_html
from t2local.ui.train.taught import Taught, create_taught
from t2local.ui.train.view import NO_ROWS, NO_RUN, NOTHING, estimate_html

BASE_MODEL = ("the base model", "")
OWN_STEPS = "the steps below"
SAMPLES = {
    "sort_support_mails": "Sort support mails",
    "reply_in_json": "Reply in JSON",
    "one_sentence_answers": "Answer in one sentence",
}


@dataclass(frozen=True)
class DataStep:
    """`parts`: how the rows are divided."""

    samples: dict[str, gr.Button]
    taught: Taught
    rows: Rows
    parts: gr.HTML
    share: gr.Slider


@dataclass(frozen=True)
class RunStep:
    """`trial`: what answers known to be right or wrong earn; `accept`: go on where that is not as
    it should be. `tried`: the last dry run of these rows, None before.
    """

    group: gr.Column
    reward: gr.Dropdown
    reason: gr.HTML
    trial: gr.HTML
    accept: gr.Checkbox
    try_base: gr.Button
    tried: gr.State
    tried_shown: gr.HTML
    begin: gr.Dropdown
    begin_said: gr.HTML
    name: gr.Textbox
    name_problem: gr.HTML
    length: gr.Radio
    forgetting: gr.Checkbox
    estimate: gr.HTML
    form: TrainForm
    measure: gr.Button
    start: gr.Button
    second: gr.Dropdown
    weight: gr.Number
    consent: gr.Checkbox


@dataclass(frozen=True)
class Live:
    """`drawn`: what the plots show, so that they are drawn only when something is new."""

    run: gr.Dropdown
    status: gr.HTML
    pause: gr.Button
    resume: gr.Button
    stop: gr.Button
    try_it: gr.Button
    adopt: gr.Button
    drop: gr.Button
    plots: gr.Column
    answers: gr.HTML
    reward: gr.Plot
    vitals: gr.Plot
    layers: gr.Plot
    drawn: gr.State
    timer: gr.Timer
    compared: gr.Dropdown
    overlay: gr.Plot
    table: gr.HTML


@dataclass(frozen=True)
class TrainTab:
    data: DataStep
    step: RunStep
    live: Live


def create_train_tab() -> TrainTab:
    with gr.Row(elem_id="train"):
        with gr.Column(elem_id="train-new", scale=1, min_width=0):
            data = _create_data()
            step = _create_step(data.share)
        with gr.Column(elem_id="train-run", scale=1, min_width=0):
            live = _create_live()
    return TrainTab(data, step, live)


def _create_data() -> DataStep:
    _html(PAGE.render("train.html", "introduction"))
    with gr.Row(elem_id="train-samples"):
        samples = {
            name: gr.Button(words, size="sm", min_width=0, elem_id=f"sample-{name}")
            for name, words in SAMPLES.items()
        }
    taught = create_taught()
    rows = create_rows("train", nothing=NO_ROWS)
    parts = _html("", "train-parts")
    share = gr.Slider(
        0.1, 0.6, TrainConfig.held_out_share, step=0.05, label="share of the rows held out",
        visible=False, elem_id="train-share",
    )  # fmt: skip
    return DataStep(samples, taught, rows, parts, share)


def _create_step(share: gr.Slider) -> RunStep:
    with gr.Column(visible=False, elem_id="train-step") as group:
        _html(heading_html("2 · What counts as right?"))
        choices = [(f"{name} · {r.explanation}", name) for name, r in REWARDS.items()]
        reward = gr.Dropdown(
            choices, value=None, label="reward", show_label=False, container=False,
            elem_id="train-reward",
        )  # fmt: skip
        reason = _html("", "reward-reason")
        trial = _html("", "reward-trial")
        accept = gr.Checkbox(
            False, label="Train all the same", visible=False, elem_id="train-accept",
            info="answers that are right by your rows would be made rarer, or wrong ones likelier",
        )  # fmt: skip
        consent = create_consent("train")
        try_base = gr.Button("See what the base model earns", size="sm", elem_id="try-base")
        tried_shown = _html("", "tried")
        _html(heading_html("3 · Name and time"))
        begin = gr.Dropdown(
            [BASE_MODEL], value="", label="it starts from", visible=False, elem_id="train-begin"
        )
        begin_said = _html("", "begin-said")
        name = gr.Textbox(
            label="the expert's name", info="letters, digits, dots, dashes", elem_id="train-name"
        )
        name_problem = _html("", "name-problem")
        length = gr.Radio(
            [*LENGTHS, OWN_STEPS], value="ten minutes", label="how long", elem_id="train-length"
        )
        forgetting = gr.Checkbox(
            True, label="see what it forgets", elem_id="train-forgetting",
            info="other experts' tasks before and after, within this time; the tab Experts can do "
            "it later",
        )  # fmt: skip
        estimate = _html(estimate_html(None, TrainConfig()), "estimate")
        with gr.Accordion("the numbers behind it", open=False, elem_id="train-form"):
            second, weight = _create_second()
            form = create_train_form(share)
        measure = gr.Button("See how long it takes", variant="primary", elem_id="train-measure")
        start = gr.Button("Start training", variant="primary", visible=False, elem_id="train-start")
    return RunStep(
        group, reward, reason, trial, accept, try_base, gr.State(None), tried_shown, begin,
        begin_said, name, name_problem, length, forgetting, estimate, form, measure,
        start, second, weight, consent,
    )  # fmt: skip


def _create_second() -> tuple[gr.Dropdown, gr.Number]:
    """A second reward beside the first, such as short answers that are also right."""
    with gr.Row():
        second = gr.Dropdown(
            [("no second reward", ""), *((name, name) for name in REWARDS)], value="",
            label="reward this too", elem_id="train-second", min_width=150,
        )  # fmt: skip
        weight = gr.Number(
            0.2, label="its weight", info="the first one's is 1", elem_id="train-weight",
            min_width=150,
        )  # fmt: skip
    return second, weight


def _create_live() -> Live:
    _html(heading_html("Runs"))
    run = gr.Dropdown(
        [], label="run", show_label=False, container=False, visible=False, elem_id="train-runs"
    )
    status = _html(NO_RUN, "train-status")
    with gr.Row(elem_id="train-acts"):
        pause = _act("Pause", "train-pause")
        resume = _act("Resume", "train-resume")
        stop = _act("Stop and keep the best", "train-stop")
        try_it = gr.Button(
            "Try it in the chat", variant="primary", visible=False, elem_id="train-try", min_width=0
        )
        adopt, drop = _act("Adopt it", "train-adopt"), _act("Drop it", "train-drop")
    answers = _html("", "train-answers")
    with gr.Column(visible=False, elem_id="train-plots") as plots:
        _html(PAGE.render("train.html", "reward_caption"))
        reward = gr.Plot(show_label=False, container=False, elem_id="plot-reward")
        _html(PAGE.render("train.html", "vitals_caption"))
        vitals = gr.Plot(show_label=False, container=False, elem_id="plot-vitals")
        _html(caption_html("How far each layer has moved from the base model."))
        layers = gr.Plot(show_label=False, container=False, elem_id="plot-layers")
    with gr.Accordion("lay runs over each other", open=False, elem_id="train-compare"):
        compared = gr.Dropdown(
            [], label="runs", show_label=False, container=False, multiselect=True,
            elem_id="compared-runs",
        )  # fmt: skip
        _html(caption_html("Lines: reward. Dots: right answers on the rows kept for checking."))
        overlay = gr.Plot(show_label=False, container=False, elem_id="plot-runs")
        table = _html(NOTHING, "compared-table")
    return Live(
        run, status, pause, resume, stop, try_it, adopt, drop, plots, answers, reward, vitals,
        layers, gr.State(()), gr.Timer(1.0, active=False), compared, overlay, table,
    )  # fmt: skip


def _act(label: str, elem_id: str) -> gr.Button:
    return gr.Button(label, size="sm", visible=False, elem_id=elem_id, min_width=0)


def _html(html: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(html, elem_id=elem_id, apply_default_css=False, js_on_load=None)


def try_button(report: RunReport) -> gr.Button:
    """A run in progress offers what it is so far; a LoRA adapter is no expert."""
    stage, begun = report.status.stage, bool(report.curves.steps)
    if report.plan.config.method != SVF:
        words = "A LoRA adapter has no z: it cannot be mixed in the chat"
        return gr.Button(words, visible=begun, interactive=False)
    if report.offered:
        return gr.Button("Try it before you decide", visible=True, interactive=True)
    if report.result.get("offer") == DROPPED:
        return gr.Button(visible=False)
    if stage == FINISHED:
        return gr.Button("Try it in the chat", visible=True, interactive=True)
    words = f"Try step {report.status.step} in the chat"
    return gr.Button(words, visible=begun and stage in (RUNNING, PAUSED), interactive=True)

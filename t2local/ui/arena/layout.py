"""The Arena tab: a prompt and its two answers on the left, how contenders stand on the right.

Laid out here; what it does is in `events`.
"""

from dataclasses import dataclass

import gradio as gr

from t2local.adapt.dispatch import BASE
from t2local.engine.verdicts import BAD, TIE, A, B
from t2local.ui.arena.view import pair_html, standings_html
from t2local.ui.style import PAGE

TICK_S = 0.7
MOST_TOKENS = 160
SAYS = {A: "A is better", TIE: "Equally good", BAD: "Both are bad", B: "B is better"}


@dataclass(frozen=True)
class ArenaTab:
    """`pair`: the id of the pair that is shown. `votes`: what is said -> its button.

    `path`: unseen, of the file to save.
    """

    pair: gr.State
    contenders: gr.CheckboxGroup
    prompt: gr.Textbox
    ask: gr.Button
    earlier: gr.Button
    stop: gr.Button
    most_tokens: gr.Number
    temperature: gr.Number
    shown: gr.HTML
    acts: gr.Row
    votes: dict[str, gr.Button]
    standings: gr.HTML
    saving: gr.Row
    csv: gr.Button
    jsonl: gr.Button
    path: gr.Textbox
    timer: gr.Timer


def create_arena_tab() -> ArenaTab:
    with gr.Row(elem_id="arena"):
        with gr.Column(elem_id="arena-stage", scale=1, min_width=0):
            stage = {**_create_question(), **_create_pair()}
        with gr.Column(elem_id="arena-standings", scale=1, min_width=0):
            results = _create_standings()
    return ArenaTab(gr.State(""), **stage, **results, timer=gr.Timer(TICK_S, active=False))


def _create_question() -> dict:
    _html(PAGE.render("arena.html", "introduction"))
    contenders = gr.CheckboxGroup(
        [BASE], value=[BASE], label="contenders", show_label=False, container=False,
        elem_id="arena-contenders",
    )  # fmt: skip
    prompt = gr.Textbox(
        label="prompt", show_label=False, container=False, lines=2, max_lines=8,
        placeholder="What are both to answer?", elem_id="arena-prompt",
    )  # fmt: skip
    with gr.Row(elem_id="arena-acts"):
        ask = gr.Button("Ask both", variant="primary", elem_id="arena-ask")
        earlier = gr.Button("A question from my chats", elem_id="arena-earlier")
        stop = gr.Button("Stop", visible=False, elem_id="arena-stop")
    with gr.Accordion("more choices", open=False, elem_id="arena-more"):
        most_tokens = gr.Number(
            MOST_TOKENS, label="most tokens of an answer", precision=0, minimum=1, maximum=4096,
            elem_id="arena-tokens",
        )  # fmt: skip
        temperature = gr.Number(
            0.7, label="temperature", minimum=0, maximum=2, elem_id="arena-temperature"
        )
    return {
        "contenders": contenders, "prompt": prompt, "ask": ask, "earlier": earlier, "stop": stop,
        "most_tokens": most_tokens, "temperature": temperature,
    }  # fmt: skip


def _create_pair() -> dict:
    shown = _html(pair_html(None), "arena-pair")
    with gr.Row(visible=False, elem_id="arena-votes") as acts:
        votes = {
            said: gr.Button(words, elem_id=f"arena-vote-{said.replace(' ', '-')}", min_width=0)
            for said, words in SAYS.items()
        }
    return {"shown": shown, "acts": acts, "votes": votes}


def _create_standings() -> dict:
    standings = _html(standings_html(None), "arena-table")
    with gr.Row(visible=False, elem_id="arena-saving") as saving:
        csv = gr.Button("Save the votes as CSV", size="sm", elem_id="arena-csv")
        jsonl = gr.Button("as JSONL", size="sm", elem_id="arena-jsonl")
    path = gr.Textbox(visible=False)
    return {"standings": standings, "saving": saving, "csv": csv, "jsonl": jsonl, "path": path}


def _html(html: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(html, elem_id=elem_id, apply_default_css=False, js_on_load=None)

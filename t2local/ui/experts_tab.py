"""The Experts tab: a card for each expert, with what it is worth on questions it never saw."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from t2local.engine.requests import ExpertInfo
from t2local.plots import theme
from t2local.ui.glossary import term
from t2local.ui.header import size

KINDS = {"skill": "answers", "classifier": "decides in pass 1"}


def create_experts_tab(engine: Any) -> gr.HTML:
    """The tab's one component; its value is `experts_html(engine.experts())`."""
    return gr.HTML(
        experts_html(engine.experts()), elem_id="experts", apply_default_css=False, js_on_load=None
    )


def experts_html(experts: Sequence[ExpertInfo]) -> str:
    intro = (
        f"<p>Each {term('expert')} was trained by reinforcement learning with {term('SVF')}: it "
        f"only holds {term('z')}, one factor for each direction of a weight matrix. Experts that "
        "did not help say so here.</p>"
    )
    if not experts:
        return (
            f'<div class="experts">{intro}<p class="quiet">There are no experts for this model '
            "yet. Train one with <code>python -m t2local train</code>.</p></div>"
        )
    cards = "".join(_card(expert) for expert in experts)
    return f'<div class="experts">{intro}<div class="expert-cards">{cards}</div></div>'


def _card(expert: ExpertInfo) -> str:
    warning = f'<p class="note">{escape(expert.warning)}</p>' if expert.warning else ""
    origin = "shipped with t2local" if expert.shipped else "trained here"
    facts = f"{origin} · {size(expert.size_bytes)}" if expert.size_bytes else origin
    kind = escape(KINDS.get(expert.kind, expert.kind))
    return (
        f'<article class="expert" style="--c:{theme.colour(expert.name)}">'
        f"<h4>{escape(expert.name)}<small>{kind}</small></h4>"
        f"<p>{escape(expert.description)}</p>{_held_out(expert.held_out)}{warning}"
        f"<footer>{facts}</footer></article>"
    )


def _held_out(held_out: Mapping[str, Any] | None) -> str:
    if not held_out:
        return '<p class="quiet">Not measured on held-out questions.</p>'
    base, trained = float(held_out["base"]), float(held_out["trained"])
    low, high = (100 * float(x) for x in held_out["ci95_difference"])
    verdict = "helps" if low > 0 else "harms" if high < 0 else "no proven difference"
    span = f"{low:+.0f} to {high:+.0f}".replace("-", "−")
    return (
        f'<div class="before-after"><span class="scale"><i style="--w:{100 * base:.1f}%"></i>'
        f'<i class="after" style="--w:{100 * trained:.1f}%"></i></span>'
        f"<p><b>{100 * base:.0f} % → {100 * trained:.0f} %</b> right on {held_out['n']} "
        f"{term('held out', 'held-out')} questions<br>difference {span} points "
        f"(95 %): <em>{verdict}</em></p></div>"
    )

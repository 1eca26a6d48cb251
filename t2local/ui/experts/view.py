"""Experts as HTML: a card each, what was deleted, and two or more side by side.

Pure functions; `assets/experts.js` turns clicks on `data-act` into events.
"""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from t2local.engine.requests import ExpertInfo
from t2local.experts import Deleted
from t2local.plots import theme
from t2local.ui.messages import term
from t2local.ui.style import size

KINDS = {"skill": "answers", "classifier": "decides in pass 1"}


def experts_html(experts: Sequence[ExpertInfo], picked: Collection[str] = ()) -> str:
    """`picked`: the names that are being compared."""
    intro = (
        f"<p>Each {term('expert')} was trained by reinforcement learning with {term('SVF')}: it "
        f"only holds {term('z')}, one factor for each direction of a weight matrix. Experts that "
        "did not help say so here.</p>"
    )
    experts = [expert for expert in experts if not expert.draft]
    if not experts:
        return (
            f'<div class="experts">{intro}<p class="quiet">There are no experts for this model '
            "yet. Train one in the Train tab, or add one that somebody gave you.</p></div>"
        )
    cards = "".join(_card(expert, expert.name in picked) for expert in experts)
    return f'<div class="experts">{intro}<div class="expert-cards">{cards}</div></div>'


def trash_html(deleted: Sequence[Deleted], just_now: str | None = None) -> str:
    """A bar to undo what was deleted `just_now`, and the list of all that can come back."""
    names = list(dict.fromkeys(entry.name for entry in deleted))
    bar = (
        f'<div class="undo-bar" role="status" data-name="{escape(just_now)}"><span><b>'
        f'{escape(just_now)}</b> was deleted.</span><button type="button" data-act="restore">Undo'
        '</button><button type="button" data-act="dismiss" aria-label="Close">✕</button></div>'
        if just_now in names
        else ""
    )
    rows = "".join(
        f'<li data-name="{escape(name)}"><span>{escape(name)}</span>'
        '<button type="button" data-act="restore">Bring back</button></li>'
        for name in names
    )
    if not rows:
        return ""
    return (
        f'<details class="trash"><summary>Recently deleted · {len(names)}</summary>'
        f"<ul>{rows}</ul></details>{bar}"
    )


def _card(expert: ExpertInfo, picked: bool) -> str:
    warning = f'<p class="note">{escape(expert.warning)}</p>' if expert.warning else ""
    origin = "shipped with t2local; duplicate it to change it" if expert.shipped else "yours"
    facts = f"{origin} · {size(expert.size_bytes)}" if expert.size_bytes else origin
    kind, name = escape(KINDS.get(expert.kind, expert.kind)), escape(expert.name)
    return (
        f'<article class="expert" style="--c:{theme.colour(expert.name)}" data-name="{name}">'
        f'<h4><span class="expert-name">{name}</span><small>{kind}</small></h4>'
        f"<p>{escape(expert.description)}</p>{_held_out(expert.held_out)}"
        f"{_forgetting(expert.forgetting)}{warning}"
        f"<footer>{facts}</footer>{_acts(expert, picked)}</article>"
    )


def _acts(expert: ExpertInfo, picked: bool) -> str:
    readable = expert.usable or expert.size_bytes > 0
    compare = "Comparing ✓" if picked else "Compare"
    offered = {
        "try_it": ("Try in chat", expert.usable and expert.kind == "skill"),
        "compare": (compare, readable),
        "rename": ("Rename", readable and not expert.shipped),
        "duplicate": ("Duplicate", readable),
        "hand_over": ("Download", readable),
        "remove": ("Delete", not expert.shipped),
    }
    pressed = f' aria-pressed="{str(picked).lower()}"'
    buttons = (
        f'<button type="button" data-act="{act}"{pressed if act == "compare" else ""} '
        f'aria-label="{words}: {escape(expert.name)}">{words}</button>'
        for act, (words, possible) in offered.items()
        if possible
    )
    return f'<div class="expert-acts">{"".join(buttons)}</div>'


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


def _forgetting(measured: Sequence[Mapping[str, Any]]) -> str:
    if not measured:
        return ""
    rows = "".join(f"<li>{escape(forgetting_line(values))}</li>" for values in measured)
    return f'<div class="forgetting">{term("forgetting", "Elsewhere")}<ul>{rows}</ul></div>'


def forgetting_line(measured: Mapping[str, Any]) -> str:
    """`on math: 42 → 41 of 100, no proven change`."""
    low, high = measured["ci95_difference"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "no proven change"
    n = int(measured["n"])
    base, trained = (round(float(measured[key]) * n) for key in ("base", "trained"))
    return f"on {measured['task']}: {base} → {trained} of {n}, {verdict}"

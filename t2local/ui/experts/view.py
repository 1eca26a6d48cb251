"""Experts as HTML: a card each, what was deleted, and two or more side by side."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

from t2local.engine.requests import ExpertInfo
from t2local.experts import Deleted, HeldOut
from t2local.experts.comparison import Comparison, Facts, Likeness
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


# --- Two or more experts side by side, as a table and sentences. Pure functions to HTML.

UNRELATED, ALIKE, SAME = 0.1, 0.4, 0.9  # cosines from which other words are used


def picked_html(names: Sequence[str], compared: Comparison | None) -> str:
    """The chosen names, each with a way to take it out, and the table once there are two."""
    chips = "".join(
        f'<span class="picked" style="--c:{theme.colour(name)}" data-name="{escape(name)}">'
        f'{escape(name)}<button type="button" data-act="compare" '
        f'aria-label="Do not compare {escape(name)}">✕</button></span>'
        for name in names
    )
    top = f'<div class="compare-top"><h3>Side by side</h3>{chips}</div>'
    if compared is None:
        return f'{top}<p class="quiet">Press “Compare” on another expert.</p>'
    return f"{top}{_table(compared)}{_likeness(compared.likeness)}"


def _table(compared: Comparison) -> str:
    heads = "".join(
        f'<th scope="col" style="--c:{theme.colour(f.name)}"><b>{escape(f.name)}</b></th>'
        for f in compared.experts
    )
    rows = {
        f"right on {term('held out', 'held-out')} questions": _held_out_cell,
        term("forgetting", "elsewhere"): _elsewhere,
        "rewarded for": lambda facts: escape(facts.reward) or "–",
        "training steps": lambda facts: _count(facts.steps),
        "rows trained on": lambda facts: _count(facts.rows),
        f"numbers in {term('z')}": lambda facts: _count(facts.numbers),
        f"distance from the base, {term('rms')} of z − 1": lambda facts: f"{facts.rms:.4f}",
    }
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{cell(facts)}</td>" for facts in compared.experts)
        + "</tr>"
        for name, cell in rows.items()
        if any(cell(facts) != "–" for facts in compared.experts)
    )
    return (
        f'<div class="scroll"><table><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _held_out_cell(facts: Facts) -> str:
    held_out = facts.held_out
    if held_out is None:
        return "not measured"
    low, high = (100 * x for x in held_out.ci95_difference)
    span = f"{low:+.0f} to {high:+.0f}".replace("-", "−")
    return (
        f"<b>{100 * held_out.base:.0f} % → {100 * held_out.trained:.0f} %</b> of {held_out.n}"
        f"<small>difference {span} points (95 %)</small>{_task(held_out)}"
    )


def _task(held_out: HeldOut) -> str:
    return f"<small>{escape(held_out.task)}</small>" if held_out.task else ""


def _elsewhere(facts: Facts) -> str:
    lines = (escape(forgetting_line(measured.as_dict())) for measured in facts.forgetting)
    return "<br>".join(lines) or "–"


def _likeness(pairs: Sequence[Likeness]) -> str:
    told = "".join(f"<li>{escape(likeness_line(pair))}</li>" for pair in pairs)
    return f'<p>{term("cosine", "How alike they are")}:</p><ul class="alike">{told}</ul>'


def likeness_line(pair: Likeness) -> str:
    """`math and code: +0.03, nearly nothing in common`."""
    both, cosine = f"{pair.first} and {pair.second}", pair.overall
    if cosine is None:
        return f"{both}: one of them changes nothing"
    if cosine < -UNRELATED:
        words = "they pull in opposite directions"
    elif cosine < UNRELATED:
        words = "nearly nothing in common"
    elif cosine < ALIKE:
        words = "a little alike"
    else:
        words = "nearly the same" if cosine >= SAME else "alike"
    return f"{both}: {cosine:+.2f}, {words}".replace("-", "−")


def _count(value: int | None) -> str:
    return f"{value:,}" if isinstance(value, int) else "–"

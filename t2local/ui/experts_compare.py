"""Two or more experts side by side, as a table and sentences. Pure functions to HTML."""

from collections.abc import Sequence
from html import escape

from t2local.experts import HeldOut
from t2local.experts.comparison import Comparison, Facts, Likeness
from t2local.plots import theme
from t2local.ui.experts.view import forgetting_line
from t2local.ui.messages import term

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

"""The dispatch card: what pass 1 decided, what pass 2 mixed, and how long each took.

Pure functions from a message's stored values to HTML. Colours come from `plots.theme`.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from t2local.adapt.dispatch import STRATEGIES
from t2local.plots import theme
from t2local.ui.messages import term

SUMMARY_SEGMENTS = 0.02  # smaller shares are left out of the one-line bar


def dispatch_card(
    dispatch: Mapping[str, Any],
    timing: Mapping[str, Any] | None,
    *,
    answer_with: Sequence[str] = (),
    is_open: bool = True,
) -> str:
    """`dispatch`, `timing`: as a `Message` keeps them. `answer_with`: names offered as override."""
    alpha = dispatch.get("alpha", {})
    opened = " open" if is_open else ""
    return (
        f'<details class="card"{opened}><summary>{_headline(dispatch)}'
        f"{_segments(alpha)}{_times(dispatch, timing)}</summary>"
        '<div class="card-body"><section>'
        f"<h5>{term('dispatch', 'what kind of prompt is this?')}</h5>"
        f"{_probabilities(dispatch)}</section>"
        f"<section><h5>{term('mixture')} that answers</h5>{_mixture(dispatch)}</section></div>"
        f"{_notes(dispatch)}{_override(answer_with, dispatch)}</details>"
    )


def thinking_card(stage: str) -> str:
    """Shown until pass 1 has decided."""
    return f'<div class="card thinking"><span class="pulse"></span>{escape(stage)}</div>'


def describe_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs between two mixtures' JSON, in words: `math +0.86 → −1.00`."""
    changes = [
        f"{name} {signed(old)} → {signed(new)}"
        for name, old, new in _pairs(before.get("alpha", {}), after.get("alpha", {}), 0.0)
    ]
    if before.get("strength", 1.0) != after.get("strength", 1.0):
        changes.append(f"strength {before.get('strength', 1.0):.2f} → {after['strength']:.2f}")
    changes += [
        f"{name} gain {old:.2f} → {new:.2f}"
        for name, old, new in _pairs(before.get("gains", {}), after.get("gains", {}), 1.0)
    ]
    return ", ".join(changes) or "the same mixture again"


def signed(value: float) -> str:
    """`+0.86`, `−1.00`, `0.00`, with a real minus sign."""
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def bar(name: str, share: float, number: str, *, negative: bool = False) -> str:
    """One labelled bar; `share` of the full width, 0 to 1."""
    side = " negative" if negative else ""
    return (
        f'<div class="bar{side}" style="--c:{theme.colour(name)};--w:{100 * share:.1f}%">'
        f'<span class="bar-name">{escape(name)}</span><span class="bar-track"><i></i></span>'
        f'<span class="bar-number">{number}</span></div>'
    )


def _pairs(
    before: Mapping[str, float], after: Mapping[str, float], missing: float
) -> list[tuple[str, float, float]]:
    names = dict.fromkeys((*before, *after))
    pairs = [(name, before.get(name, missing), after.get(name, missing)) for name in names]
    return [(name, old, new) for name, old, new in pairs if abs(old - new) >= 0.005]


def _headline(dispatch: Mapping[str, Any]) -> str:
    chosen = str(dispatch.get("override") or dispatch.get("chosen", "base"))
    answered = f"{chosen} · your choice" if dispatch.get("override") else chosen
    colour = theme.colour(chosen)
    return f'<b class="chip" style="--c:{colour}">{escape(answered)}</b>'


def _segments(alpha: Mapping[str, float]) -> str:
    """The mixture as one thin bar of coloured shares; the base model fills the rest."""
    total = sum(abs(a) for a in alpha.values())
    scale = 1.0 / max(1.0, total)
    segments = "".join(
        f'<i style="--c:{theme.colour(name)};--w:{100 * abs(a) * scale:.1f}%"></i>'
        for name, a in alpha.items()
        if abs(a) * scale >= SUMMARY_SEGMENTS
    )
    return f'<span class="segments" aria-hidden="true">{segments}</span>'


def _times(dispatch: Mapping[str, Any], timing: Mapping[str, Any] | None) -> str:
    strategy = escape(str(dispatch.get("strategy", "")))
    first = f"{term('pass 1')} · {strategy}"
    if dispatch.get("probabilities"):
        first += f" · {dispatch.get('seconds', 0.0):.2f} s"
    if timing is None:
        return f'<span class="times">{first}</span>'
    second = f"{term('pass 2')} · {timing.get('second_pass_s', 0.0):.1f} s"
    return f'<span class="times">{first} <em>→</em> {second}</span>'


def _probabilities(dispatch: Mapping[str, Any]) -> str:
    probabilities = dispatch.get("probabilities") or {}
    if not probabilities:
        kind = str(dispatch.get("strategy")).partition(":")[0]  # few-shot names its mixture
        strategy = None if dispatch.get("override") else STRATEGIES.get(kind)
        by_hand = "Nothing was asked: you chose who answers."
        return f'<p class="quiet">{escape(strategy.unasked) if strategy else by_hand}</p>'
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    return "".join(bar(name, p, f"{p:.2f}") for name, p in ranked)


def _mixture(dispatch: Mapping[str, Any]) -> str:
    alpha = dispatch.get("alpha") or {}
    rest = 1.0 - sum(alpha.values())
    shown = {**{n: a for n, a in alpha.items() if abs(a) >= 0.005}, "base": rest}
    largest = max(1.0, *(abs(a) for a in shown.values()))
    bars = "".join(
        bar(name, abs(a) / largest, signed(a).lstrip("+"), negative=a < 0)
        for name, a in shown.items()
    )
    strength = dispatch.get("strength", 1.0)
    return bars + (f'<p class="quiet">strength × {strength:.2f}</p>' if strength != 1.0 else "")


def _notes(dispatch: Mapping[str, Any]) -> str:
    notes = [str(dispatch["note"])] if dispatch.get("note") else []
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _override(names: Sequence[str], dispatch: Mapping[str, Any]) -> str:
    if not names:
        return ""
    chosen = dispatch.get("override")
    buttons = "".join(
        f'<button type="button" class="chip" style="--c:{theme.colour(name)}" '
        f'data-act="answer_with" data-name="{escape(name, quote=True)}"'
        f"{' aria-pressed=true' if name == chosen else ''}>{escape(name)}</button>"
        for name in names
    )
    return f'<div class="override"><span>answer with</span>{buttons}</div>'

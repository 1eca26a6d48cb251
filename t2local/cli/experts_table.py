"""Experts' figures as lines of text: held-out accuracy, and two or more experts side by side."""

from collections.abc import Iterator

from t2local.experts import HeldOut
from t2local.experts.comparison import Comparison, Facts


def gain(held_out: HeldOut | None) -> str:
    """Held-out accuracy before and after, with the interval of the difference, in words."""
    if held_out is None:
        return "not measured"
    low, high = held_out.ci95_difference
    return (
        f"{held_out.base:.3f} → {held_out.trained:.3f} on {held_out.n} held-out rows "
        f"(difference {low:+.3f} to {high:+.3f}, 95 %)"
    )


def comparison_lines(compared: Comparison) -> Iterator[str]:
    for facts in compared.experts:
        yield from _expert_lines(facts)
    yield "alike (cosine of z − 1; 1: the same, 0: nothing in common):"
    for pair in compared.likeness:
        by_layer = " ".join(_number(value) for value in pair.by_layer.values())
        yield f"  {pair.first} · {pair.second}: {_number(pair.overall)}"
        yield f"    by layer: {by_layer}"


def _expert_lines(facts: Facts) -> Iterator[str]:
    yield f"{facts.name} ({facts.kind})"
    yield f"  held out: {gain(facts.held_out)}"
    for measured in facts.forgetting:
        yield f"  on {measured.task}: {gain(measured)}"
    known = {"reward": facts.reward, "steps": facts.steps, "rows": facts.rows}
    told = [f"{name} {value}" for name, value in known.items() if value]
    told += [f"{facts.numbers:,} numbers", f"rms of z − 1 {facts.rms:.4f}"]
    yield f"  {', '.join(told)}"


def _number(cosine: float | None) -> str:
    return "–" if cosine is None else f"{cosine:+.2f}"

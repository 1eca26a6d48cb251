"""A run as it goes: reward with its spread and the validation, and what moves beneath.

Curves in, plotly figures out. A run without steps gives an empty figure that says so.
"""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from t2local.plots import theme
from t2local.statistics import wilson
from t2local.training.reports import Curves

SMOOTHED = 5  # steps
_RATE, _CHECK = theme.POSITIVE, theme.NAMED["reasoning"]


class Band(NamedTuple):
    """`low`, `high`: a standard deviation around the reward, within what a reward can be."""

    low: list[float]
    high: list[float]


def band(curves: Curves) -> Band:
    pairs = list(zip(curves.reward, curves.spread, strict=True))
    return Band([max(-1.0, r - s) for r, s in pairs], [min(1.0, r + s) for r, s in pairs])


def smoothed(values: Sequence[float], window: int = SMOOTHED) -> list[float]:
    """The mean of the last `window` values at each step."""
    parts = (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]


def plot_reward(curves: Curves) -> go.Figure:
    """Mean reward a step (−1 to 1) with its spread; right answers of the validation in %."""
    if not curves.steps:
        return theme.empty("The curve begins with the first step", 260)
    steps, spread = list(curves.steps), band(curves)
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    mean = {"color": _RATE, "width": 2}
    figure = go.Figure(
        [
            go.Scatter(x=steps, y=spread.high, **edge),
            go.Scatter(x=steps, y=spread.low, fill="tonexty", fillcolor=_faint(_RATE), **edge),
            go.Scatter(
                x=steps, y=smoothed(curves.reward), name="reward", line=mean,
                hovertemplate="step %{x}: %{y:+.2f}<extra>reward</extra>",
            ),
            _validation(curves),
        ]
    )  # fmt: skip
    theme.style(figure, 260)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.14, "x": 0})
    figure.update_yaxes(range=[-1.05, 1.05], title="reward", nticks=5)
    figure.update_xaxes(title="step", range=_span(curves), nticks=8)
    figure.update_layout(yaxis2=_right_axis())
    return figure


def plot_layers(change: Sequence[float]) -> go.Figure:
    """How far each layer is from the base model: a bar a layer."""
    if not any(change):
        return theme.empty("The bars begin with the first step", 150)
    figure = go.Figure(
        go.Bar(
            x=list(range(len(change))),
            y=list(change),
            marker_color=theme.PALETTE[0],
            hovertemplate="layer %{x}: %{y:.4f}<extra></extra>",
        )
    )
    theme.style(figure, 150)
    figure.update_xaxes(title="layer", nticks=10, showgrid=False)
    figure.update_yaxes(nticks=3, rangemode="tozero")
    return figure


def plot_runs(runs: Sequence[tuple[str, Curves]]) -> go.Figure:
    """Reward (lines) and right answers of the validation (dots, in %) of several runs."""
    runs = [(theme.label(name), curves) for name, curves in runs if curves.steps]
    if not runs:
        return theme.empty("Choose runs that have taken a step", 260)
    figure = go.Figure()
    for i, (name, curves) in enumerate(runs):
        colour = theme.PALETTE[i % len(theme.PALETTE)]
        figure.add_scatter(
            x=list(curves.steps), y=smoothed(curves.reward), name=name,
            line={"color": colour, "width": 2},
            hovertemplate="step %{x}: %{y:+.2f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[c.step for c in curves.checks], y=[c.accuracy for c in curves.checks],
            mode="markers", marker={"color": colour, "size": 8}, yaxis="y2", showlegend=False,
            name=name, hovertemplate="step %{x}: %{y:.0%} right<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    theme.style(figure, 300)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.14, "x": 0})
    figure.update_yaxes(title="reward", nticks=5)
    figure.update_xaxes(title="step", nticks=8)
    figure.update_layout(yaxis2=_right_axis())
    return figure


def plot_vitals(curves: Curves) -> go.Figure:
    """KL to the base, entropy, equal groups, rms of z − 1, prompts drawn again, sampler's gap."""
    if not curves.steps:
        return theme.empty("The curves begin with the first step", 260)
    panels = {
        "KL to the base": curves.kl,
        "entropy": curves.entropy,
        "equal groups": curves.equal_groups,
        "z − 1, rms": curves.change,
        "drawn again": curves.drawn_again,
        "sampler's gap": curves.sampler_gap,
    }
    colours = (theme.NEGATIVE, theme.PALETTE[1], theme.INK, theme.PALETTE[0])
    figure, colours = go.Figure(), (*colours, theme.INK, theme.PALETTE[1])
    theme.style(figure, 420)
    for i, ((name, values), colour) in enumerate(zip(panels.items(), colours, strict=True), 1):
        column, row = (i - 1) % 2, (i - 1) // 2
        x, y = [0.56 * column, 0.44 + 0.56 * column], [0.74 - 0.37 * row, 0.95 - 0.37 * row]
        figure.add_scatter(
            x=list(curves.steps), y=list(values), xaxis=f"x{i}", yaxis=f"y{i}", name=name,
            line={"color": colour, "width": 2}, hovertemplate="step %{x}: %{y:.3g}<extra></extra>",
        )  # fmt: skip
        axis = {"gridcolor": theme.GRID, "zeroline": False, "fixedrange": True, "automargin": True}
        own = {f"xaxis{i}": {**axis, "domain": x, "anchor": f"y{i}", "nticks": 4}}
        own[f"yaxis{i}"] = {**axis, "domain": y, "anchor": f"x{i}", "nticks": 4}
        own[f"yaxis{i}"] |= {"rangemode": "tozero", "tickformat": ".2~g"}
        figure.update_layout(**own)
        figure.add_annotation(
            text=name, x=x[0], y=y[1] + 0.015, xref="paper", yref="paper", showarrow=False,
            xanchor="left", yanchor="bottom",
        )  # fmt: skip
    return figure


def _validation(curves: Curves) -> go.Scatter:
    """Right answers with the 95 % interval of each."""
    shares = [check.accuracy for check in curves.checks]
    spans = [wilson(round(c.accuracy * c.n), c.n) for c in curves.checks]
    above = [max(0.0, high - share) for (_, high), share in zip(spans, shares, strict=True)]
    below = [max(0.0, share - low) for (low, _), share in zip(spans, shares, strict=True)]
    return go.Scatter(
        x=[check.step for check in curves.checks], y=shares, yaxis="y2", name="validation, right",
        mode="lines+markers", line={"color": _CHECK, "width": 1.5, "dash": "dot"},
        marker={"size": 8}, error_y=theme.interval(above, below, _CHECK),
        hovertemplate="step %{x}: %{y:.0%} right<extra>validation</extra>",
    )  # fmt: skip


def _right_axis() -> dict[str, object]:
    """Right answers, beside the reward's axis."""
    beside = {"overlaying": "y", "side": "right", "showgrid": False, "automargin": True}
    return {**theme.shares(), **beside, "fixedrange": True}


def _span(curves: Curves) -> list[float]:
    return [0.5, max(5.5, curves.steps[-1] + 0.5)]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.16)"

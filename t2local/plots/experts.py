"""Experts side by side: how alike they are in each layer, and how their training went.

A comparison in, plotly figures out. Nothing to show gives an empty figure that says so.
"""

from typing import NamedTuple

import plotly.graph_objects as go

from t2local.experts.comparison import Comparison
from t2local.plots import theme
from t2local.plots.curves import smoothed

FAINTEST = 0.1  # the scale never ends below this cosine, so that noise stays pale
LIKE = ((0.0, theme.NEGATIVE), (0.5, "rgba(128, 138, 150, 0.12)"), (1.0, theme.POSITIVE))


class Strip(NamedTuple):
    """`values[pair][layer]`: cosine of `z − 1`, None where there is none."""

    pairs: list[str]
    layers: list[int]
    values: list[list[float | None]]
    largest: float


def strip(compared: Comparison) -> Strip:
    layers = sorted({layer for pair in compared.likeness for layer in pair.by_layer})
    values = [[pair.by_layer.get(layer) for layer in layers] for pair in compared.likeness]
    sizes = [abs(value) for row in values for value in row if value is not None]
    pairs = [f"{pair.first} · {pair.second}" for pair in compared.likeness]
    return Strip(pairs, layers, values, max([FAINTEST, *sizes]))


def plot_likeness(compared: Comparison) -> go.Figure:
    """A row a pair of experts, a column a layer: blue alike, red opposite, pale unrelated."""
    shown = strip(compared)
    if not shown.layers:
        return theme.empty("Choose two experts", 120)
    figure = go.Figure(
        go.Heatmap(
            z=shown.values,
            x=shown.layers,
            y=shown.pairs,
            colorscale=LIKE,
            zmin=-shown.largest,
            zmax=shown.largest,
            xgap=1,
            ygap=3,
            colorbar={"thickness": 8, "outlinewidth": 0, "tickformat": "+.2g", "nticks": 3},
            hovertemplate="%{y}, layer %{x}: %{z:+.3f}<extra></extra>",
        )
    )
    theme.style(figure, 76 + 34 * len(shown.pairs))
    figure.update_xaxes(showgrid=False, title="layer", nticks=10)
    figure.update_yaxes(showgrid=False, autorange="reversed", ticksuffix=" ")
    return figure


def plot_reward_curves(compared: Comparison) -> go.Figure:
    """Mean reward of each training step, smoothed, one line an expert."""
    known = [facts for facts in compared.experts if facts.curve]
    if not known:
        return theme.empty("These experts do not carry their training curve", 120)
    lines = [
        go.Scatter(
            x=list(range(1, len(facts.curve) + 1)),
            y=smoothed(facts.curve),
            name=facts.name,
            line={"color": theme.colour(facts.name), "width": 2},
            hovertemplate="step %{x}: %{y:+.2f}<extra>%{fullData.name}</extra>",
        )
        for facts in known
    ]
    figure = theme.style(go.Figure(lines), 240)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.16, "x": 0})
    figure.update_yaxes(title="reward", nticks=5)
    figure.update_xaxes(title="step", nticks=8)
    return figure

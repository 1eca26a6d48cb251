"""A mixture search as it converges: the cloud of α of a generation, and the best score of each.

Generations in, plotly figures out. A search without generations gives an empty figure that says so.
"""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from t2local.adapt.few_shot import Generation
from t2local.plots import theme

CLOUD_HEIGHT = 260
_SPREAD = 0.28  # half the width of an expert's cloud, of the distance between two


class Cloud(NamedTuple):
    """Points of one expert: `x` its place with a spread, `alpha`, `elite`: which are elites."""

    x: list[float]
    alpha: list[float]
    elite: list[bool]


def cloud(generation: Generation, k: int) -> Cloud:
    """The candidates' α of expert `k`, each candidate at the same side of every expert's place."""
    count = len(generation.cloud)
    x = [k + _SPREAD * (2 * i / max(1, count - 1) - 1) for i in range(count)]
    elites = set(generation.elites)
    return Cloud(x, [row[k] for row in generation.cloud], [i in elites for i in range(count)])


def plot_cloud(generations: Sequence[Generation]) -> go.Figure:
    """α of every candidate of the newest generation, elites filled, the best so far as a line."""
    if not generations:
        return theme.empty("Each dot will be one mixture that is tried", CLOUD_HEIGHT)
    now, figure = generations[-1], go.Figure()
    theme.style(figure, CLOUD_HEIGHT)
    for k, name in enumerate(now.experts):
        points, colour = cloud(now, k), theme.colour(name)
        marker = {
            "size": [9 if elite else 6 for elite in points.elite],
            "opacity": [1.0 if elite else 0.35 for elite in points.elite],
            "color": colour,
        }
        figure.add_scatter(
            x=points.x, y=points.alpha, mode="markers", marker=marker, name=name,
            hovertemplate="α %{y:.2f}<extra>" + name + "</extra>",
        )  # fmt: skip
        best = now.best[k]
        figure.add_scatter(
            x=[k - 0.4, k + 0.4], y=[best, best], mode="lines", line={"color": colour, "width": 3},
            hovertemplate="best so far: α %{y:.2f}<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(now.experts))), ticktext=list(now.experts), showgrid=False,
        range=[-0.6, len(now.experts) - 0.4],
    )  # fmt: skip
    figure.update_yaxes(title="α")
    return figure


def plot_best(generations: Sequence[Generation]) -> go.Figure:
    """Right answers on the examples, in %: the best so far and the generation's mean."""
    if not generations:
        return theme.empty("The curve begins with the first generation", 200)
    numbers = [g.number for g in generations]
    means = [sum(g.accuracy) / len(g.accuracy) for g in generations]
    figure = go.Figure(
        [
            go.Scatter(
                x=numbers, y=[g.best_accuracy for g in generations], name="best so far",
                mode="lines+markers", line={"color": theme.POSITIVE, "width": 2},
                hovertemplate="generation %{x}: %{y:.0%}<extra>best so far</extra>",
            ),
            go.Scatter(
                x=numbers, y=means, name="mean of all tried", mode="lines+markers",
                line={"color": theme.INK, "width": 1.5, "dash": "dot"},
                hovertemplate="generation %{x}: %{y:.0%}<extra>mean</extra>",
            ),
        ]
    )  # fmt: skip
    theme.style(figure, 200)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.2, "x": 0})
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", title="right")
    span = [0.5, max(2, generations[-1].total) + 0.5]
    figure.update_xaxes(range=span, title="generation", nticks=8)
    return figure

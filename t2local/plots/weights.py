"""What a mixture does to the weights, matrix by matrix, and experts side by side."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from t2local.experts.comparison import Comparison
from t2local.plots import theme
from t2local.plots.curves import smoothed


class HeatMap(NamedTuple):
    """`values[layer][matrix]`: rms |z − 1|, None where a layer lacks that matrix."""

    layers: list[int]
    matrices: list[str]
    values: list[list[float | None]]


def heat_map(deltas: Mapping[str, float]) -> HeatMap:
    """Arrange `matrix name -> rms |z − 1|` by layer and by the last part of the name."""
    cells: dict[tuple[int, str], float] = {}
    for name, value in deltas.items():
        layer = next((int(part) for part in name.split(".") if part.isdigit()), None)
        if layer is not None:
            cells[layer, name.rsplit(".", 1)[-1]] = value
    layers = sorted({layer for layer, _ in cells})
    matrices = list(dict.fromkeys(matrix for _, matrix in cells))
    values = [[cells.get((layer, matrix)) for matrix in matrices] for layer in layers]
    return HeatMap(layers, matrices, values)


def plot_heatmap(deltas: Mapping[str, float]) -> go.Figure:
    """How far z is from 1 in each matrix: a row a layer, a column a kind of matrix."""
    grid = heat_map(deltas)
    if not grid.layers:
        return theme.empty("No mixture yet: every z is 1", 160)
    largest = max((v for row in grid.values for v in row if v is not None), default=0.0)
    figure = go.Figure(
        go.Heatmap(
            z=grid.values,
            x=[short(matrix) for matrix in grid.matrices],
            y=grid.layers,
            colorscale=theme.HEAT,
            zmin=0.0,
            zmax=largest or 1e-3,
            xgap=2,
            ygap=1,
            colorbar={
                "thickness": 8,
                "outlinewidth": 0,
                "tickformat": ".2g",
                "nticks": 4,
                "xpad": 4,
            },
            hovertemplate="layer %{y}, %{x}: |z − 1| %{z:.4f}<extra></extra>",
        )
    )
    theme.style(figure, min(460, 90 + 10 * len(grid.layers)))
    figure.update_xaxes(showgrid=False, side="top")
    figure.update_yaxes(
        showgrid=False,
        autorange="reversed",
        nticks=8,
        title={"text": "layer", "standoff": 4},
    )
    return figure


def adapted_spectrum(sigma: Sequence[float], z: Sequence[float]) -> list[float]:
    """σ ⊙ z; both [r]."""
    assert len(sigma) == len(z), (len(sigma), len(z))
    return [s * factor for s, factor in zip(sigma, z, strict=True)]


def plot_spectrum(sigma: Sequence[float], z: Sequence[float]) -> go.Figure:
    """A matrix's singular values before (σ) and after (σ ⊙ z), and below them z − 1 itself."""
    if not len(sigma):
        return theme.empty("Choose a matrix", 160)
    ranks = list(range(1, len(sigma) + 1))
    change = [factor - 1 for factor in z]
    sides = [theme.POSITIVE if value >= 0 else theme.NEGATIVE for value in change]
    hover = "rank %{x}: %{y:.4g}<extra>%{fullData.name}</extra>"
    before = {"color": theme.INK, "width": 2}
    after = {"color": theme.NAMED["reasoning"], "width": 1.5, "dash": "dot"}
    figure = go.Figure(
        [
            go.Scatter(x=ranks, y=list(sigma), name="σ", line=before, hovertemplate=hover),
            go.Scatter(
                x=ranks, y=adapted_spectrum(sigma, z), name="σ⊙z", line=after, hovertemplate=hover
            ),
            go.Bar(
                x=ranks,
                y=change,
                name="z − 1",
                yaxis="y2",
                marker={"color": sides, "line": {"width": 0}},
                hovertemplate=hover,
            ),
        ]
    )
    theme.style(figure, 300)
    legend = {"orientation": "h", "y": 1.12, "x": 0}
    second = {"domain": [0.0, 0.34], "title": "z − 1", "gridcolor": theme.GRID}
    figure.update_layout(
        showlegend=True, legend=legend, bargap=0.0, yaxis2={**second, "anchor": "x"}
    )
    figure.update_layout(yaxis={"domain": [0.42, 1.0], "title": "σ", "type": "log", "dtick": "D2"})
    figure.update_layout(yaxis2={"automargin": True, "fixedrange": True, "nticks": 4})
    figure.update_xaxes(title="rank (largest σ first)", anchor="y2")
    return figure


def short(matrix: str) -> str:
    """`gate_proj` -> `gate`: what fits under a phone's plot."""
    return matrix.removesuffix("_proj")


# --- Experts side by side: how alike they are in each layer, and how their training went.
#
# A comparison in, plotly figures out. Nothing to show gives an empty figure that says so.

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
    pairs = [
        f"{theme.label(pair.first)} · {theme.label(pair.second)}" for pair in compared.likeness
    ]
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
    figure.update_yaxes(showgrid=False, autorange="reversed")
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
            name=theme.label(facts.name),
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

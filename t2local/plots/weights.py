"""What a mixture does to the weights: |z − 1| over the whole model, and one matrix's spectrum.

Plain values in, plotly figures out. Matrix names are the model's module paths; a name without a
layer number belongs to no row and is left out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from t2local.plots import theme


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
            colorbar={"thickness": 8, "outlinewidth": 0, "tickformat": ".2g", "nticks": 4},
            hovertemplate="layer %{y}, %{x}: |z − 1| %{z:.4f}<extra></extra>",
        )
    )
    theme.style(figure, min(460, 90 + 10 * len(grid.layers)))
    figure.update_xaxes(showgrid=False, side="top")
    figure.update_yaxes(
        showgrid=False,
        autorange="reversed",
        nticks=8,
        ticksuffix=" ",
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
    figure.update_layout(yaxis={"domain": [0.42, 1.0], "title": "σ", "type": "log"})
    figure.update_layout(yaxis2={"automargin": True, "fixedrange": True, "nticks": 4})
    figure.update_xaxes(title="rank (largest σ first)", anchor="y2")
    return figure


def short(matrix: str) -> str:
    """`gate_proj` -> `gate`: what fits under a phone's plot."""
    return matrix.removesuffix("_proj")

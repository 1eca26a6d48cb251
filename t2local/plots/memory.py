"""Where a model's memory goes: one stacked bar for a chat, one for training, and what there is.

Plain values in, plotly figures out; bytes are shown as GB of 10⁹.
"""

from collections.abc import Mapping
from typing import NamedTuple

import plotly.graph_objects as go

from t2local.plots import theme

GB = 10**9
COLOURS = {
    "weights": "#4e988c",
    "bases": "#d98a1f",
    "copies": "#8a7a5c",
    "KV cache": "#6b74e6",
    "training step": "#c25ec4",
    "reserve": theme.BASE_COLOUR,
}
HEIGHT = 160


class Part(NamedTuple):
    """One coloured piece: `row` is the bar it belongs to."""

    row: str
    name: str
    gb: float
    colour: str


def memory_parts(rows: Mapping[str, Mapping[str, int]]) -> list[Part]:
    """`rows`: a bar's name -> part -> bytes; parts of no size are left out."""
    return [
        Part(row, name, n_bytes / GB, COLOURS.get(name, theme.colour(name)))
        for row, parts in rows.items()
        for name, n_bytes in parts.items()
        if n_bytes
    ]


def plot_memory(rows: Mapping[str, Mapping[str, int]], memory_bytes: int) -> go.Figure:
    """Stacked bars of `memory_parts` with a line at the memory there is."""
    parts = memory_parts(rows)
    if not parts:
        return theme.empty("Choose a model to see where its memory goes", HEIGHT)
    figure = theme.style(go.Figure(), HEIGHT)
    for name in dict.fromkeys(part.name for part in parts):
        mine = [part for part in parts if part.name == name]
        figure.add_bar(
            x=[part.gb for part in mine],
            y=[part.row for part in mine],
            name=name,
            orientation="h",
            marker={"color": mine[0].colour},
            hovertemplate=f"{name}: %{{x:.2f}} GB<extra></extra>",
        )
    there = memory_bytes / GB
    totals = [sum(p.gb for p in parts if p.row == row) for row in rows]
    figure.add_vline(there, line={"color": theme.NEGATIVE, "width": 2, "dash": "dot"})
    figure.update_layout(
        barmode="stack",
        showlegend=True,
        legend={
            "orientation": "h",
            "y": -0.3,
            "x": 0,
            "font": {"size": 11},
            "traceorder": "normal",
        },
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
    )
    figure.update_xaxes(range=[0, 1.08 * max(there, *totals)], ticksuffix=" GB", nticks=6)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure

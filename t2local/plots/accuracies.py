"""Pictures of a proof: two experts composed on both their tasks, and few training rows.

Rows of the proof's sections in, plotly figures out; `page` puts both into a file of its own.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from t2local.plots import theme

FIRST, SECOND = "reasoning", "math"
HEIGHT = 340
Rows = Sequence[Mapping[str, Any]]


def plot_composition(rows: Rows) -> go.Figure:
    """Accuracy on each set over the α of both experts: does mixing interfere?"""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure = make_subplots(1, len(sets), subplot_titles=sets, horizontal_spacing=0.12)
    for column, name in enumerate(sets, 1):
        own = [row for row in rows if row["set"] == name]
        right = [100 * row["adapted"] for row in own]
        cells = go.Heatmap(
            x=[f"{row[FIRST]:.2f}" for row in own],
            y=[f"{row[SECOND]:.2f}" for row in own],
            z=right,
            text=[f"{value:.0f} %" for value in right],
            texttemplate="%{text}",
            textfont={"size": 13},
            colorscale="Teal",
            showscale=False,
            xgap=2,
            ygap=2,
        )
        figure.add_trace(cells, 1, column)
    theme.style(figure, HEIGHT)
    figure.update_xaxes(type="category", title_text=f"α of {FIRST}")
    figure.update_yaxes(type="category", title_text=f"α of {SECOND}")
    return figure.update_layout(margin={"l": 8, "r": 12, "t": 34, "b": 8})


def plot_few_rows(rows: Rows) -> go.Figure:
    """Accuracy on training rows (dashed) and held-out rows (solid, 95 %) over their number."""
    figure = go.Figure()
    for method, colour in (("SVF", theme.POSITIVE), ("LoRA", theme.NEGATIVE)):
        own = [row for row in rows if row["method"] == method]
        for held_out in (False, True):
            part = [row for row in own if ("training" not in row["set"]) == held_out]
            high = [100 * (row["ci95"][1] - row["adapted"]) for row in part]
            low = [100 * (row["adapted"] - row["ci95"][0]) for row in part]
            line = go.Scatter(
                x=[str(row["rows"]) for row in part],
                y=[100 * row["adapted"] for row in part],
                mode="lines+markers",
                name=f"{method}, {'held out' if held_out else 'its training rows'}",
                line={"color": colour, "dash": "solid" if held_out else "dot", "width": 2},
                error_y={"type": "data", "array": high, "arrayminus": low} if held_out else None,
            )
            figure.add_trace(line)
    theme.style(figure, HEIGHT)
    figure.update_xaxes(type="category", title_text="training rows", autorange="reversed")
    figure.update_yaxes(title_text="right, %", range=[30, 102])
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
    return figure.update_layout(
        showlegend=True, legend=legend, margin={"l": 8, "r": 12, "t": 44, "b": 8}
    )


def page(found: Mapping[str, Any]) -> str:
    """The pictures of a whole proof as an HTML page that opens offline."""
    sections = found["sections"]
    drawn = {"composition": plot_composition, "overfitting": plot_few_rows}
    figures = [draw(sections[name]) for name, draw in drawn.items() if sections.get(name)]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=place == 0)
        for place, figure in enumerate(figures)
    ]
    about = json.dumps(found["about"], indent=1).replace("<", "&lt;")
    return f"<!doctype html><meta charset=utf-8>{''.join(parts)}<pre>{about}</pre>\n"

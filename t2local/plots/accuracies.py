"""Accuracies of strategies with their intervals, and the pictures of the proof."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from t2local.plots import theme
from t2local.statistics import wilson

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


# --- Accuracies of strategies with their intervals, task by task; they may still be growing.
#
# Counts in, a plotly figure out. Nothing scored yet gives an empty figure that says so.

ROW_PIXELS = 34


class Score(NamedTuple):
    """`correct` of `n` prompts so far."""

    task: str
    strategy: str
    n: int
    correct: int


class Point(NamedTuple):
    """An accuracy and how far its 95 % interval reaches `below` and `above` it, 0 to 1."""

    accuracy: float
    below: float
    above: float


def point(score: Score) -> Point:
    low, high = wilson(score.correct, score.n)
    share = score.correct / score.n
    return Point(share, share - low, high - share)


def plot_accuracy(scores: Sequence[Score]) -> go.Figure:
    """A bar a task and strategy from 0 to 100 %, with the Wilson interval of what is scored."""
    scored = [score for score in scores if score.n]
    if not scored:
        return theme.empty("Bars grow here as answers are scored", 200)
    several = len({score.task for score in scored}) > 1
    parts = [[s.task, s.strategy] if several else [s.strategy] for s in scored]
    names = [" · ".join(map(theme.label, part)) for part in parts]
    points = [point(score) for score in scored]
    bars = go.Bar(
        x=[p.accuracy for p in points],
        y=names,
        orientation="h",
        marker={"color": [theme.colour(s.strategy) for s in scored], "cornerradius": 3},
        opacity=0.85,
        error_x={
            "type": "data", "array": [p.above for p in points], "color": theme.INK,
            "arrayminus": [p.below for p in points], "thickness": 1.6, "width": 5,
        },
        customdata=[[s.correct, s.n] for s in scored],
        hovertemplate="%{y}: %{x:.1%} (%{customdata[0]} of %{customdata[1]})<extra></extra>",
    )  # fmt: skip
    figure = theme.style(go.Figure(bars), 56 + ROW_PIXELS * len(scored))
    top = max(p.accuracy + p.above for p in points)
    figure.update_xaxes(range=[0, min(1.0, top + 0.03)], tickformat=".0%", nticks=6)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure

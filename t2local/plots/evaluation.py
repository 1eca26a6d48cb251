"""Accuracies of strategies with their intervals, task by task; they may still be growing.

Counts in, a plotly figure out. Nothing scored yet gives an empty figure that says so.
"""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from t2local.plots import theme
from t2local.statistics import wilson

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
    names = [f"{s.task} · {s.strategy}" if several else s.strategy for s in scored]
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

"""Bars and clouds: pass 1's probabilities, mixtures, memory, a search, accuracies, the proof."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from t2local.adapt.few_shot import Generation
from t2local.plots import theme
from t2local.statistics import wilson

ROW_PIXELS = 34
BASE = "base"


class Bar(NamedTuple):
    name: str
    value: float
    colour: str


def dispatch_bars(probabilities: Mapping[str, float]) -> list[Bar]:
    """The labels' probabilities, the likeliest first."""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    return [Bar(theme.label(name), p, theme.colour(name)) for name, p in ranked]


def mixture_bars(alpha: Mapping[str, float]) -> list[Bar]:
    """Each expert's α and the base model's remainder `1 − Σ α`, in the given order."""
    bars = [Bar(theme.label(name), a, theme.colour(name)) for name, a in alpha.items()]
    return [*bars, Bar(BASE, 1.0 - sum(alpha.values()), theme.colour(BASE))]


def plot_dispatch(probabilities: Mapping[str, float]) -> go.Figure:
    """Probability of each label in pass 1, from 0 to 1."""
    bars = dispatch_bars(probabilities)
    if not bars:
        return theme.empty("Nothing was asked of pass 1 yet", 120)
    return _horizontal(bars, (0.0, 1.15), "{:.2f}")


def plot_mixture(alpha: Mapping[str, float]) -> go.Figure:
    """α of each expert, and the base model's share that makes the sum one."""
    bars = mixture_bars(alpha)
    low = min(0.0, *(bar.value for bar in bars))
    high = max(1.0, *(bar.value for bar in bars))
    room = 0.17 * (high - low)
    return _horizontal(bars, (low - (room if low < 0 else 0), high + room), "{:+.2f}")


def _horizontal(bars: list[Bar], span: tuple[float, float], number: str) -> go.Figure:
    figure = go.Figure(
        go.Bar(
            x=[bar.value for bar in bars],
            y=[bar.name for bar in bars],
            orientation="h",
            marker={"color": [bar.colour for bar in bars], "cornerradius": 3},
            text=[number.format(bar.value) for bar in bars],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra></extra>",
        )
    )
    theme.style(figure, 40 + ROW_PIXELS * len(bars))
    figure.update_xaxes(range=span, nticks=5)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


# --- Where a model's memory goes: one stacked bar for a chat, one for training, and what there
# is.
#
# Plain values in, plotly figures out; bytes are shown as GB of 10⁹.

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


# --- A mixture search as it converges: the cloud of α of a generation, and the best score of
# each.
#
# Generations in, plotly figures out. A search without generations gives an empty figure that says
# so.

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
        points, colour, label = cloud(now, k), theme.colour(name), theme.label(name)
        marker = {
            "size": [9 if elite else 6 for elite in points.elite],
            "opacity": [1.0 if elite else 0.35 for elite in points.elite],
            "color": colour,
        }
        figure.add_scatter(
            x=points.x, y=points.alpha, mode="markers", marker=marker, name=label,
            hovertemplate=f"α %{{y:.2f}}<extra>{label}</extra>",
        )  # fmt: skip
        best = now.best[k]
        figure.add_scatter(
            x=[k - 0.4, k + 0.4], y=[best, best], mode="lines", line={"color": colour, "width": 3},
            hovertemplate=f"best so far: α %{{y:.2f}}<extra>{label}</extra>",
        )  # fmt: skip
    figure.update_xaxes(
        tickvals=list(range(len(now.experts))), ticktext=list(map(theme.label, now.experts)),
        showgrid=False, range=[-0.6, len(now.experts) - 0.4],
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
    figure.update_yaxes(theme.shares(), title="right")
    span = [0.5, max(2, generations[-1].total) + 0.5]
    figure.update_xaxes(range=span, title="generation", nticks=8)
    return figure


# --- The pictures of the proof.

FIRST, SECOND = "reasoning", "math"
PROOF_HEIGHT = 340
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
    theme.style(figure, PROOF_HEIGHT)
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
                error_y=theme.interval(high, low, colour) if held_out else None,
            )
            figure.add_trace(line)
    theme.style(figure, PROOF_HEIGHT)
    figure.update_xaxes(type="category", title_text="training rows", autorange="reversed")
    figure.update_yaxes(title_text="right, %", range=[-2, 102])
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
        marker={
            "color": [theme.colour(s.strategy) for s in scored], "cornerradius": 3, "opacity": 0.75,
        },
        error_x=theme.interval([p.above for p in points], [p.below for p in points]),
        customdata=[[s.correct, s.n] for s in scored],
        hovertemplate="%{y}: %{x:.1%} (%{customdata[0]} of %{customdata[1]})<extra></extra>",
    )  # fmt: skip
    figure = theme.style(go.Figure(bars), 56 + ROW_PIXELS * len(scored))
    figure.update_xaxes(theme.shares())
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure

"""What pass 1 thought of a prompt, and what pass 2 mixed: two bar charts.

Plain values in, plotly figures out; no value is looked up here. An empty mapping gives an empty
figure that says so.
"""

from collections.abc import Mapping
from typing import NamedTuple

import plotly.graph_objects as go

from t2local.plots import theme

ROW_PIXELS = 34
BASE = "base"


class Bar(NamedTuple):
    name: str
    value: float
    colour: str


def dispatch_bars(probabilities: Mapping[str, float]) -> list[Bar]:
    """The labels' probabilities, the likeliest first."""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    return [Bar(name, p, theme.colour(name)) for name, p in ranked]


def mixture_bars(alpha: Mapping[str, float]) -> list[Bar]:
    """Each expert's α and the base model's remainder `1 − Σ α`, in the given order."""
    bars = [Bar(name, a, theme.colour(name)) for name, a in alpha.items()]
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

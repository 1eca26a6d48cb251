"""Colours and layout of every picture, and of the cards and sliders beside them.

The one place where an expert gets its colour: the same name has the same colour in plots, dispatch
cards, sliders and chat marks, on every machine. Figures have no background of their own and take
their text colour from the page, so they work in light and dark.
"""

import zlib
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

BASE_COLOUR = "#8391a3"
NAMED = {
    "math": "#3f8fe8",
    "code": "#17a27f",
    "reasoning": "#d98a1f",
    "classifier": "#9a6ee0",
    "vision": "#d1557f",
    "base": BASE_COLOUR,
    "other": "#a9a294",
    "manual": BASE_COLOUR,
}
PALETTE = ("#d1557f", "#29a3c2", "#8a9a2b", "#b4764e", "#6b74e6", "#c25ec4", "#4f9d4b", "#cf5b45")
POSITIVE, NEGATIVE, INK = "#3f8fe8", "#cf5b45", "#7d8794"
LONGEST = 60  # characters of a name
TEMPLATE = go.layout.Template(  # letters stand apart, however large: of all vertical axes
    layout={"yaxis": {"ticklabelstandoff": 4, "title": {"standoff": 8}}}
)
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
GRID = "rgba(128, 138, 150, 0.22)"
HEAT = ((0.0, "rgba(128, 138, 150, 0.10)"), (0.35, "#7fb8ad"), (0.7, "#2c8c83"), (1.0, "#e0a93b"))


def colour(name: str) -> str:
    """An expert's (or label's) colour as `#rrggbb`; the same for a name everywhere."""
    return NAMED.get(name) or PALETTE[zlib.crc32(name.encode()) % len(PALETTE)]


def label(name: str) -> str:
    """A name as text in a figure: plotly reads tags and entities in it, and draws all of it."""
    return escape(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…", quote=False)


def style(figure: go.Figure, height: int) -> go.Figure:
    """Give a figure the common looks, `height` in pixels; readable at 350 pixels wide."""
    figure.update_layout(
        template=TEMPLATE,
        height=height,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        showlegend=False,
        bargap=0.35,
        hoverlabel={"font": {"size": 12}},
        dragmode=False,
    )
    figure.update_xaxes(automargin=True, gridcolor=GRID, zerolinecolor=GRID, fixedrange=True)
    figure.update_yaxes(automargin=True, gridcolor=GRID, zerolinecolor=GRID, fixedrange=True)
    return figure


def interval(
    above: Sequence[float], below: Sequence[float], colour: str = INK
) -> dict[str, object]:
    """Error bars that can be seen from across a room; how far they reach `above` and `below`."""
    return {
        "type": "data", "symmetric": False, "array": list(above), "arrayminus": list(below),
        "color": colour, "thickness": 2.5, "width": 7,
    }  # fmt: skip


def shares() -> dict[str, object]:
    """An axis of shares: all of it, 0 to 100 %, with room for a cap at either end."""
    marks = ("0 %", "", "50 %", "", "100 %")  # words fit on a phone
    return {"range": [-0.02, 1.02], "tickvals": QUARTERS, "ticktext": marks, "tickangle": 0}


def empty(sentence: str, height: int) -> go.Figure:
    """A figure that says why there is nothing to see yet."""
    figure = style(go.Figure(), height)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(text=sentence, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure

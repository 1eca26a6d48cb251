import plotly.graph_objects as go

from t2local.plots import plot_dispatch, plot_mixture, theme
from t2local.plots.bars import dispatch_bars, mixture_bars


def test_dispatch_bars_are_sorted_and_coloured_by_name():
    bars = dispatch_bars({"code": 0.1, "math": 0.7, "other": 0.2})
    assert [bar.name for bar in bars] == ["math", "other", "code"]
    assert [bar.colour for bar in bars] == [theme.colour(bar.name) for bar in bars]


def test_mixture_bars_end_with_what_is_left_for_the_base_model():
    bars = mixture_bars({"math": 0.6, "code": -0.5})
    assert [bar.name for bar in bars] == ["math", "code", "base"]
    assert sum(bar.value for bar in bars) == 1.0


def test_negative_alpha_fits_into_the_figure():
    figure = plot_mixture({"math": -1.0, "code": 2.0})
    low, high = figure.layout.xaxis.range
    assert low < -1.0
    assert high > 2.0


def test_nothing_asked_gives_an_empty_figure_that_says_so():
    figure = plot_dispatch({})
    assert isinstance(figure, go.Figure)
    assert not figure.data
    assert figure.layout.annotations[0].text


def test_figures_leave_background_to_the_page():
    for figure in (plot_dispatch({"math": 1.0}), plot_mixture({}), theme.empty("-", 100)):
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_a_name_has_one_colour_whoever_else_is_there():
    assert theme.colour("math") != theme.colour("code")
    assert theme.colour("my own expert") == theme.colour("my own expert")
    assert theme.colour("my own expert") in theme.PALETTE

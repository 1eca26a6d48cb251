"""Names out of files are text in a figure, never markup."""

from t2local import plots
from t2local.plots import theme
from t2local.plots.bars import Score

EVIL = '<a href="javascript:alert(1)">x</a>'


def test_a_plain_name_stays_and_another_is_escaped_and_cut():
    assert theme.label("math") == "math"
    assert "<" not in theme.label(EVIL)
    assert len(theme.label("x" * 1000)) == theme.LONGEST


def test_no_figure_holds_a_names_markup():
    figures = [
        plots.plot_dispatch({EVIL: 0.5, "math": 0.5}),
        plots.plot_mixture({EVIL: 0.5}),
        plots.plot_accuracy([Score(EVIL, EVIL, 3, 1), Score("b", "base", 3, 1)]),
    ]
    for figure in figures:
        assert "<a href" not in figure.to_json().replace("\\u003c", "<")

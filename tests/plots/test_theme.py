"""Names out of files are text in a figure, never markup."""

from t2local import plots
from t2local.plots import theme
from t2local.plots.bars import Score, plot_few_rows
from tests.plots.test_accuracies import FEW
from tests.plots.test_adapt import NOW
from tests.plots.test_curves import RUN

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


def error_bars(figure):
    found = [getattr(trace, f"error_{axis}", None) for trace in figure.data for axis in "xy"]
    return [bars for bars in found if bars is not None and bars.array is not None]


def test_every_interval_is_thick_and_has_caps():
    accuracies = plots.plot_accuracy([Score("t", "base", 40, 12), Score("t", "math", 40, 30)])
    for figure in (accuracies, plots.plot_reward(RUN), plot_few_rows(FEW)):
        drawn = error_bars(figure)
        assert drawn
        for bars in drawn:
            assert bars.thickness >= 2
            assert bars.width >= 2 * bars.thickness, "a cap is wider than its line"


def test_every_axis_of_shares_is_the_whole_one():
    axes = [
        plots.plot_accuracy([Score("t", "base", 40, 1)]).layout.xaxis,
        plots.plot_best([NOW]).layout.yaxis,
        plots.plot_reward(RUN).layout.yaxis2,
        plots.plot_runs([("a", RUN)]).layout.yaxis2,
    ]
    for axis in axes:
        assert axis.range[0] <= 0.0
        assert axis.range[1] >= 1.0
    low, high = plot_few_rows(FEW).layout.yaxis.range
    assert low <= 0 < 100 <= high


def test_names_stand_apart_from_what_they_name():
    for figure in (plots.plot_memory({"chat": {"weights": 9}}, 9), plots.plot_vitals(RUN)):
        assert figure.layout.template.layout.yaxis.ticklabelstandoff > 0

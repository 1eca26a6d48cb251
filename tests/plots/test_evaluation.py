import pytest

from t2local.plots import plot_accuracy
from t2local.plots.bars import Score, point
from t2local.statistics import wilson


def test_a_point_reaches_as_far_as_wilsons_interval():
    found = point(Score("t", "base", 40, 10))
    assert (0.25 - found.below, 0.25 + found.above) == pytest.approx(wilson(10, 40))


def test_bars_name_the_task_only_where_there_are_several():
    one = plot_accuracy([Score("a", "base", 4, 2), Score("a", "math", 4, 3)])
    assert list(one.data[0].y) == ["base", "math"]
    two = plot_accuracy([Score("a", "base", 4, 2), Score("b", "base", 4, 3)])
    assert list(two.data[0].y) == ["a · base", "b · base"]


@pytest.mark.parametrize("correct", [0, 3, 40])
def test_the_axis_is_the_whole_one_whatever_was_scored(correct):
    axis = plot_accuracy([Score("t", "base", 40, correct)]).layout.xaxis
    assert axis.range[0] < 0.0 < 1.0 < axis.range[1], "the caps at both ends have room"
    assert [axis.tickvals[0], axis.tickvals[-1]] == [0.0, 1.0]
    assert [axis.ticktext[0], axis.ticktext[-1]] == ["0 %", "100 %"]


def test_nothing_scored_is_an_empty_figure():
    for scores in ([], [Score("a", "base", 0, 0)]):
        figure = plot_accuracy(scores)
        assert not figure.data
        assert figure.layout.annotations

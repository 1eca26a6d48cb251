from t2local.plots import plot_layers, plot_reward, plot_runs, plot_vitals
from t2local.plots.curves import band, smoothed
from t2local.training.reports import Check, Curves

RUN = Curves(
    steps=[1, 2, 3],
    reward=[-0.9, 0.0, 0.8],
    spread=[0.5, 0.5, 0.5],
    kl=[0.0, 0.1, 0.2],
    entropy=[1.0, 0.9, 0.8],
    equal_groups=[0.0, 0.1, 0.2],
    change=[0.0, 0.01, 0.02],
    drawn_again=[0, 2, 1],
    sampler_gap=[0.01, 0.01, 0.02],
    tokens_per_s=[9.0, 9.0, 9.0],
    checks=[Check(2, 0.5, 10, True)],
)


def test_a_run_without_steps_is_an_empty_figure():
    assert not plot_reward(Curves()).data
    assert not plot_vitals(Curves()).data


def test_the_spread_stays_within_what_a_reward_can_be():
    spread = band(RUN)
    assert [round(value, 3) for value in spread.low] == [-1.0, -0.5, 0.3]
    assert [round(value, 3) for value in spread.high] == [-0.4, 0.5, 1.0]


def test_smoothing_looks_back_only():
    assert smoothed([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]


def test_the_validation_has_its_interval_on_the_right_axis():
    check = plot_reward(RUN).data[-1]
    assert check.yaxis == "y2"
    assert list(check.y) == [0.5]
    assert 0.2 < check.error_y.array[0] < 0.5


def test_the_vitals_are_six_panels():
    figure = plot_vitals(RUN)
    shown = (RUN.kl, RUN.entropy, RUN.equal_groups, RUN.change, RUN.drawn_again, RUN.sampler_gap)
    assert [list(trace.y) for trace in figure.data] == list(map(list, shown))
    axes = [figure.layout[trace.yaxis.replace("y", "yaxis")].domain for trace in figure.data]
    assert len(set(axes)) == 3  # rows that do not overlap
    (top, middle, bottom) = sorted(set(axes), reverse=True)
    assert top[0] > middle[1] > middle[0] > bottom[1]
    assert bottom[0] == 0


def test_layers_are_bars_and_nothing_moved_is_said():
    (bars,) = plot_layers([0.01, 0.02]).data
    assert list(bars.y) == [0.01, 0.02]
    assert not plot_layers([0.0, 0.0]).data


def test_runs_share_one_figure_with_a_line_and_dots_each():
    figure = plot_runs([("first", RUN), ("second", RUN), ("not begun", Curves())])
    assert [trace.name for trace in figure.data] == ["first", "first", "second", "second"]
    assert not plot_runs([]).data

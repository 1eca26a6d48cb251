from dataclasses import replace

from t2local.adapt.few_shot import Generation
from t2local.plots import plot_best, plot_cloud
from t2local.plots.bars import cloud

NOW = Generation(
    1, 4, ("math", "code"), ((0.1, 0.9), (0.5, 0.2), (1.0, 0.0)), (2, 0), (0.2, 0.1, 0.6),
    (-1.0, -2.0, -0.5), (1.0, 0.0), 0.6, -0.5,
)  # fmt: skip


def test_a_cloud_holds_every_candidate_and_marks_the_elites():
    points = cloud(NOW, 1)
    assert points.alpha == [0.9, 0.2, 0.0]
    assert points.elite == [True, False, True]
    assert all(abs(x - 1) < 0.5 for x in points.x)


def test_figures_follow_the_generations_and_an_empty_search_says_so():
    assert [trace.name for trace in plot_cloud([NOW]).data if trace.mode == "markers"] == [
        "math", "code",
    ]  # fmt: skip
    later = replace(NOW, number=2, best_accuracy=0.8)
    assert list(plot_best([NOW, later]).data[0].y) == [0.6, 0.8]
    assert plot_cloud([]).layout.annotations[0].text
    assert plot_best([]).layout.annotations[0].text

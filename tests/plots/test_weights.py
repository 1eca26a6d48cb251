import pytest

from t2local.plots import plot_heatmap, plot_spectrum
from t2local.plots.weights import adapted_spectrum, heat_map


def test_heat_map_arranges_by_layer_and_matrix():
    grid = heat_map(
        {
            "model.layers.1.mlp.up_proj": 0.3,
            "model.layers.0.mlp.up_proj": 0.1,
            "model.layers.0.self_attn.q_proj": 0.2,
            "lm_head": 9.0,
        }
    )
    assert grid.layers == [0, 1]
    assert grid.matrices == ["up_proj", "q_proj"]
    assert grid.values == [[0.1, 0.2], [0.3, None]]


def test_heat_map_of_the_base_model_is_flat_and_finite():
    figure = plot_heatmap({"model.layers.0.mlp.up_proj": 0.0})
    assert figure.data[0].zmax > 0


def test_empty_values_give_empty_figures():
    assert not plot_heatmap({}).data
    assert not plot_spectrum([], []).data


def test_adapted_spectrum_is_the_product():
    assert adapted_spectrum([4.0, 2.0], [0.5, 1.5]) == [2.0, 3.0]
    with pytest.raises(AssertionError):
        adapted_spectrum([1.0], [1.0, 2.0])


def test_spectrum_figure_has_both_curves_and_the_change():
    figure = plot_spectrum([4.0, 2.0], [0.5, 1.5])
    assert [trace.name for trace in figure.data] == ["σ", "σ⊙z", "z − 1"]
    assert list(figure.data[2].y) == [-0.5, 0.5]

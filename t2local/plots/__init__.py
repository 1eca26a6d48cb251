"""Plain values in, plotly figures out; the only package that imports plotly."""

from t2local.plots.bars import plot_dispatch, plot_mixture
from t2local.plots.weights import plot_heatmap, plot_spectrum

__all__ = ["plot_dispatch", "plot_heatmap", "plot_mixture", "plot_spectrum"]

"""Plain values in, plotly figures out; the only package that imports plotly."""

from t2local.plots.bars import (
    plot_accuracy,
    plot_best,
    plot_cloud,
    plot_dispatch,
    plot_memory,
    plot_mixture,
)
from t2local.plots.curves import plot_layers, plot_reward, plot_runs, plot_vitals
from t2local.plots.weights import plot_heatmap, plot_likeness, plot_reward_curves, plot_spectrum

__all__ = [
    "plot_accuracy",
    "plot_best",
    "plot_cloud",
    "plot_dispatch",
    "plot_heatmap",
    "plot_layers",
    "plot_likeness",
    "plot_memory",
    "plot_mixture",
    "plot_reward",
    "plot_reward_curves",
    "plot_runs",
    "plot_spectrum",
    "plot_vitals",
]

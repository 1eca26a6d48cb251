"""The plots accordion: dispatch, mixture, heat map of |z − 1|, spectrum of a chosen matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from t2local import plots
from t2local.svf.mixing import Mixture
from t2local.ui.messages import term


@dataclass(frozen=True)
class PlotsPanel:
    accordion: gr.Accordion
    matrix: gr.Dropdown
    dispatch: gr.Plot
    mixture: gr.Plot
    heatmap: gr.Plot
    spectrum: gr.Plot

    @property
    def outputs(self) -> list[Any]:
        return [self.matrix, self.dispatch, self.mixture, self.heatmap, self.spectrum]

    def draw(
        self, engine: Any, dispatch: Mapping[str, Any], mixture: Mixture, matrix: str | None
    ) -> dict[Any, Any]:
        """All four figures for the last dispatch and the present sliders."""
        names = engine.matrix_names()
        matrix = matrix if matrix in names else next(iter(names), None)
        sigma, z = (), ()
        if matrix is not None:
            spectrum = engine.spectrum(matrix, mixture)
            sigma, z = spectrum.sigma, spectrum.z
        alpha = {name: a * mixture.strength for name, a in mixture.alpha.items()}
        return {
            self.matrix: gr.Dropdown(choices=names, value=matrix),
            self.dispatch: plots.plot_dispatch(dispatch.get("probabilities") or {}),
            self.mixture: plots.plot_mixture(alpha),
            self.heatmap: plots.plot_heatmap(engine.deltas(mixture)),
            self.spectrum: plots.plot_spectrum(sigma, z),
        }


def create_plots_panel(accordion: gr.Accordion) -> PlotsPanel:
    """Four plots, each under one line that says what it shows."""
    _caption(f"{term('dispatch')}: how likely each kind of task was for the last prompt.")
    dispatch = gr.Plot(show_label=False, container=False, elem_id="plot-dispatch")
    _caption(f"{term('mixture')}: {term('α')} × {term('strength')}; the base model has the rest.")
    mixture = gr.Plot(show_label=False, container=False, elem_id="plot-mixture")
    _caption(f"{term('heat map')}: |{term('z')} − 1| by layer and matrix, where the model changes.")
    heatmap = gr.Plot(show_label=False, container=False, elem_id="plot-heatmap")
    _caption(f"One matrix: its {term('σ')} before, σ⊙{term('z')} after, and z − 1 by rank.")
    matrix = gr.Dropdown(
        [], label="matrix", show_label=False, container=False, elem_id="matrix", filterable=True
    )
    spectrum = gr.Plot(show_label=False, container=False, elem_id="plot-spectrum")
    return PlotsPanel(accordion, matrix, dispatch, mixture, heatmap, spectrum)


def _caption(html: str) -> None:
    gr.HTML(f'<p class="caption">{html}</p>', apply_default_css=False, js_on_load=None)

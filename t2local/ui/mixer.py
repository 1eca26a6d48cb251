"""The α sliders: one component whose value is `{expert: α}`, however many experts there are.

`input` fires while a slider moves, `release` when it is let go. Double click sets 0.
"""

from collections.abc import Mapping, Sequence

import gradio as gr

from t2local.engine.requests import ExpertInfo
from t2local.plots import theme
from t2local.ui.assets import asset

LOW, HIGH, STEP = -1.0, 2.0, 0.05
NONE = "This model has no experts yet: the base model answers. Train one in the tab Train."
TEMPLATE = """
${Object.entries(value).map(([name, alpha]) => {
  const safe = name.replace(/[&<>"']/g, (c) => "&#" + c.charCodeAt(0) + ";");
  const shown = (Math.abs(alpha) < 0.005 ? 0 : alpha).toFixed(2).replace("-", "−");
  return `<label class="mix" style="--c:${colours[name] ?? colours.base}">
    <span class="mix-name">${safe}</span>
    <span class="rail"><i style="left:calc(8px + (100% - 16px) * ${(Math.min(alpha, 0) + 1) / 3});
      width:calc((100% - 16px) * ${Math.abs(alpha) / 3})"></i>
    <input type="range" min="LOW" max="HIGH" step="STEP" value="${alpha}" data-expert="${safe}"
      aria-label="α for ${safe}"></span><output>${shown}</output></label>`;
}).join("")}
${Object.keys(value).length ? `<div class="mix rest" style="--c:${colours.base}">
  <span class="mix-name">base</span><span>the rest to 1</span><output>${
    (1 - Object.values(value).reduce((a, b) => a + b, 0)).toFixed(2).replace("-", "−")
  }</output></div>` : `<p class="quiet">${none}</p>`}
"""


def create_mixer() -> gr.HTML:
    template = TEMPLATE.replace("LOW", f"{LOW:g}").replace("HIGH", f"{HIGH:g}")
    return gr.HTML(
        {},
        html_template=template.replace("STEP", f"{STEP:g}"),
        js_on_load=asset("mixer.js"),
        apply_default_css=False,
        elem_id="mixer",
        colours={"base": theme.BASE_COLOUR},
        none="The experts of the loaded model appear here.",
    )


def mixer_update(experts: Sequence[ExpertInfo], alpha: Mapping[str, float]) -> gr.HTML:
    """A slider for each skill, at `alpha` (0 where it names none)."""
    names = [expert.name for expert in experts if expert.kind == "skill" and expert.usable]
    colours = {name: theme.colour(name) for name in (*names, "base")}
    value = {name: round(alpha.get(name, 0.0), 3) for name in names}
    return gr.HTML(value=value, colours=colours, none=NONE)


def read_alpha(value: Mapping[str, float] | None) -> dict[str, float]:
    """The component's value as α's within the sliders' range; a 0 is left out."""
    alpha = {str(n): min(HIGH, max(LOW, float(a))) for n, a in (value or {}).items()}
    return {name: a for name, a in alpha.items() if a != 0.0}

"""The numbers behind a run as a form, derived from the fields of `TrainConfig`.

Each name is written once, in the dataclass; a new field appears here by itself.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

import gradio as gr

from t2local.training.config import (
    BASELINES,
    KL_ESTIMATORS,
    LORA,
    NEXT_TOKEN,
    POLICY_GRADIENT,
    SVF,
    TrainConfig,
)
from t2local.ui.messages import term

CHOICES = {"baseline": BASELINES, "kl_estimator": KL_ESTIMATORS}
WAYS = {  # the paper's comparison: method, objective
    "SVF by reward": (SVF, POLICY_GRADIENT),
    "SVF by imitation": (SVF, NEXT_TOKEN),
    "LoRA by reward": (LORA, POLICY_GRADIENT),
    "LoRA by imitation": (LORA, NEXT_TOKEN),
}
USUAL = next(iter(WAYS))
WAYS_EXPLAINED = (
    f'<p class="caption">{term("policy gradient", "By reward")}: it tries, and what earns more '
    f"becomes likelier. {term('imitation', 'By imitation')}: it copies your answers word for word. "
    f"{term('SVF')} grows an {term('expert')} that can be mixed; {term('LoRA')}, the usual "
    "adapter, is here to compare.</p>"
)
INFO = {
    "steps": "used with 'the steps below'",
    "samples_per_prompt": "answers to each prompt, compared with each other",
    "learning_rate": "how far each step moves z",
    "kl_coefficient": "above 0 keeps it near the base model",
    "max_new_tokens": "longest answer in training",
    "temperature": "above 1 tries more different answers",
    "lora_rank": "LoRA only",
    "lora_alpha": "LoRA only",
    "patience": "checks without a gain before it stops; 0 never stops early",
    "checkpoint_every": "steps that a crash may lose",
}
# The loaded model decides which matrices are adapted, the way decides method and objective, and the
# held-out share stands with the rows.
FIXED = ("targets", "method", "objective", "held_out_share")


@dataclass(frozen=True)
class TrainForm:
    """A component for each field; `read` is the way back. `way`: method and objective."""

    components: Mapping[str, Any]
    way: gr.Radio

    @property
    def all(self) -> tuple[Any, ...]:
        return (*self.components.values(), self.way)

    def read(self, values: Mapping[Any, Any]) -> TrainConfig:
        """Raises the configuration's own `T2LocalError`s; an emptied field takes its default."""
        given = {name: values[part] for name, part in self.components.items()}
        kinds = {f.name: f.type for f in fields(TrainConfig)}
        method, objective = WAYS[values[self.way] or USUAL]
        numbers = {n: kinds[n](v) for n, v in given.items() if v is not None}
        return TrainConfig(method=method, objective=objective, **numbers)


def way_of(config: TrainConfig) -> str:
    """The name in `WAYS` of a configuration's method and objective."""
    ways = {way: name for name, way in WAYS.items()}
    return ways[config.method, config.objective]


def create_train_form(held_out_share: gr.Slider) -> TrainForm:
    """Lay the form out; called inside its accordion. `held_out_share`: the one beside the rows."""
    way = gr.Radio(
        [(f"{USUAL} (recommended)", USUAL), *((way, way) for way in list(WAYS)[1:])],
        value=USUAL,
        label="how it learns",
        elem_id="train-way",
    )
    gr.HTML(WAYS_EXPLAINED, elem_id="train-ways", apply_default_css=False, js_on_load=None)
    with gr.Row(elem_id="train-numbers"):
        shown = (f for f in fields(TrainConfig) if f.name not in FIXED)
        components = {field.name: _number(field) for field in shown}
    return TrainForm({**components, "held_out_share": held_out_share}, way)


def _number(field: Field) -> Any:
    looks = {
        "label": field.name.replace("_", " "),
        "info": INFO.get(field.name),
        "elem_id": f"train-{field.name}",
        "min_width": 150,
    }
    if field.type is bool:
        return gr.Checkbox(field.default, **looks)
    if field.type is str and field.name in CHOICES:
        return gr.Dropdown(list(CHOICES[field.name]), value=field.default, **looks)
    if field.type is str:
        return gr.Textbox(field.default, **looks)
    return gr.Number(field.default, precision=0 if field.type is int else None, **looks)

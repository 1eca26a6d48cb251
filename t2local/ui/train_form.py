"""The numbers behind a run as a form, derived from the fields of `TrainConfig`.

Each name is written once, in the dataclass; a new field appears here by itself.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

import gradio as gr

from t2local.training.config import BASELINES, KL_ESTIMATORS, OBJECTIVES, TrainConfig

CHOICES = {"baseline": BASELINES, "kl_estimator": KL_ESTIMATORS, "objective": OBJECTIVES}
INFO = {
    "steps": "used with 'the steps below'",
    "samples_per_prompt": "answers to each prompt, compared with each other",
    "learning_rate": "how far each step moves z",
    "kl_coefficient": "above 0 keeps it near the base model",
    "max_new_tokens": "longest answer in training",
    "temperature": "above 1 tries more different answers",
    "patience": "checks without a gain before it stops; 0 never stops early",
    "checkpoint_every": "steps that a crash may lose",
}
FIXED = ("targets",)  # the loaded model decides which matrices are adapted


@dataclass(frozen=True)
class TrainForm:
    """A component for each field; `read` is the way back."""

    components: Mapping[str, Any]

    def read(self, values: Mapping[Any, Any]) -> TrainConfig:
        """Raises the configuration's own `T2LocalError`s; an emptied field takes its default."""
        given = {name: values[part] for name, part in self.components.items()}
        kinds = {f.name: f.type for f in fields(TrainConfig)}
        return TrainConfig(**{n: kinds[n](v) for n, v in given.items() if v is not None})


def create_train_form() -> TrainForm:
    """Lay the form out; called inside its accordion."""
    with gr.Row(elem_id="train-numbers"):
        shown = (f for f in fields(TrainConfig) if f.name not in FIXED)
        return TrainForm({field.name: _component(field) for field in shown})


def _component(field: Field) -> Any:
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

"""Forms made from dataclasses: sampling and the finer gains.

Each field's name is written once, in the dataclass; here is only how it looks. A field without an
entry in `LOOKS` fails at once, so a new one cannot be forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from t2local.models.decode.sampling import Sampling
from t2local.svf.mixing import Gains


@dataclass(frozen=True)
class Look:
    """`low`, `high`, `step` of a slider; no `low`: a number to type, or a tick where `ticked`."""

    label: str
    info: str = ""
    low: float | None = None
    high: float = 2.0
    step: float = 0.05
    ticked: bool = False


LOOKS = {
    "temperature": Look("temperature", "0 always takes the likeliest token", 0.0, 2.0),
    "top_p": Look("top-p", "only the likeliest tokens that make up this share", 0.05, 1.0),
    "top_k": Look("top-k", "only this many likeliest tokens; 0 is all", 0, 200, 1),
    "repetition_penalty": Look("repetition penalty", "above 1 discourages repeats", 0.8, 1.8),
    "max_new_tokens": Look("longest answer", "in tokens", 16, 2048, 16),
    "seed": Look("seed", "the same seed, the same answer; empty is a new one each time"),
    "exact": Look(
        "exact answers",
        "on a processor, long answers come from weights rounded to 8 bits; ticked they do not, and "
        "take about three times as long",
        ticked=True,
    ),
    "attention": Look("attention", low=0.0),
    "mlp": Look("MLP", low=0.0),
    "early": Look("early layers", low=0.0),
    "mid": Look("middle layers", low=0.0),
    "late": Look("late layers", low=0.0),
    "large": Look("large σ", low=0.0),
    "middle": Look("middle σ", low=0.0),
    "small": Look("small σ", low=0.0),
}


class Form:
    """Components for each field of a dataclass, and the way back to a value of it."""

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.components = {f.name: _component(f.name, f.default) for f in fields(cls)}

    def read(self, values: Mapping[Any, Any]) -> Any:
        """The dataclass from a callback's inputs; raises its own `T2LocalError`s."""
        given = {name: values[part] for name, part in self.components.items()}
        defaults = {f.name: f.default for f in fields(self.cls)}
        return self.cls(**{n: defaults[n] if v is None else _typed(n, v) for n, v in given.items()})

    def show(self, value: Any) -> dict[Any, Any]:
        """Updates that put a value of the dataclass into the form."""
        return {part: getattr(value, name) for name, part in self.components.items()}


def create_sampling() -> Form:
    return Form(Sampling)


def create_gains() -> Form:
    return Form(Gains)


def _component(name: str, default: Any) -> gr.Slider | gr.Number | gr.Checkbox:
    look = LOOKS[name]
    if look.ticked:
        return gr.Checkbox(default, label=look.label, info=look.info, elem_id=f"set-{name}")
    if look.low is None:
        return gr.Number(
            default, label=look.label, info=look.info, precision=0, minimum=0, elem_id=f"set-{name}"
        )
    return gr.Slider(
        look.low,
        look.high,
        default,
        step=look.step,
        label=look.label,
        info=look.info or None,
        elem_id=f"set-{name}",
        buttons=["reset"],
    )


def _typed(name: str, value: Any) -> Any:
    if LOOKS[name].ticked:
        return bool(value)
    whole = LOOKS[name].low is None or LOOKS[name].step == int(LOOKS[name].step)
    return int(value) if whole else float(value)

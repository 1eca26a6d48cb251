"""Forms made from dataclasses: sampling, the finer gains, and the numbers behind a run.

Also the one box that several tabs share: a yes to programs that nothing here contains.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from t2local.errors import T2LocalError
from t2local.models.decode.sampling import Sampling
from t2local.svf.mixing import Gains
from t2local.tasks.sandbox import (
    RISK,
    allow_unsafe_code,
    is_unsafe_code_allowed,
    protection,
)
from t2local.tasks.sandbox.process import UNSAFE
from t2local.training.config import (
    BASELINES,
    KL_ESTIMATORS,
    LORA,
    NEXT_TOKEN,
    POLICY_GRADIENT,
    PROMPT_ORDERS,
    ROLLOUTS,
    SVF,
    TrainConfig,
)
from t2local.ui.style import PAGE
from t2local.untrusted import DEEPEST, encodes, typed, word

CHOICES = {
    "baseline": BASELINES,
    "kl_estimator": KL_ESTIMATORS,
    "rollouts": ROLLOUTS,
    "prompt_order": PROMPT_ORDERS,
}
WAYS = {  # the paper's comparison: method, objective
    "SVF by reward": (SVF, POLICY_GRADIENT),
    "SVF by imitation": (SVF, NEXT_TOKEN),
    "LoRA by reward": (LORA, POLICY_GRADIENT),
    "LoRA by imitation": (LORA, NEXT_TOKEN),
}
USUAL = next(iter(WAYS))
INFO = {
    "steps": "used with 'the steps below'",
    "samples_per_prompt": "answers to each prompt, compared with each other",
    "prompt_order": "by pass rate: prompts that are right now and then come more often",
    "redraws": "other prompts for those whose answers all earn the same; 0 for none",
    "rollouts": "quick: answers may come from rounded weights, and are weighted for it",
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
    gr.HTML(
        PAGE.render("train.html", "ways"),
        elem_id="train-ways",
        apply_default_css=False,
        js_on_load=None,
    )
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


# --- What a page may send: each component's values by type, whatever the component itself takes.

LARGEST = 2.0**53  # up to here a browser counts in whole numbers
LONGEST = 16 * 2**20  # characters of a text
Choice = str | int | float | None
SENT: Mapping[type, Any] = {
    gr.Textbox: str | None,
    gr.BrowserState: str | None,
    gr.Number: float | None,
    gr.Slider: float,
    gr.Checkbox: bool | None,
    gr.Radio: Choice,
    gr.Dropdown: Choice,
    gr.CheckboxGroup: tuple[str | int | float, ...],
    gr.HTML: Mapping[str, float] | None,  # the mixer, the only one that is read
}


def check_sent(components: Sequence[Any], values: Sequence[Any]) -> None:
    """Raise `T2LocalError` for a value that no page sends."""
    for component, value in zip(components, values, strict=False):
        kind = SENT.get(type(component))
        if getattr(component, "multiselect", False):
            kind = SENT[gr.CheckboxGroup] | None
        try:
            if kind is not None:
                typed(kind, value)
            _check_plain(value)
        except ValueError as error:
            label = getattr(component, "label", None) or "this page"
            raise T2LocalError(
                f"What was sent for '{label}' is not what the page sends ({error}); reload the "
                "page and try it again."
            ) from error


def check_own_files(values: Sequence[Any], folder: Path) -> None:
    """Raise `T2LocalError` for a file that was not uploaded to this page, into `folder`.

    gradio itself looks only whether a file is among the uploads of the whole process, which the
    pages of several people share.
    """
    own = folder.resolve()
    for path in _paths_in(values):
        if not (Path(path).is_absolute() and Path(path).resolve().is_relative_to(own)):
            raise T2LocalError(
                f"'{word(path)}' was not uploaded to this page; add the file here first."
            )


def _paths_in(value: Any) -> Iterator[str]:
    """What gradio takes for the path of a file, however deep; `check_sent` bounds that."""
    if isinstance(value, Mapping):
        if isinstance(path := value.get("path"), str) and path:
            yield path
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _paths_in(part)


def _check_plain(value: Any) -> None:
    """Raise `ValueError` for numbers that count nothing, and texts that cannot be written down."""
    level = [value]
    for _ in range(DEEPEST):
        deeper: list[Any] = []
        for part in level:
            if isinstance(part, Mapping):
                deeper += [*part, *part.values()]
            elif isinstance(part, list):
                deeper += part
            elif isinstance(part, str):
                if len(part) > LONGEST or not encodes(part):
                    raise ValueError("a text that is too long, or holds half of a character")
            elif isinstance(part, int | float) and not abs(part) <= LARGEST:
                raise ValueError("a number that is none, or far too large")
        level = deeper
        if not level:
            return
    raise ValueError(f"more than {DEEPEST} lists and objects inside one another")


# --- Forms made from dataclasses: sampling and the finer gains.
#
# Each field's name is written once, in the dataclass; here is only how it looks. A field without
# an entry in `LOOKS` fails at once, so a new one cannot be forgotten.


@dataclass(frozen=True)
class Look:
    """`low`, `high`, `step` of a slider; no `low`: a number to type, or a tick where `ticked`.

    What is typed beside a slider is used as it is within `low` and `high`.
    """

    label: str
    info: str = ""
    low: float | None = None
    high: float = 2.0
    step: float = 0.05
    ticked: bool = False
    least: int = 0  # of a number to type


LOOKS = {
    "temperature": Look("temperature", "0 always takes the likeliest token", 0.0, 2.0),
    "top_p": Look("top-p", "only the likeliest tokens that make up this share", 0.05, 1.0),
    "top_k": Look("top-k", "only this many likeliest tokens; 0 is all", 0, 200, 1),
    "repetition_penalty": Look("repetition penalty", "above 1 discourages repeats", 0.8, 1.8),
    "max_new_tokens": Look("longest answer", "in tokens", least=1),
    "seed": Look("seed", "the same seed, the same answer; empty is a new one each time"),
    "exact": Look(
        "exact answers",
        "on a processor, long answers come from weights rounded to 8 bits; ticked they do not, and "
        "take several times as long",
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
        return {part: _within(name, getattr(value, name)) for name, part in self.components.items()}


def create_sampling() -> Form:
    return Form(Sampling)


def create_gains() -> Form:
    return Form(Gains)


def create_consent(tab: str) -> gr.Checkbox:
    """A yes to programs that nothing contains; hidden until `bind_consent` has a reason."""
    return gr.Checkbox(
        is_unsafe_code_allowed(), label="Run programs without walls around them", visible=False,
        info=f"This system has none. {RISK}", elem_id=f"{tab}-consent",
    )  # fmt: skip


def bind_consent(
    box: gr.Checkbox, chosen: Sequence[gr.Component], runs: Callable[..., bool]
) -> Dependency:
    """Show `box` where `runs(*values of chosen)` and nothing here would contain a program.

    Gives the event of its being ticked, for what comes after it.
    """

    def asked(*values: Any) -> dict[str, Any]:
        needed = protection().mode == UNSAFE and runs(*values)
        return gr.update(visible=needed, value=is_unsafe_code_allowed())

    for part in chosen:
        part.change(asked, list(chosen), box, show_progress="hidden")
    return box.input(allow_unsafe_code, box, None, show_progress="hidden")


def _component(name: str, default: Any) -> gr.Slider | gr.Number | gr.Checkbox:
    look = LOOKS[name]
    if look.ticked:
        return gr.Checkbox(default, label=look.label, info=look.info, elem_id=f"set-{name}")
    if look.low is None:
        return gr.Number(
            default, label=look.label, info=look.info, precision=0, minimum=look.least,
            elem_id=f"set-{name}",
        )  # fmt: skip
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


def _within(name: str, value: Any) -> Any:
    """What the component can show: a chat from elsewhere may have been asked with more."""
    look = LOOKS[name]
    return value if look.low is None or look.ticked else min(max(value, look.low), look.high)


def _typed(name: str, value: Any) -> Any:
    if LOOKS[name].ticked:
        return bool(value)
    whole = LOOKS[name].low is None or LOOKS[name].step == int(LOOKS[name].step)
    return int(value) if whole else float(value)

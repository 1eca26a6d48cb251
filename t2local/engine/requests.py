"""What the page, the command line and an API ask the engine for, and what it answers.

Plain frozen values, and their JSON for chats kept on disk, under the fields' own names. They know
nothing of a model, a page or a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from t2local.adapt.dispatch import Controls
from t2local.models.decode.sampling import Sampling
from t2local.svf.mixing import Gains, Mixture
from t2local.untrusted import typed


@dataclass(frozen=True)
class ChatRequest:
    """One question to the engine: the chat so far and how to answer it.

    `messages`: dicts of `role` and `content`, the system prompt first where there is one; a user's
    may name pictures in `images` (paths or data URIs), for a vision-language model.
    `compare`: the base model answers beside the adapted one. `continue_last`: the last message is
    the assistant's and is carried on.
    """

    messages: tuple[Mapping[str, Any], ...]
    controls: Controls = field(default_factory=Controls)
    sampling: Sampling = field(default_factory=Sampling)
    compare: bool = False
    continue_last: bool = False


@dataclass(frozen=True)
class NextTokens:
    """The likeliest next tokens of both models as `(text, probability)`, falling."""

    base: tuple[tuple[str, float], ...]
    adapted: tuple[tuple[str, float], ...]
    seconds: float


@dataclass(frozen=True)
class Spectrum:
    """One matrix: `sigma` [r] falling, `z` [r]."""

    sigma: tuple[float, ...]
    z: tuple[float, ...]


@dataclass(frozen=True)
class EngineStatus:
    """Where the engine stands; `error` is one sentence when loading failed."""

    stage: str
    fraction: float = 0.0
    ready: bool = False
    error: str | None = None
    model_name: str = ""
    dtype: str = ""
    quantization: str = "none"
    resident_bytes: int = 0  # of the model
    device: str = "cpu"
    context_length: int = 0
    basis_bytes: int = 0  # part of `resident_bytes`
    copies_bytes: int = 0  # part of it too: rebuilt matrices and 8-bit copies, at this moment
    basis: str = ""  # as in `models.storage`
    targets: str = "all"
    sees: bool = False  # pictures
    base: bool = False  # no chat template: it goes on with a text
    source: str = ""  # as `--model` takes it
    why: str = ""  # this model and no other
    note: str = ""  # a sentence about a model that could not be loaded in its place
    remarks: tuple[str, ...] = ()  # how it runs here, where that is not as one would expect
    beside: str = ""  # a sentence about another program on the same home, while there is one
    serial: int = 0  # how many models were opened before
    memory_bytes: int = 0  # of the whole process, or on the GPU, at this moment


@dataclass(frozen=True)
class ExpertInfo:
    """An expert in words; `held_out` has `n`, `base`, `trained`, `ci95_difference`.

    `forgetting`: the same on other experts' tasks, each with its `task`.
    """

    name: str
    description: str = ""
    kind: str = "skill"  # "skill" | "classifier"
    held_out: Mapping[str, Any] | None = None
    shipped: bool = True
    size_bytes: int = 0
    warning: str = ""
    usable: bool = True  # False: refused, and `warning` says why
    forgetting: Sequence[Mapping[str, Any]] = ()
    draft: bool = False  # of a run in progress, without a file
    prompts: int = 0  # in its prompt print: 0 means that similarity cannot find it
    overlap: str = ""  # a sentence where its ground is another expert's too
    versions: int = 0  # earlier ones that are kept
    prefers: bool = False  # it was measured by which of two answers it prefers


def mixture_json(mixture: Mixture) -> dict[str, Any]:
    return {
        "alpha": dict(mixture.alpha),
        "strength": mixture.strength,
        "gains": asdict(mixture.gains),
        **({"by_matrix": dict(mixture.by_matrix)} if mixture.by_matrix else {}),
    }


def mixture_from_json(values: Mapping[str, Any]) -> Mixture:
    """The inverse of `mixture_json`; absent parts take their defaults."""
    return Mixture(
        alpha={str(name): float(a) for name, a in values.get("alpha", {}).items()},
        strength=float(values.get("strength", 1.0)),
        gains=Gains(**{n: float(g) for n, g in known(Gains, values.get("gains", {})).items()}),
        by_matrix={
            str(matrix): {str(name): float(a) for name, a in alpha.items()}
            for matrix, alpha in values.get("by_matrix", {}).items()
        },
    )


def controls_json(controls: Controls) -> dict[str, Any]:
    """Everything but `override`, which belongs to one answer alone."""
    return {
        "strategy": controls.strategy,
        "soft": controls.soft,
        "above_chance": controls.threshold,
        "mixture": mixture_json(controls.mixture),
    }


def controls_from_json(values: Mapping[str, Any]) -> Controls:
    return Controls(
        strategy=values.get("strategy", Controls.strategy),
        soft=bool(values.get("soft", True)),
        threshold=_threshold(values),
        mixture=mixture_from_json(values.get("mixture", {})),
    )


def _threshold(values: Mapping[str, Any]) -> float:
    """Of older chats it is a probability, by which one of four kinds was chosen."""
    if "above_chance" in values or "threshold" not in values:
        return float(values.get("above_chance", Controls.threshold))
    before = float(values["threshold"])
    if before == 0.4:  # the default
        return Controls.threshold
    return 0.0 if 0.0 <= before < 0.25 else (before - 0.25) / 0.75


def sampling_json(sampling: Sampling) -> dict[str, Any]:
    return asdict(sampling)


def sampling_from_json(values: Mapping[str, Any]) -> Sampling:
    return typed(Sampling, dict(values), "sampling")


def known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `values` that are fields of `cls`; a newer file may have others."""
    names = {f.name for f in fields(cls)}
    return {name: value for name, value in values.items() if name in names}

"""An expert: one `z` for every adapted matrix, with the card that says where it comes from.

Also the rule for its name, and the stamp that ties it to the weights it was made for.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypedDict

import torch

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.prompt_print import PromptPrint
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.svf.mixing import Z
from t2local.untrusted import check_encodes

KINDS = SKILL, CLASSIFIER = "skill", "classifier"


@dataclass(frozen=True)
class HeldOut:
    """Accuracy on held-out rows before and after training, on the same `n` prompts.

    `ci95_difference`: the 95 % interval of `trained − base`, paired.
    """

    n: int
    base: float
    trained: float
    ci95_difference: tuple[float, float]
    task: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ci95_difference": list(self.ci95_difference)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HeldOut":
        """Raises `KeyError`, `TypeError` or `ValueError` for what is no measurement."""
        base, trained, low, high = (
            float(value)
            for value in (values["base"], values["trained"], *values["ci95_difference"])
        )
        if not all(map(math.isfinite, (base, trained, low, high))):
            raise ValueError("a measurement that is not finite")
        return cls(int(values["n"]), base, trained, (low, high), str(values.get("task", "")))


class Shares(TypedDict):
    """The numbers of a `HeldOut`."""

    n: int
    base: float
    trained: float
    ci95_difference: tuple[float, float]


class Measured(Shares, total=False):
    """`HeldOut.as_dict`, as a card has it."""

    task: str


class Origin(TypedDict, total=False):
    """Of an expert that was taken over from another model (`experts.transfer`)."""

    from_model: str
    from_quantization: str
    order: str
    resampled: int


class TrainingCard(TypedDict, total=False):
    """What the app reads of how an expert came to be; a card may say more."""

    steps: int
    rows: int | Mapping[str, int]  # trained on, or how many for what
    curve: tuple[float, ...]  # mean reward a step
    held_out: Measured | None
    forgetting: tuple[Measured, ...]
    quantization: str
    transferred: Origin
    data_sha256: str
    run: str


@dataclass(frozen=True)
class Expert:
    """`z`: matrix name -> float32 `[r]`. `training`: what made it (steps, data hash, command, ...).

    `kind`: "skill" experts are mixed into answers; a "classifier" only decides in pass 1. `labels`:
    what either chooses among, empty for a skill that writes. `basis_fingerprint`: of the matrices
    in `z`. `sigma_check`: matrix name -> its three largest singular values, compared within a
    tolerance when the expert is loaded. `prompt_print`: of prompts it was trained on, by which the
    strategy *similarity* finds it; None: not taken yet.
    """

    name: str
    base_model: str
    basis_fingerprint: str
    z: Z
    description: str = ""
    reward: str = ""
    license: str = "Apache-2.0"
    training: Mapping[str, Any] = field(default_factory=dict)
    kind: str = SKILL
    labels: tuple[str, ...] = ()
    sigma_check: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    prompt_print: PromptPrint | None = None

    @property
    def held_out(self) -> HeldOut | None:
        """What was measured on held-out data, or None for an expert without a measurement."""
        values = self.training.get("held_out")
        return HeldOut.from_dict(values) if values else None

    @property
    def forgetting(self) -> tuple[HeldOut, ...]:
        """The same measurement on other experts' tasks: what training cost there."""
        return tuple(HeldOut.from_dict(values) for values in self.training.get("forgetting", ()))

    @property
    def curve(self) -> tuple[float, ...]:
        """Mean reward of each training step, where the card has it."""
        return tuple(float(value) for value in self.training.get("curve", ()))

    @property
    def size(self) -> int:
        """How many numbers were trained."""
        return sum(row.numel() for row in self.z.values())

    @property
    def rms(self) -> float:
        """Root mean square of `z − 1` over all matrices: how far from the base model."""
        flat = torch.cat([row.flatten() for row in self.z.values()]) - 1
        return float(flat.square().mean().sqrt())


# --- Names: one rule for training, renaming, copying and importing.
#
# A name is a file's name and a label of the dispatcher.

# What pass 1 may have chosen instead of an expert: the base model, no subject, or the strategy
# itself where it asks nothing. `adapt` takes the words from here.
RESERVED = ("base", "other", "manual", "few-shot")
LONGEST = 64  # characters; with its ending it is a file's name everywhere


def check_name(name: str) -> str:
    """Give `name` back. Raises `T2LocalError` for one that cannot be an expert's."""
    check_encodes(name, "the expert's name")
    if name.casefold() in RESERVED:
        raise T2LocalError(
            f"'{name}' already means something to the dispatcher; choose another name."
        )
    if not name.strip() or paths.slug(name) != name:
        raise T2LocalError(
            f"'{name}' cannot be an expert's name; "
            "use letters, digits, dots, dashes and underscores."
        )
    if len(name) > LONGEST:
        raise T2LocalError(
            f"The name '{name[:20]}…' has {len(name)} characters; use {LONGEST} at most."
        )
    return name


def is_taken(name: str, taken: Collection[str]) -> bool:
    """Whether two files of these names would be one where capitals do not count."""
    return name.casefold() in {other.casefold() for other in taken}


def free_name(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or `wanted-2`, `wanted-3`, ... where it is taken or cannot be a name."""
    stem = paths.slug(wanted)[: LONGEST - 5].rstrip("-.") or "expert"
    if not is_taken(stem, (*taken, *RESERVED)):
        return stem
    number = 2
    while is_taken(f"{stem}-{number}", taken):
        number += 1
    return f"{stem}-{number}"


def check_free(name: str, taken: Collection[str]) -> str:
    """`name` itself. Raises `T2LocalError` where it cannot be a name or is one already."""
    check_name(name)
    if is_taken(name, taken):
        raise T2LocalError(
            f"There is an expert '{name}' already; choose another name, such as "
            f"'{free_name(name, taken)}'."
        )
    return name


# --- The stamp: fingerprint, singular values, quantisation.

TRANSFERRED = "transferred"  # the key in an expert's card
IN_ORDER = "in-order"

SIGMA_CHECKED = 6  # matrices whose largest singular values travel with an expert


def stamped(expert: Expert, loaded: LoadedModel, svf: SVFModel) -> Expert:
    """`expert` as one of `loaded`: its `z` on the CPU, with what identifies the weights."""
    step = max(1, len(svf.matrix_names) // SIGMA_CHECKED)
    sigma = svf.singular_values
    return replace(
        expert,
        base_model=loaded.name,
        basis_fingerprint=svf.fingerprint(expert.z),
        z={m: row.detach().to("cpu", torch.float32, copy=True) for m, row in expert.z.items()},
        training={**expert.training, "quantization": loaded.quantization},
        sigma_check={
            m: tuple(sigma[m][:3].tolist()) for m in svf.matrix_names[::step][:SIGMA_CHECKED]
        },
    )


def transfer_warning(expert: Expert) -> str:
    """One sentence to show beside a transferred expert; "" for one trained where it is used."""
    label = expert.training.get(TRANSFERRED)
    if not isinstance(label, Mapping):
        return ""
    resized = f", {label['resampled']} matrices resampled" if label.get("resampled") else ""
    known = expert.held_out is not None
    measured = "its card says what was measured" if known else "its accuracy was not measured here"
    return (
        f"'{expert.name}' is transferred: trained on {label.get('from_model', 'another model')} "
        f"(quantization {label.get('from_quantization', 'unknown')}), taken over "
        f"{label.get('order', IN_ORDER)}{resized}; {measured}."
    )

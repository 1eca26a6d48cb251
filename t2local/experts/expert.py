"""An expert: one `z` for every adapted matrix, with the card that says where it comes from.

A frozen value without I/O. The paper's *expert* (section 3.2) is exactly `z`.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from t2local.svf.mixing import Z

SKILL, CLASSIFIER = "skill", "classifier"


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

    @property
    def helps(self) -> bool:
        """True where the whole interval of the difference lies above zero."""
        return self.ci95_difference[0] > 0

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


@dataclass(frozen=True)
class Expert:
    """`z`: matrix name -> float32 `[r]`. `training`: what made it (steps, data hash, command, ...).

    `kind`: "skill" experts are mixed into answers; a "classifier" only decides in pass 1, among
    `labels`. `basis_fingerprint`: of the matrices in `z`. `sigma_check`: matrix name -> its three
    largest singular values, compared within a tolerance when the expert is loaded.
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

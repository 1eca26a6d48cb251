"""Two or more experts side by side: what they are worth, how far they go, how alike they are.

Likeness is the cosine of their `z − 1`, over all matrices and by layer: 1 turns the same directions
the same way, 0 has nothing in common, −1 is the opposite. A matrix that an expert does not name
has `z = 1` and counts as no change. Pure functions of `Expert`s; not in the paper.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from t2local.errors import T2LocalError
from t2local.experts.expert import Expert, HeldOut
from t2local.svf.basis import depth_of
from t2local.svf.mixing import Z


@dataclass(frozen=True)
class Facts:
    """One expert's column. `rows`: trained on; `numbers`: of `z`; `curve`: reward a step."""

    name: str
    kind: str
    base_model: str
    reward: str
    steps: int | None
    rows: int | None
    numbers: int
    rms: float
    rms_by_layer: Mapping[int, float]
    held_out: HeldOut | None
    forgetting: tuple[HeldOut, ...]
    curve: tuple[float, ...]


@dataclass(frozen=True)
class Likeness:
    """Cosine of `z − 1` of two experts; None where one of them changes nothing."""

    first: str
    second: str
    overall: float | None
    by_layer: Mapping[int, float | None]


@dataclass(frozen=True)
class Comparison:
    experts: tuple[Facts, ...]
    likeness: tuple[Likeness, ...]

    def as_dict(self) -> dict:
        """For JSON; layers become strings there."""
        return asdict(self)


def compare(experts: Sequence[Expert]) -> Comparison:
    """Every expert's facts and every pair's likeness.

    Raises `T2LocalError` for fewer than two, or for experts of different models.
    """
    if len({expert.name for expert in experts}) < 2:
        raise T2LocalError("A comparison needs two different experts; name at least two.")
    for one, other in itertools.pairwise(experts):
        _check_comparable(one, other)
    pairs = itertools.combinations(experts, 2)
    return Comparison(
        tuple(facts(expert) for expert in experts),
        tuple(likeness(one, other) for one, other in pairs),
    )


def facts(expert: Expert) -> Facts:
    training = expert.training
    rows = training.get("rows")
    by_layer = {layer: (_flat(z) - 1) for layer, z in _layers(expert.z).items()}
    return Facts(
        name=expert.name,
        kind=expert.kind,
        base_model=expert.base_model,
        reward=expert.reward,
        steps=training.get("steps"),
        rows=rows.get("train") if isinstance(rows, Mapping) else rows,
        numbers=expert.size,
        rms=expert.rms,
        rms_by_layer={k: float(change.square().mean().sqrt()) for k, change in by_layer.items()},
        held_out=expert.held_out,
        forgetting=expert.forgetting,
        curve=expert.curve,
    )


def likeness(one: Expert, other: Expert) -> Likeness:
    here, there = _layers(one.z), _layers(other.z)
    layers = sorted(here.keys() | there.keys())
    return Likeness(
        one.name,
        other.name,
        cosine(one.z, other.z),
        {layer: cosine(here.get(layer, {}), there.get(layer, {})) for layer in layers},
    )


def cosine(one: Z, other: Z) -> float | None:
    """The cosine between `z − 1` of two `z`s (`[r]` a matrix); None where one is 1 everywhere."""
    names = one.keys() & other.keys()
    dot = sum(float((one[n].double() - 1) @ (other[n].double() - 1)) for n in sorted(names))
    lengths = [float((_flat(z).double() - 1).norm()) if z else 0.0 for z in (one, other)]
    if not all(lengths):
        return None
    return max(-1.0, min(1.0, dot / (lengths[0] * lengths[1])))


def _check_comparable(one: Expert, other: Expert) -> None:
    shared = one.z.keys() & other.z.keys()
    if one.base_model != other.base_model or any(
        one.z[name].shape != other.z[name].shape for name in shared
    ):
        raise T2LocalError(
            f"'{one.name}' ({one.base_model}) and '{other.name}' ({other.base_model}) belong to "
            "different models; compare experts of one model."
        )


def _layers(z: Z) -> dict[int, Z]:
    """Layer number -> its matrices."""
    layers: dict[int, Z] = {}
    for name, row in z.items():
        layers.setdefault(depth_of(name) or 0, {})[name] = row
    return dict(sorted(layers.items()))


def _flat(z: Z) -> torch.Tensor:
    return torch.cat([row.flatten() for row in z.values()])

"""Mixtures of experts: from a few slider values to one `z` a matrix.

`z' = (1 − Σ_k α_k) · 1 + Σ_k α_k z_k`: the paper's `Σ_k α_k z_k` (section 3.2) whenever the α sum
to one. Departure: a remainder goes to the base model (`z = 1`), so that α = 0 *is* the base model
and a slider never shrinks the weights themselves. Gains then scale `z − 1` by module kind, depth
and band of the spectrum. Pure functions of tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch

from t2local.errors import T2LocalError
from t2local.svf.basis import depth_of, is_attention

LARGEST = 10.0  # of an α, a gain, a strength; far beyond it the model only babbles
Z = dict[str, torch.Tensor]  # matrix name -> [r] (or [B, r], [B, T, r])


def check_numbers(values: Mapping[str, float], what: str) -> None:
    """Raise `T2LocalError` for a weight that is no number of a sensible size."""
    for name, value in values.items():
        if not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise T2LocalError(
                f"The {what} '{name}' is {value!r}; "
                f"it must be a number from {-LARGEST:g} to {LARGEST:g}."
            )


@dataclass(frozen=True)
class Gains:
    """Factors on `z − 1`; 1 everywhere leaves a mixture as it is.

    `attention`/`mlp`: by module. `early`/`mid`/`late`: by third of the layers.
    `large`/`middle`/`small`: by third of the singular values, σ falling.
    """

    attention: float = 1.0
    mlp: float = 1.0
    early: float = 1.0
    mid: float = 1.0
    late: float = 1.0
    large: float = 1.0
    middle: float = 1.0
    small: float = 1.0

    def __post_init__(self) -> None:
        check_numbers({f.name: getattr(self, f.name) for f in fields(self)}, "gain")

    @property
    def neutral(self) -> bool:
        return all(getattr(self, f.name) == 1.0 for f in fields(self))


@dataclass(frozen=True)
class Mixture:
    """`alpha`: expert name -> weight (sliders: −1 to 2); `strength` multiplies every α.

    `by_matrix`: matrix name -> α of its own (the paper's *per layer* mixtures); a matrix that is
    not named there obeys `alpha`.
    """

    alpha: Mapping[str, float] = field(default_factory=dict)
    strength: float = 1.0
    gains: Gains = Gains()
    by_matrix: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for alpha in (self.alpha, *self.by_matrix.values()):
            check_numbers(alpha, "α")
        check_numbers({"of all": self.strength}, "strength")

    @property
    def is_base(self) -> bool:
        """True when this mixture is the base model whatever the experts are."""
        every = (self.alpha, *self.by_matrix.values())
        return self.strength == 0.0 or not any(a for alpha in every for a in alpha.values())

    @property
    def experts(self) -> tuple[str, ...]:
        """All experts that an α is given for."""
        every = (self.alpha, *self.by_matrix.values())
        return tuple(dict.fromkeys(name for alpha in every for name in alpha))

    def with_alpha(self, alpha: Mapping[str, float]) -> "Mixture":
        """Strength and gains as here, with one α an expert."""
        return replace(self, alpha=dict(alpha), by_matrix={})


def mix(zs: Sequence[Z], alpha: Sequence[float]) -> Z:
    """`(1 − Σα) + Σ α_k z_k`, matrix by matrix; a name missing in an expert means 1.

    `mix([z], [1.0])` is `z` bit for bit; `mix(zs, [0, ...])` is 1 bit for bit.
    """
    assert len(zs) == len(alpha), (len(zs), len(alpha))
    rest = 1.0 - sum(alpha)
    names = dict.fromkeys(name for z in zs for name in z)
    mixed: Z = {}
    for name in names:
        parts = [(a, z.get(name)) for z, a in zip(zs, alpha, strict=True)]
        constant = rest + sum(a for a, row in parts if row is None)
        total = sum(a * row for a, row in parts if row is not None)
        mixed[name] = total + constant if constant != 0.0 else total
    return mixed


def scale(z: Z, strength: float, gains: Gains) -> Z:
    """`1 + strength · gain · (z − 1)` with each gain of its matrix, depth and spectrum band."""
    if strength == 1.0 and gains.neutral:
        return z
    layers = 1 + max((depth_of(name) or 0 for name in z), default=0)
    by_depth = (gains.early, gains.mid, gains.late)
    by_band = (gains.large, gains.middle, gains.small)
    scaled: Z = {}
    for name, row in z.items():
        kind = gains.attention if is_attention(name) else gains.mlp
        third = 3 * (depth_of(name) or 0) // layers
        rank = row.shape[-1]
        band = torch.tensor(by_band, dtype=row.dtype, device=row.device)
        bands = band[3 * torch.arange(rank, device=row.device) // rank]  # [r]
        scaled[name] = 1 + (row - 1) * (strength * kind * by_depth[third]) * bands
    return scaled


def compose(experts: Mapping[str, Z], mixture: Mixture) -> Z:
    """The `z` of a mixture over named experts; `{}` (the base model) where every α is 0.

    `KeyError`s are a programmer's mistake: names are checked where users give them.
    """
    if mixture.is_base:
        return {}
    mixed = _mixed(experts, mixture.alpha)
    if mixture.by_matrix:
        matrices = dict.fromkeys(m for name in mixture.experts for m in experts[name])
        own = mixture.by_matrix
        parts = {m: _mixed(experts, own.get(m, mixture.alpha), m).get(m) for m in matrices}
        mixed = {m: row for m, row in parts.items() if row is not None}
    return scale(mixed, mixture.strength, mixture.gains)


def _mixed(experts: Mapping[str, Z], alpha: Mapping[str, float], matrix: str | None = None) -> Z:
    """All matrices, or `matrix` alone, under one α an expert."""
    chosen = {name: a for name, a in alpha.items() if a != 0.0}
    zs = [experts[name] for name in chosen]
    if matrix is not None:
        zs = [{m: row for m, row in z.items() if m == matrix} for z in zs]
    return mix(zs, list(chosen.values()))

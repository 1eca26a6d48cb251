"""The cross-entropy method over mixing weights α: sample, keep the elite, move there, again.

Defaults are those of PAPER's Table 6: population 32, elite share 0.2, α uniform at the start,
spread half the range, range [0, 1], ties broken by log-likelihood. Departures: the first generation
also tries the base model and every expert alone, so that a mixture is never worse than the best of
them on the shots; ten generations by default, since one takes half a minute on two cores. A
spread never falls below a twentieth of the range, since a few equal elites would end the search.
The incumbent (the best so far) is candidate 0 of each later generation.
Pure functions of tensors: a random generator is passed in.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from t2local.errors import T2LocalError

ACCURACY, LOG_LIKELIHOOD = "accuracy", "log-likelihood"
OBJECTIVES = (ACCURACY, LOG_LIKELIHOOD)
EXPERT, LAYERS, MATRIX = "expert", "layers", "matrix"
SHARING = (EXPERT, LAYERS, MATRIX)
LEAST_SHOTS = 3  # the paper's light setting
MOST_SHOTS = 20  # a search answers all of them for each candidate
LEAST_ELITES = 3
LEAST_SPREAD = 0.05  # of the range


@dataclass(frozen=True)
class CEMConfig:
    """How a mixture is searched.

    `sharing`: an α for each expert, for each expert and third of the layers, or for each expert and
    matrix (the paper's *per layer*). `normalised`: each group's α sum to one.
    """

    population: int = 32  # PAPER, Table 6
    elite_share: float = 0.2  # PAPER, Table 6
    generations: int = 10
    low: float = 0.0  # PAPER, Table 6
    high: float = 1.0  # PAPER, Table 6
    sharing: str = EXPERT
    normalised: bool = False
    objective: str = ACCURACY
    shots: int = 10  # PAPER, Table 6
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        whole = {
            "population": (4, 1024),
            "generations": (1, 1000),
            "shots": (LEAST_SHOTS, MOST_SHOTS),
            "max_new_tokens": (1, 4096),
        }
        for name, (least, most) in whole.items():
            if not least <= getattr(self, name) <= most:
                raise T2LocalError(
                    f"{name} is {getattr(self, name)}; it must be from {least} to {most}."
                )
        if not 0.0 < self.elite_share < 1.0:
            raise T2LocalError(f"elite_share is {self.elite_share}; it must be between 0 and 1.")
        if not -10.0 <= self.low < self.high <= 10.0:
            raise T2LocalError(
                f"α may range from {self.low:g} to {self.high:g}; "
                "give a lower number first, both from -10 to 10."
            )
        for name, allowed in (("sharing", SHARING), ("objective", OBJECTIVES)):
            if getattr(self, name) not in allowed:
                raise T2LocalError(
                    f"{name} is '{getattr(self, name)}'; choose one of {', '.join(allowed)}."
                )

    @property
    def elite(self) -> int:
        return max(LEAST_ELITES, math.ceil(self.elite_share * self.population))

    @property
    def evaluations(self) -> int:
        """Prompts answered in a whole search."""
        return self.population * self.generations * self.shots


LIGHT = {
    "population": 8,
    "generations": 4,
    "shots": LEAST_SHOTS,
}  # 96 evaluations: 3 % of the default's 3,200


@dataclass(frozen=True)
class Search:
    """Where a search stands before generation `number`, with G groups and K experts.

    `mean`, `spread`: `[G, K]`. `best`: the incumbent `[G, K]`, None before the first generation;
    `best_scores`: its (accuracy, log-likelihood).
    """

    number: int
    mean: Tensor
    spread: Tensor
    best: Tensor | None = None
    best_scores: tuple[float, float] = (-math.inf, -math.inf)


def begin(config: CEMConfig, n_groups: int, n_experts: int) -> Search:
    """Uniform α and a spread of half the range."""
    shape = (n_groups, n_experts)
    uniform = min(config.high, max(config.low, 1.0 / n_experts))
    spread = 0.5 * (config.high - config.low)
    return Search(0, torch.full(shape, uniform), torch.full(shape, spread))


def population(search: Search, config: CEMConfig) -> Tensor:
    """The candidates of the next generation, `[B, G, K]`; the same ones for the same `search`.

    Candidate 0 is the incumbent; the first generation begins with α uniform, the base model and
    each expert alone.
    """
    generator = torch.Generator().manual_seed(config.seed * 100_003 + search.number)
    noise = torch.randn(config.population, *search.mean.shape, generator=generator)
    drawn = constrained(search.mean + search.spread * noise, config)
    given = _anchors(search, config) if search.best is None else search.best[None]
    given = given[: config.population]
    return torch.cat([given, drawn[len(given) :]])


def constrained(alpha: Tensor, config: CEMConfig) -> Tensor:
    """α `[..., K]` within the range and, where asked for, summing to one."""
    alpha = alpha.clamp(config.low, config.high)
    if not config.normalised:
        return alpha
    total = alpha.sum(-1, keepdim=True)
    even = torch.full_like(alpha, 1.0 / alpha.shape[-1])
    return torch.where(total.abs() > 1e-6, alpha / total, even)


def ranking(accuracy: Tensor, log_likelihood: Tensor, objective: str) -> list[int]:
    """Places of the candidates, best first; the other measure breaks ties.

    `accuracy`, `log_likelihood`: `[B]`. A candidate that yields NaN comes last.
    """
    pairs = list(zip(accuracy.tolist(), log_likelihood.tolist(), strict=True))

    def key(i: int) -> tuple[float, float]:
        if any(math.isnan(x) for x in pairs[i]):
            return (-math.inf, -math.inf)
        return pairs[i] if objective == ACCURACY else pairs[i][::-1]

    return sorted(range(len(pairs)), key=key, reverse=True)


def advance(
    search: Search, config: CEMConfig, alpha: Tensor, accuracy: Tensor, log_likelihood: Tensor
) -> tuple[Search, list[int]]:
    """The search after a generation's scores, and the places of its elites, best first."""
    order = ranking(accuracy, log_likelihood, config.objective)
    elites = order[: config.elite]
    chosen, first = alpha[elites], order[0]  # [E, G, K]
    scores = (float(accuracy[first]), float(log_likelihood[first]))
    least = LEAST_SPREAD * (config.high - config.low)
    mean, spread = chosen.mean(0), chosen.std(0, correction=0).clamp(min=least)
    return Search(search.number + 1, mean, spread, alpha[first].clone(), scores), elites


def z_rows(alpha: Tensor, changes: Tensor) -> Tensor:
    """The multipliers `[B, r]` of one matrix: `1 + α (Z − 1)`.

    `alpha`: `[B, K]`; `changes`: `Z − 1`, `[K, r]`. One small product, nothing is rebuilt.
    """
    return 1 + alpha.to(changes) @ changes


def _anchors(search: Search, config: CEMConfig) -> Tensor:
    """α uniform, the base model and each expert alone, within the range: `[K + 2, G, K]`."""
    n_groups, n_experts = search.mean.shape
    rows = [search.mean[0], torch.zeros(n_experts), *torch.eye(n_experts)]
    stacked = torch.stack(rows)[:, None].expand(-1, n_groups, -1)
    return constrained(stacked.contiguous(), config)

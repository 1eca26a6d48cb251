"""What every policy of a training step works with: rollouts, rewards, the terms of a loss.

`policies` says which policy is taken; the policies are in `text_policies` and `choice_policies`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from t2local.svf import SVFModel
from t2local.tasks.rewards import rewards_of
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.reports import BatchStatistics
from t2local.training.step_memory import StepWork

Rewards = list[list[float | None]]  # [B][A], an action each; None where a row cannot be scored


@dataclass(frozen=True)
class Rollout:
    """What was done about each of `B` prompts: `A` actions a prompt.

    `texts` `[B][A]`; `token_ids` `[B][A]`: the same with the end of turn, which is an action too
    unless a sample was cut at the limit. Choices have no token ids: all are listed, none sampled.
    `log_mu` `[B][A]`: log μ of each token under the sampler; empty where that is π_z itself.
    """

    examples: Sequence[Example]
    texts: Sequence[Sequence[str]]
    token_ids: Sequence[Sequence[list[int]]] = ()
    log_mu: Sequence[Sequence[list[float]]] = ()


@dataclass(frozen=True)
class SliceTerms:
    """What the loss of one slice was made of; sums over tokens, or a value a prompt (choices).

    `kl_count`: of how many tokens or prompts the KL was measured. `expected`: rewards (choices).
    `gap`: |log π − log μ|.
    """

    kl: Sequence[float]
    kl_count: int
    entropy: Sequence[float]
    tokens: int
    expected: Sequence[float] = ()
    gap: float = 0.0


Losses = Iterator[tuple[torch.Tensor, SliceTerms]]


class Policy(Protocol):
    """The base model's values come from `z = 1` forwards of the same model: no second copy.

    With λ = 0 the KL is only reported: measured on one slice of the batch, another each step.
    """

    svf: SVFModel
    samples: bool  # whether chance decides the actions

    def rollout(self, examples: Sequence[Example], seed: int, work: StepWork) -> Rollout:
        """The actions of each example, under what `work.hold` puts in force."""

    def rewards(self, rollout: Rollout, work: StepWork) -> Rewards:
        """`[B][A]`."""

    def penalties(self, rollout: Rollout, work: StepWork) -> torch.Tensor | None:
        """`[B, A]`, by which rewards are reduced; None where λ KL is no part of them."""

    def advantages(
        self, rewards: Rewards, penalties: torch.Tensor | None = None
    ) -> Sequence[torch.Tensor]:
        """A tensor `[A]` a prompt."""

    def losses(
        self, rollout: Rollout, advantages: Sequence[torch.Tensor], work: StepWork
    ) -> Losses:
        """A slice's part of `−J` at a time; `work.backward` it before the next one is computed."""

    def statistics(
        self, rollout: Rollout, rewards: Rewards, terms: Sequence[SliceTerms], work: StepWork
    ) -> BatchStatistics:
        """Of the whole step."""


def sampling_seed(config: TrainConfig, step: int, drawing: int = 0) -> int:
    """One for each step and drawing in it, also where runs of neighbouring seeds are compared."""
    return config.seed * 100_003 + step + drawing * 1_000_000_000_039


def scored(reward: str, rollout: Rollout) -> Rewards:
    """The reward of every action."""
    rows = [e for e, said in zip(rollout.examples, rollout.texts, strict=True) for _ in said]
    found = iter(rewards_of(reward, rows, [text for said in rollout.texts for text in said]))
    return [[next(found) for _ in said] for said in rollout.texts]


def tokens_in(rollout: Rollout) -> int:
    return sum(len(ids) for group in rollout.token_ids for ids in group)


def grouped(values: Sequence, size: int) -> list[Sequence]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def totals(terms: Sequence[SliceTerms]) -> tuple[float, int, float, int]:
    """KL, of how many tokens it is, entropy and tokens, summed over the slices in order."""
    kl = entropy = 0.0
    for part in terms:
        kl, entropy = kl + sum(part.kl), entropy + sum(part.entropy)
    return kl, sum(p.kl_count for p in terms), entropy, sum(p.tokens for p in terms)


def statistics_of(rewards, kl, entropies, spreads, tokens, work: StepWork) -> BatchStatistics:
    values = torch.tensor(rewards)
    return BatchStatistics(
        reward_mean=float(values.mean()),
        reward_sd=float(values.std(correction=0)),
        kl_policy_from_base=kl,
        entropy=sum(entropies) / len(entropies),
        equal_groups=sum(s == 0 for s in spreads) / len(spreads),
        tokens=tokens,
        seconds=dict(work.clock.seconds),
        weight=len(spreads),
    )

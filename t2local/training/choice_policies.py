"""Listed choices: nothing is sampled, the expected reward is an exact sum."""

from collections.abc import Sequence

import torch

from t2local.adapt.answering import choice_tokens, score_choices
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.reports import BatchStatistics
from t2local.training.rollouts import (
    Losses,
    Rewards,
    Rollout,
    SliceTerms,
    scored,
    statistics_of,
)
from t2local.training.step_memory import StepWork, measures_kl, slices


class ChoicePolicy:
    """Exact expected reward over the listed choices of each example."""

    samples = False

    def __init__(self, loaded: LoadedModel, svf: SVFModel, reward: str, config: TrainConfig):
        self.loaded, self.svf, self.reward, self.config = loaded, svf, reward, config

    def rollout(self, examples: Sequence[Example], seed: int, work: StepWork) -> Rollout:
        """Every choice of each example; nothing is sampled."""
        return Rollout(examples, [example.columns["choices"] for example in examples])

    def rewards(self, rollout: Rollout, work: StepWork) -> Rewards:
        return scored(self.reward, rollout)

    def penalties(self, rollout: Rollout, work: StepWork) -> None:
        """None: the KL is an exact sum in the loss."""

    def advantages(
        self, rewards: Rewards, penalties: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The rewards themselves, `[K]` a prompt: in an exact expectation a baseline cancels."""
        return [torch.tensor([0.0 if r is None else r for r in row]) for row in rewards]

    def losses(
        self, rollout: Rollout, advantages: Sequence[torch.Tensor], work: StepWork
    ) -> Losses:
        """`(−Σ π A + λ KL) / prompts`, sums over the choices: minus the expected reward."""
        parts = slices(range(len(rollout.examples)), self.config.rows_per_forward)
        for number, places in enumerate(parts):
            with_kl = measures_kl(self.config.kl_coefficient > 0, number, len(parts), work.step)
            part = [rollout.examples[i] for i in places]
            base = self._base_log_policy(part, work) if with_kl else None
            loss, terms = self._loss(part, [advantages[i] for i in places], base, work)
            yield loss / len(rollout.examples), terms

    def statistics(
        self, rollout: Rollout, rewards: Rewards, terms: Sequence[SliceTerms], work: StepWork
    ) -> BatchStatistics:
        kls = [kl for part in terms for kl in part.kl]
        return statistics_of(
            [value for part in terms for value in part.expected],
            sum(kls) / len(kls),
            [entropy for part in terms for entropy in part.entropy],
            [float(row.std(correction=0)) for row in self.advantages(rewards)],
            sum(part.tokens for part in terms),
            work,
        )

    def _loss(
        self,
        part: Sequence[Example],
        advantages: Sequence[torch.Tensor],
        base: Sequence[torch.Tensor] | None,
        work: StepWork,
    ) -> tuple[torch.Tensor, SliceTerms]:
        with work.clock("forward"), work.hold():
            scores = score_choices(self.loaded, part)
        losses, expected, kls, entropies = [], [], [], []
        for i, (row, advantage) in enumerate(zip(scores, advantages, strict=True)):
            log_policy = (row / self.config.temperature).log_softmax(dim=0)  # [K]
            value = (log_policy.exp() * advantage.to(row.device)).sum()
            losses.append(-value)
            if base is not None:
                kl = (log_policy.exp() * (log_policy - base[i])).sum()
                losses.append(self.config.kl_coefficient * kl)
                kls.append(kl.item())
            expected.append(value.item())
            entropies.append(-(log_policy.exp() * log_policy).sum().item())
        tokens = sum(choice_tokens(self.loaded, example) for example in part)
        return torch.stack(losses).sum(), SliceTerms(kls, len(kls), entropies, tokens, expected)

    @torch.no_grad()
    def _base_log_policy(self, part: Sequence[Example], work: StepWork) -> list[torch.Tensor]:
        with work.clock("forward"), self.svf.using({}):
            scores = score_choices(self.loaded, part)
        return [(row / self.config.temperature).log_softmax(dim=0) for row in scores]

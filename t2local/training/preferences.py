"""Two whole answers, of which one was preferred: how far its odds have moved from the base model's.

The policy over both is softmax(β (log π_z − log π_base)), the choice that a policy kept near the
base model by a KL of weight β has made (DPO, arXiv 2305.18290); its expected reward is exact, as
for other choices. Departure: the likelihoods themselves say little of whole answers. A short one is
the likelier whatever was taught (the base model "preferred" 89 % of answers cut to a sentence,
and nothing was learnt from them), so the base model's own are what z is measured against.

The odds alone can be won by making both answers unlikely: after 30 steps of 24 edits the embedded
model wrote nothing at all and preferred every edit. So what was preferred is imitated besides, a
token's mean (Iterative RPO, arXiv 2404.19733), and counts as right only where it became likelier.
"""

import math
from collections.abc import Sequence

import torch

from t2local.adapt.answering import BETA, choices_of, prompt_ids, risen
from t2local.models.decode.generate import Around
from t2local.models.decode.scoring import choice_log_likelihoods
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training.choice_policies import ChoicePolicy
from t2local.training.config import TrainConfig
from t2local.training.rollouts import SliceTerms
from t2local.training.step_memory import StepWork

IMITATED = 1.0  # weight of −log π_z a token of the right answer, as in Iterative RPO
SCALE = 2.0  # nats a token
ROWS = 4  # of a forward of the base model


class Reference:
    """log π_base of whole answers, `[K]` an example; each is computed once."""

    def __init__(self, loaded: LoadedModel, svf: SVFModel) -> None:
        self.loaded, self.svf = loaded, svf
        self._known: dict[tuple[str, ...], torch.Tensor] = {}

    @torch.no_grad()
    def of(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        missing = [e for e in {_key(e): e for e in examples}.values() if _key(e) not in self._known]
        for start in range(0, len(missing), ROWS):
            part = missing[start : start + ROWS]
            with self.svf.using({}):
                found = log_likelihoods(self.loaded, part)
            self._known |= {_key(e): row.float() for e, row in zip(part, found, strict=True)}
        return [self._known[_key(example)] for example in examples]


def _key(example: Example) -> tuple[str, ...]:
    return (example.key, *map(str, example.columns["choices"]))


def log_likelihoods(loaded: LoadedModel, examples: Sequence[Example]) -> list[torch.Tensor]:
    """Σ log p of the tokens of each choice with the end of its turn, `[K]` an example. Differs."""
    prompts = [prompt_ids(loaded, example) for example in examples]
    choices = [choices_of(loaded, example).ids for example in examples]
    return choice_log_likelihoods(loaded.model, prompts, choices)


class PreferencePolicy(ChoicePolicy):
    """Exact expected reward over the answers of each example, and the right one imitated."""

    def __init__(
        self,
        loaded: LoadedModel,
        svf: SVFModel,
        reward: str,
        config: TrainConfig,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(loaded, svf, reward, config)
        self.reference = reference or Reference(loaded, svf)

    def _loss(
        self,
        part: Sequence[Example],
        advantages: Sequence[torch.Tensor],
        base: Sequence[torch.Tensor] | None,
        work: StepWork,
    ) -> tuple[torch.Tensor, SliceTerms]:
        with work.clock("forward"):
            known = self.reference.of(part)
            with work.hold():
                found = log_likelihoods(self.loaded, part)
        losses, expected, kls, entropies, tokens = [], [], [], [], 0
        for example, own, before, reward in zip(part, found, known, advantages, strict=True):
            log_policy = (BETA * (own - before.to(own.device))).log_softmax(dim=0)  # [K]
            value = (log_policy.exp() * reward.to(own.device)).sum()
            lengths = [len(ids) for ids in choices_of(self.loaded, example).ids]
            right = int(reward.argmax())
            losses.append(-value - IMITATED * own[right] / lengths[right])
            kl = (log_policy.exp() * log_policy).sum() + torch.tensor(float(len(own))).log()
            losses.append(self.config.kl_coefficient * kl)
            expected.append(value.item())
            kls.append(kl.item())
            entropies.append(-(log_policy.exp() * log_policy).sum().item())
            tokens += len(prompt_ids(self.loaded, example)) + sum(lengths)
        return torch.stack(losses).sum(), SliceTerms(kls, len(kls), entropies, tokens, expected)


@torch.no_grad()
def rise(
    loaded: LoadedModel, around: Around, reference: Reference, examples: Sequence[Example]
) -> tuple[list[float], list[float]]:
    """Whether each row's right answer rose above the base model's odds, and how far.

    Rises: as `risen`. How far: a token's mean in nats as tanh(· / 2), within −1 to 1 and never at
    its end, so that the best step can be told.
    """
    rises, heights = [], []
    for start in range(0, len(examples), ROWS):
        part = examples[start : start + ROWS]
        known = reference.of(part)
        with around():
            found = log_likelihoods(loaded, part)
        for example, own, before in zip(part, found, known, strict=True):
            moved = (own.float() - before.to(own.device)).cpu()
            label = int(example.columns["label"])
            lengths = [len(ids) for ids in choices_of(loaded, example).ids]
            rises.append(float(risen(moved, label, max(lengths))))
            heights.append(math.tanh(float(moved[label]) / lengths[label] / SCALE))
    return rises, heights

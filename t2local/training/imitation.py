"""The next-token objective: imitate the given answers instead of being rewarded for one's own.

The paper's ablation (Table 4) compares SVF by policy gradient with SVF by this loss; it runs
through the same loop, data, validation and checkpoints. Loss: −log π_z(answer | prompt), a token's
mean over the batch, plus λ · KL(π_z ‖ π_base) on those tokens. No sampling, no dry run.
"""

from collections.abc import Sequence

import torch

from t2local.adapt.answering import prompt_ids
from t2local.models.chat_format import end_of_turn
from t2local.models.decode.scoring import (
    PackedChoices,
    log_probabilities,
    log_probabilities_and_kl,
    pack_choices,
    predictor_states,
)
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.reports import BatchStatistics
from t2local.training.step_work import StepWork, measures_kl, slices


class NextTokenPolicy:
    """Cross-entropy on the right answers; `reward_mean` reports the mean log-likelihood a token."""

    def __init__(self, loaded: LoadedModel, svf: SVFModel, config: TrainConfig):
        self.loaded, self.svf, self.config = loaded, svf, config

    def accumulate(self, batch: Sequence[Example], work: StepWork) -> BatchStatistics:
        """Leave the loss's gradient in what is held; the statistics are per token."""
        clock, config = work.clock, self.config
        answers = [self._answer_ids(example) for example in batch]
        tokens = sum(map(len, answers))
        log_sum = kl_sum = 0.0
        kl_tokens = 0
        parts = slices(range(len(batch)), config.rows_per_forward)
        for number, places in enumerate(parts):
            packed = pack_choices(
                [prompt_ids(self.loaded, batch[i]) for i in places],
                [[answers[i]] for i in places],
                pad_id=0,
            )
            with_kl = measures_kl(config, number, len(parts), work.step)
            with clock("forward"):
                log_probs, kl = self._forward(packed, work, with_kl)
            loss = config.kl_coefficient * kl.sum() - log_probs.sum()
            with clock("backward"), work.hold():  # checkpoints compute blocks again
                (loss / tokens).backward()
            log_sum, kl_sum = log_sum + log_probs.detach().sum().item(), kl_sum + kl.sum().item()
            kl_tokens += len(kl) if with_kl else 0
        likelihood = log_sum / tokens
        return BatchStatistics(
            reward_mean=likelihood,
            reward_sd=0.0,
            kl_policy_from_base=kl_sum / kl_tokens,
            entropy=-likelihood,
            equal_groups=0.0,
            tokens=tokens,
            seconds=dict(clock.seconds),
            weight=tokens,
        )

    def _forward(
        self, packed: PackedChoices, work: StepWork, with_kl: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        model = self.loaded.model
        with work.hold():
            states, targets, _ = predictor_states(model, packed)
        if not with_kl:
            log_probs = log_probabilities(model, states, targets)
            return log_probs, torch.zeros_like(log_probs)
        with torch.no_grad(), self.svf.using({}):
            base_states, _, _ = predictor_states(model, packed)
        return log_probabilities_and_kl(model, states, base_states, targets)

    def _answer_ids(self, example: Example) -> list[int]:
        choices, label = example.columns.get("choices"), example.columns.get("label")
        text = choices[label] if choices and isinstance(label, int) else example.answer
        ids = self.loaded.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, end_of_turn(self.loaded.tokenizer)]

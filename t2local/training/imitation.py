"""The next-token objective: imitate the given answers instead of being rewarded for one's own.

The paper's ablation (Table 4) compares SVF by policy gradient with SVF by this loss; it runs
through the same loop, data, validation and checkpoints. Loss: −log π_z(answer | prompt), a token's
mean over the batch, plus λ · KL(π_z ‖ π_base) on those tokens. No sampling, no dry run.
"""

from collections.abc import Sequence

import torch

from t2local.adapt.actions import prompt_ids
from t2local.adapt.adapter import holding
from t2local.models.chat_format import end_of_turn
from t2local.models.generate import Around
from t2local.models.load import LoadedModel
from t2local.models.scoring import log_probabilities_and_kl, pack_choices, predictor_states
from t2local.svf import SVFModel, Z
from t2local.tasks.examples import Example
from t2local.training.clock import Clock
from t2local.training.config import TrainConfig
from t2local.training.reports import BatchStatistics


class NextTokenPolicy:
    """Cross-entropy on the right answers; `reward_mean` reports the mean log-likelihood a token."""

    def __init__(self, loaded: LoadedModel, svf: SVFModel, config: TrainConfig):
        self.loaded, self.svf, self.config = loaded, svf, config

    def accumulate(self, batch: Sequence[Example], z: Z, step: int) -> BatchStatistics:
        """Leave the loss's gradient in `z`; the statistics are per token."""
        clock, sums = Clock(), torch.zeros(2)  # Σ log p, Σ KL
        answers = [self._answer_ids(example) for example in batch]
        tokens = sum(map(len, answers))
        with clock("forward"):
            hold = holding(self.loaded, self.svf, z)
        for start in range(0, len(batch), self.config.rows_per_forward):
            rows = slice(start, start + self.config.rows_per_forward)
            with clock("forward"):
                log_probs, kl = self._forward(batch[rows], answers[rows], hold)
            loss = self.config.kl_coefficient * kl.sum() - log_probs.sum()
            with clock("backward"), hold():  # checkpoints compute blocks again
                (loss / tokens).backward()
            sums += torch.stack([log_probs.detach().sum(), kl.detach().sum()]).cpu()
        log_likelihood, kl_mean = (sums / tokens).tolist()
        return BatchStatistics(
            log_likelihood, 0.0, kl_mean, -log_likelihood, 0.0, tokens, dict(clock.seconds)
        )

    def _forward(
        self, part: Sequence[Example], answers: Sequence[list[int]], hold: Around
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prompts = [prompt_ids(self.loaded, example) for example in part]
        packed = pack_choices(prompts, [[answer] for answer in answers], pad_id=0)
        with torch.no_grad(), self.svf.using({}):
            base_states, targets, _ = predictor_states(self.loaded.model, packed)
        with hold():
            states, targets, _ = predictor_states(self.loaded.model, packed)
        return log_probabilities_and_kl(self.loaded.model, states, base_states, targets)

    def _answer_ids(self, example: Example) -> list[int]:
        choices, label = example.columns.get("choices"), example.columns.get("label")
        text = choices[label] if choices and isinstance(label, int) else example.answer
        ids = self.loaded.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, end_of_turn(self.loaded.tokenizer)]

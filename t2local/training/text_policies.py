"""Free text: sampled and rewarded (REINFORCE), or given and imitated (next-token loss)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch

from t2local.adapt.answering import prompt_ids
from t2local.models.chat_format import answer_text, encode_text, end_of_turn, opening_of
from t2local.models.decode.generate import Sampling
from t2local.models.decode.scoring import (
    PackedChoices,
    log_probabilities,
    log_probabilities_and_kl,
    pack_choices,
    predictor_states,
)
from t2local.models.fit.memory import return_freed_memory
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig, sampler_for, token_weights
from t2local.training.reports import BatchStatistics
from t2local.training.rollouts import (
    Losses,
    Rewards,
    Rollout,
    SliceTerms,
    grouped,
    scored,
    statistics_of,
    tokens_in,
    totals,
)
from t2local.training.step_memory import StepWork, measures_kl, slices


class TextPolicy:
    """REINFORCE on sampled completions, one group of samples a prompt."""

    samples = True

    def __init__(self, loaded: LoadedModel, svf: SVFModel, reward: str, config: TrainConfig):
        self.loaded, self.svf, self.reward, self.config = loaded, svf, reward, config

    def rollout(self, examples: Sequence[Example], seed: int, work: StepWork) -> Rollout:
        """`samples_per_prompt` completions an example."""
        sampling = Sampling(
            temperature=self.config.temperature,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,
            max_new_tokens=self.config.max_new_tokens,
            seed=seed,
        )
        size, tokenizer = self.config.samples_per_prompt, self.loaded.tokenizer
        with work.clock("sampling"):
            prompts = [prompt_ids(self.loaded, e) for e in examples for _ in range(size)]
            sample = work.sample or sampler_for(self.loaded, self.config, work.hold)
            token_ids, log_mu = sample(prompts, sampling, work.among(len(examples), size))
            return_freed_memory()  # of the KV cache, before activations take as much
        # Whole, also where a sample was cut: every token that is made likelier was looked at.
        texts = [
            opening_of(tokenizer, prompt) + answer_text(tokenizer, ids)
            for prompt, ids in zip(prompts, token_ids, strict=True)
        ]
        return Rollout(examples, *(grouped(part, size) for part in (texts, token_ids, log_mu)))

    def rewards(self, rollout: Rollout, work: StepWork) -> Rewards:
        with work.clock("sampling"):  # running programs takes as long as writing them
            return scored(self.reward, rollout)

    @torch.no_grad()
    def penalties(self, rollout: Rollout, work: StepWork) -> torch.Tensor | None:
        """`[B, A]`: λ (log π_z − log π_base) of each answer, the sum over its tokens (k1).

        The policy gradient of this reward is unbiased for λ KL(π_z ‖ π_base) over whole answers.
        That of ½ (log π_z − log π_base)² at each token (k2) sees a token's own KL only.
        """
        if self.config.kl_coefficient == 0 or self._kl_in_loss:
            return None
        model, size, found = self.loaded.model, self.config.samples_per_prompt, []
        for places in slices(range(sum(map(len, rollout.texts))), self.config.rows_per_forward):
            packed, _ = self._packed(rollout, places, size)
            with work.clock("forward"):
                with work.hold():
                    states, targets, slots = predictor_states(model, packed)
                    own = log_probabilities(model, states, targets, self.config.temperature)
                base = self._base_log_probs(packed, targets)
            found.append(answer_kl(own, base, slots, len(places)).cpu())
        return self.config.kl_coefficient * torch.cat(found).view(-1, size)

    def advantages(self, rewards: Rewards, penalties: torch.Tensor | None = None) -> torch.Tensor:
        """`[B, A]`: reward less penalty, minus the mean of that of the group's other samples.

        A sample whose row cannot be scored (None) counts as its group's mean: advantage 0.
        """
        scored = [[float("nan") if r is None else r for r in group] for group in rewards]
        grouped = torch.tensor(scored, dtype=torch.float64)
        if self.config.baseline != "none":
            mean = grouped.nanmean(1, keepdim=True)
            grouped = torch.where(grouped.isnan(), mean, grouped)
        grouped = grouped.nan_to_num(0.0)
        if penalties is not None:
            grouped = grouped - penalties
        if self.config.baseline == "none":
            return grouped.float()
        others = (grouped.sum(1, keepdim=True) - grouped) / (grouped.shape[1] - 1)
        return (grouped - others).round(decimals=9).float()  # what is equal gives 0 exactly

    def losses(self, rollout: Rollout, advantages: torch.Tensor, work: StepWork) -> Losses:
        """`−Σ A w log π / samples`, and λ KL where `kl_estimator` is full; w: see `token_weights`.

        A prompt is read once for its samples in a slice. A sample of advantage 0 has no gradient
        and is not read. Where all are, one slice is, without a gradient, for KL and entropy.
        """
        weights, scale = advantages.flatten(), self._scale(rollout)
        taught = range(len(weights)) if self._kl_in_loss else weights.nonzero()[:, 0].tolist()
        shown = taught or range(len(weights))[: self.config.rows_per_forward]
        parts = slices(shown, self.config.rows_per_forward)
        for number, places in enumerate(parts):
            packed, log_mu = self._packed(rollout, places, advantages.shape[1])
            with_kl = measures_kl(self._kl_in_loss, number, len(parts), work.step)
            with torch.set_grad_enabled(bool(taught) and torch.is_grad_enabled()):
                loss, terms = self._loss(packed, log_mu, weights[places], work, with_kl)
            yield loss / scale, terms

    def statistics(
        self, rollout: Rollout, rewards: Rewards, terms: Sequence[SliceTerms], work: StepWork
    ) -> BatchStatistics:
        values = [[0.0 if r is None else r for r in group] for group in rewards]
        kl, kl_tokens, entropy, tokens = totals(terms)
        statistics = statistics_of(
            [r for group in values for r in group], kl / kl_tokens, [entropy / tokens],
            [max(group) - min(group) for group in values], tokens_in(rollout), work,
        )  # fmt: skip
        return replace(statistics, sampler_gap=sum(part.gap for part in terms) / tokens)

    @property
    def _kl_in_loss(self) -> bool:
        """Whether the KL is differentiated, token by token, and not a part of the reward."""
        return self.config.kl_coefficient > 0 and self.config.kl_estimator == "full"

    def _packed(
        self, rollout: Rollout, places: Sequence[int], size: int
    ) -> tuple[PackedChoices, torch.Tensor | None]:
        """The samples at `places` for one forward, log μ of their tokens `[N]` (None: it is π_z).

        A place counts the samples of all prompts in order, `size` of them a prompt.
        """
        groups = [list(group) for _, group in groupby(places, key=lambda i: i // size)]
        packed = pack_choices(
            [prompt_ids(self.loaded, rollout.examples[group[0] // size]) for group in groups],
            [[rollout.token_ids[i // size][i % size] for i in group] for group in groups],
            self.loaded.tokenizer.pad_token_id or 0,
        )
        if not rollout.log_mu:
            return packed, None
        return packed, torch.tensor(
            [v for i in places for v in rollout.log_mu[i // size][i % size]]
        )

    def _scale(self, rollout: Rollout) -> int:
        """Of what the loss is a mean: samples."""
        return sum(map(len, rollout.texts))

    def _loss(
        self,
        packed: PackedChoices,
        log_mu: torch.Tensor | None,
        advantages: torch.Tensor,
        work: StepWork,
        with_kl: bool,
    ) -> tuple[torch.Tensor, SliceTerms]:
        model, full = self.loaded.model, self.config.kl_estimator == "full"
        with work.clock("forward"):
            with work.hold():  # the head's products round as the others do
                states, targets, slots = predictor_states(model, packed)
                if not (full and with_kl):
                    log_probs = log_probabilities(model, states, targets, self.config.temperature)
            if full and with_kl:
                log_probs, kl = self._full_kl(packed, states, targets)
            elif with_kl:
                kl = sampled_kl(log_probs.detach(), self._base_log_probs(packed, targets))
            else:
                kl = torch.zeros_like(log_probs)
        weights = advantages.to(log_probs.device)[slots]  # [N], a token's action's
        gap = 0.0
        if log_mu is not None:
            log_mu = log_mu.to(log_probs.device)
            weights = weights * token_weights(log_probs.detach(), log_mu)
            gap = (log_probs.detach() - log_mu).abs().sum().item()
        loss = -(weights * log_probs).sum()
        if self._kl_in_loss:
            loss = loss + self.config.kl_coefficient * kl.sum()
        count, entropy = len(targets), -log_probs.detach().sum().item()
        terms = SliceTerms([kl.sum().item()], count if with_kl else 0, [entropy], count, gap=gap)
        return loss, terms

    def _full_kl(self, packed, states, targets):
        """Log-probabilities and KL to the base model over the vocabulary, a token each `[N]`."""
        model, temperature = self.loaded.model, self.config.temperature
        with torch.no_grad(), self.svf.using({}):
            base_states, _, _ = predictor_states(model, packed)
        return log_probabilities_and_kl(model, states, base_states, targets, temperature)

    @torch.no_grad()
    def _base_log_probs(self, packed: PackedChoices, targets: torch.Tensor) -> torch.Tensor:
        """log π_base `[N]`."""
        with self.svf.using({}):
            states, _, _ = predictor_states(self.loaded.model, packed)
        return log_probabilities(self.loaded.model, states, targets, self.config.temperature)


def sampled_kl(log_probs: torch.Tensor, base_log_probs: torch.Tensor) -> torch.Tensor:
    """KL(π_z ‖ π_base) a token `[N]` on the policy's own samples, to be reported.

    k3 = r − 1 − log r with r = π_base / π_z: unbiased, and never below 0. Its gradient would be
    that of KL(π_base ‖ π_z).
    """
    log_ratio = base_log_probs - log_probs
    return log_ratio.exp() - 1 - log_ratio


def answer_kl(
    log_probs: torch.Tensor, base_log_probs: torch.Tensor, slots: torch.Tensor, answers: int
) -> torch.Tensor:
    """k1 of each answer `[answers]`: Σ (log π_z − log π_base) over its tokens, those of its slot.

    `log_probs`, `base_log_probs`, `slots` `[N]`. Unbiased for KL(π_z ‖ π_base) of whole answers.
    """
    return log_probs.new_zeros(answers).index_add(0, slots, log_probs - base_log_probs)


class NextTokenPolicy(TextPolicy):
    """Imitation as REINFORCE on one given answer a prompt, with reward and advantage 1.

    The loss is −log π_z(answer | prompt), a token's mean over the batch, plus λ · KL(π_z ‖ π_base),
    summed over the vocabulary. `reward_mean` reports the mean log-likelihood a token.
    """

    samples = False

    def __init__(self, loaded: LoadedModel, svf: SVFModel, config: TrainConfig):
        own = replace(
            config, samples_per_prompt=1, baseline="none", temperature=1.0, kl_estimator="full"
        )
        super().__init__(loaded, svf, "", own)

    def rollout(self, examples: Sequence[Example], seed: int, work: StepWork) -> Rollout:
        """The right answer of each example; nothing is sampled."""
        texts = [self._answer(example) for example in examples]
        return Rollout(examples, [[t] for t in texts], [[self._ids(t)] for t in texts])

    def rewards(self, rollout: Rollout, work: StepWork) -> Rewards:
        return [[1.0] for _ in rollout.examples]

    def statistics(
        self, rollout: Rollout, rewards: Rewards, terms: Sequence[SliceTerms], work: StepWork
    ) -> BatchStatistics:
        kl, kl_tokens, entropy, tokens = totals(terms)
        likelihood = -entropy / tokens
        return BatchStatistics(
            reward_mean=likelihood,
            reward_sd=0.0,
            kl_policy_from_base=kl / kl_tokens,
            entropy=-likelihood,
            equal_groups=0.0,
            tokens=tokens,
            seconds=dict(work.clock.seconds),
            weight=tokens,
        )

    def _scale(self, rollout: Rollout) -> int:
        """Of what the loss is a mean: tokens."""
        return sum(len(ids) for (ids,) in rollout.token_ids)

    def _answer(self, example: Example) -> str:
        choices, label = example.columns.get("choices"), example.columns.get("label")
        return choices[label] if choices and isinstance(label, int) else example.answer

    def _ids(self, text: str) -> list[int]:
        ids = encode_text(self.loaded.tokenizer, text)
        return [*ids, end_of_turn(self.loaded.tokenizer)]

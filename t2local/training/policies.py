"""Gradients of expected reward, for the two kinds of action.

*Choice*: the policy is the softmax of the choices' scores over `temperature`; expected reward and
KL are exact sums, so nothing is sampled and no baseline is needed (it would cancel). Single-token
labels want a temperature above 1: at 1 the base is sure and wrong, and its gradient vanishes.
*Text*: REINFORCE (paper, section 3.1) on sampled completions. Departures, each selectable back in
`TrainConfig`: groups of samples with a leave-one-out baseline instead of one sample without;
KL(π_z ‖ π_base) from sampled tokens instead of the sum over the vocabulary: its value by the
estimator k3, its gradient by k2 = ½ (log π_z − log π_base)², whose expectation it is.
A prompt is read once for all its samples in a forward.
The base model's values come from `z = 1` forwards of the same model: there is no second copy. With
λ = 0 the KL is only reported: it is then measured on one slice of the batch, another each step.

Each `accumulate` leaves `−∂J` in the gradient of what is held and gives the batch's statistics.
"""

from collections.abc import Sequence
from itertools import groupby

import torch

from t2local.adapt.answering import (
    CHOICE,
    action_of,
    choice_tokens,
    prompt_ids,
    score_choices,
)
from t2local.models.chat_format import end_of_turn
from t2local.models.decode.generate import Sampling, generate_batch
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
from t2local.tasks.rewards.named import rewards_of
from t2local.tasks.rows import Example
from t2local.training.config import NEXT_TOKEN, TrainConfig
from t2local.training.reports import BatchStatistics
from t2local.training.step_memory import StepWork, measures_kl, slices

# --- The next-token objective: imitate the given answers instead of being rewarded for one's own.
#
# The paper's ablation (Table 4) compares SVF by policy gradient with SVF by this loss; it runs
# through the same loop, data, validation and checkpoints. Loss: −log π_z(answer | prompt), a
# token's mean over the batch, plus λ · KL(π_z ‖ π_base) on those tokens. No sampling, no dry run.


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


class ChoicePolicy:
    """Exact expected reward over the listed choices of each example."""

    def __init__(self, loaded: LoadedModel, svf: SVFModel, reward: str, config: TrainConfig):
        self.loaded, self.svf, self.reward, self.config = loaded, svf, reward, config

    def rewards(self, example: Example) -> list[float]:
        choices = example.columns["choices"]
        scored = rewards_of(self.reward, [example] * len(choices), choices)
        return [0.0 if r is None else r for r in scored]

    def samples(self, examples: Sequence[Example]) -> list[list[tuple[str, float]]]:
        """Each example's choices with their rewards (the dry run: nothing need be sampled)."""
        return [list(zip(e.columns["choices"], self.rewards(e), strict=True)) for e in examples]

    def accumulate(self, batch: Sequence[Example], work: StepWork) -> BatchStatistics:
        clock, expected, kls, entropies, spreads = work.clock, [], [], [], []
        tokens = 0
        parts = slices(range(len(batch)), self.config.rows_per_forward)
        for number, places in enumerate(parts):
            part = [batch[i] for i in places]
            base = None
            if measures_kl(self.config, number, len(parts), work.step):
                base = self._base_log_policy(part, work)
            with clock("forward"), work.hold():
                scores = score_choices(self.loaded, part)
            losses = []
            for i, (example, row) in enumerate(zip(part, scores, strict=True)):
                log_policy = (row / self.config.temperature).log_softmax(dim=0)  # [K]
                reward = torch.tensor(self.rewards(example), device=row.device)
                value = (log_policy.exp() * reward).sum()
                losses.append(-value)
                if base is not None:
                    kl = (log_policy.exp() * (log_policy - base[i])).sum()
                    losses.append(self.config.kl_coefficient * kl)
                    kls.append(kl.item())
                expected.append(value.item())
                entropies.append(-(log_policy.exp() * log_policy).sum().item())
                spreads.append(float(reward.std(correction=0)))
                tokens += choice_tokens(self.loaded, example)
            with clock("backward"), work.hold():  # checkpoints compute blocks again
                (torch.stack(losses).sum() / len(batch)).backward()
        return _statistics(expected, sum(kls) / len(kls), entropies, spreads, tokens, clock)

    @torch.no_grad()
    def _base_log_policy(self, part: Sequence[Example], work: StepWork) -> list[torch.Tensor]:
        with work.clock("forward"), self.svf.using({}):
            scores = score_choices(self.loaded, part)
        return [(row / self.config.temperature).log_softmax(dim=0) for row in scores]


class TextPolicy:
    """REINFORCE on sampled completions, one group of samples a prompt."""

    def __init__(self, loaded: LoadedModel, svf: SVFModel, reward: str, config: TrainConfig):
        self.loaded, self.svf, self.reward, self.config = loaded, svf, reward, config

    def sample(
        self, batch: Sequence[Example], seed: int, work: StepWork
    ) -> tuple[list[list[int]], list[tuple[str, float | None]]]:
        """`samples_per_prompt` completions an example (token ids); texts with rewards, in order.

        The end of turn is an action too, unless a sample was cut at the limit.
        """
        sampling = Sampling(
            temperature=self.config.temperature,
            top_p=1.0,
            top_k=0,
            repetition_penalty=1.0,
            max_new_tokens=self.config.max_new_tokens,
            seed=seed,
        )
        size = self.config.samples_per_prompt
        rows = [e for e in batch for _ in range(size)]
        prompts = [prompt_ids(self.loaded, e) for e in rows]
        completions = generate_batch(
            self.loaded,
            prompts,
            sampling,
            around=work.hold,
            keep_end=True,
            among=(work.first * size, (work.total or len(batch)) * size),
        )
        decode = self.loaded.tokenizer.decode
        texts = [decode(ids, skip_special_tokens=True) for ids in completions]
        return completions, list(zip(texts, rewards_of(self.reward, rows, texts), strict=True))

    def samples(self, examples: Sequence[Example]) -> list[list[tuple[str, float]]]:
        """One group of base-model samples with rewards for each example (the dry run)."""
        base = StepWork(0, lambda: self.svf.using({}))
        _, scored = self.sample(examples, self.config.seed, base)
        size = self.config.samples_per_prompt
        groups = [scored[i : i + size] for i in range(0, len(scored), size)]
        return [[(text, 0.0 if r is None else r) for text, r in group] for group in groups]

    def advantages(self, rewards: Sequence[float | None]) -> torch.Tensor:
        """`[groups, samples]`: reward minus the mean of the group's other samples.

        A sample whose row cannot be scored (None) counts as its group's mean: advantage 0.
        """
        size = self.config.samples_per_prompt
        grouped = torch.tensor([float("nan") if r is None else r for r in rewards]).view(-1, size)
        unscored = grouped.isnan()
        if self.config.baseline == "none":
            return grouped.nan_to_num(0.0)
        grouped = torch.where(unscored, grouped.nanmean(1, keepdim=True), grouped).nan_to_num(0.0)
        return grouped - (grouped.sum(1, keepdim=True) - grouped) / (size - 1)

    def accumulate(self, batch: Sequence[Example], work: StepWork) -> BatchStatistics:
        clock, size = work.clock, self.config.samples_per_prompt
        with clock("sampling"):
            seed = self.config.seed * 100_003 + work.step
            completions, scored = self.sample(batch, seed, work)
            return_freed_memory()  # of the KV cache, before activations take as much
        rewards = [reward for _, reward in scored]
        advantages = self.advantages(rewards).flatten()
        rows = [e for e in batch for _ in range(size)]
        parts = slices(range(len(rows)), self.config.rows_per_forward)
        kl_sum = entropy_sum = 0.0
        tokens = kl_tokens = 0
        for number, places in enumerate(parts):
            with_kl = measures_kl(self.config, number, len(parts), work.step)
            groups = [list(group) for _, group in groupby(places, key=lambda i: i // size)]
            packed = pack_choices(
                [prompt_ids(self.loaded, rows[group[0]]) for group in groups],
                [[completions[i] for i in group] for group in groups],
                self.loaded.tokenizer.pad_token_id or 0,
            )
            loss, kl, entropy, count = self._loss(packed, advantages[places], work, with_kl)
            with clock("backward"), work.hold():
                (loss / len(rows)).backward()
            kl_sum, entropy_sum, tokens = kl_sum + kl, entropy_sum + entropy, tokens + count
            kl_tokens += count if with_kl else 0
        values = [0.0 if r is None else r for r in rewards]
        spreads = [
            max(g) - min(g) for g in (values[i : i + size] for i in range(0, len(values), size))
        ]
        return _statistics(
            values, kl_sum / kl_tokens, [entropy_sum / tokens], spreads, tokens, clock
        )

    def _loss(self, packed, advantages, work, with_kl):
        """−Σ A log π + λ KL over one slice; with its KL, entropy (−Σ log π) and token count."""
        model = self.loaded.model
        with work.clock("forward"):
            with work.hold():
                states, targets, slots = predictor_states(model, packed)
            if with_kl:
                log_probs, kl = self._with_kl(packed, states, targets)
            else:
                log_probs = log_probabilities(model, states, targets, self.config.temperature)
                kl = torch.zeros_like(log_probs)
        weights = advantages.to(log_probs.device)[slots]
        loss = -(weights * log_probs).sum() + self.config.kl_coefficient * kl.sum()
        return loss, kl.sum().item(), -log_probs.detach().sum().item(), len(targets)

    def _with_kl(self, packed, states, targets):
        """Log-probabilities and KL to the base model, a token each `[N]`."""
        model, temperature = self.loaded.model, self.config.temperature
        with torch.no_grad(), self.svf.using({}):
            base_states, _, _ = predictor_states(model, packed)
        if self.config.kl_estimator == "full":
            return log_probabilities_and_kl(model, states, base_states, targets, temperature)
        log_probs = log_probabilities(model, states, targets, temperature)
        with torch.no_grad():
            base_log_probs = log_probabilities(model, base_states, targets, temperature)
        return log_probs, sampled_kl(log_probs, base_log_probs)


def sampled_kl(log_probs: torch.Tensor, base_log_probs: torch.Tensor) -> torch.Tensor:
    """KL(π_z ‖ π_base) a token `[N]` on the policy's own samples.

    The value is k3 = r − 1 − log r with r = π_base / π_z, unbiased and never below 0. The gradient
    is that of k2 = ½ (log r)²: differentiating k3 would give the gradient of KL(π_base ‖ π_z).
    """
    log_ratio = base_log_probs - log_probs
    k2, k3 = log_ratio.square() / 2, log_ratio.exp() - 1 - log_ratio
    return k2 + (k3 - k2).detach()


def policy_for(
    loaded: LoadedModel,
    svf: SVFModel,
    examples: Sequence[Example],
    reward: str,
    config: TrainConfig,
) -> ChoicePolicy | TextPolicy | NextTokenPolicy:
    """The policy that fits the objective and the examples' kind of action."""
    if config.objective == NEXT_TOKEN:
        return NextTokenPolicy(loaded, svf, config)
    kind = ChoicePolicy if action_of(examples) == CHOICE else TextPolicy
    return kind(loaded, svf, reward, config)


def _statistics(rewards, kl, entropies, spreads, tokens, clock) -> BatchStatistics:
    values = torch.tensor(rewards)
    return BatchStatistics(
        reward_mean=float(values.mean()),
        reward_sd=float(values.std(correction=0)),
        kl_policy_from_base=kl,
        entropy=sum(entropies) / len(entropies),
        equal_groups=sum(s == 0 for s in spreads) / len(spreads),
        tokens=tokens,
        seconds=dict(clock.seconds),
        weight=len(spreads),
    )

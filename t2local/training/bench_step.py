"""What one training step costs: memory, tokens/s, and where the time goes.

REINFORCE on free text with sequences of an exact length: short samples are repeated up to it, so
that forward and backward are those of full rows. Meant for a process of its own, whose peak of
memory is then the step's. Knows nothing of how the numbers are shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from t2local import paths
from t2local.adapt.actions import prompt_ids
from t2local.models.load import load_model
from t2local.progress import drain
from t2local.svf import attaching
from t2local.tasks.examples import Example
from t2local.training.clock import Clock
from t2local.training.config import TrainConfig
from t2local.training.loop import peak_memory_bytes
from t2local.training.methods import SVFMethod
from t2local.training.policies import TextPolicy
from t2local.training.step_work import StepWork

GROUP = 8  # samples a prompt
QUESTIONS = ("Tell me a long story about the sea.", "Tell me a long story about a town.")


@dataclass(frozen=True)
class StepCost:
    """`seconds`: keys sampling, forward, backward. `tokens`: those of the whole sequences."""

    peak_memory_bytes: int
    tokens: int
    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


class _FullLength(TextPolicy):
    """Samples of exactly `max_new_tokens` tokens."""

    def sample(self, batch: Sequence[Example], seed: int, work: StepWork):
        completions, scored = super().sample(batch, seed, work)
        eos = self.loaded.tokenizer.eos_token_id
        n_tokens = self.config.max_new_tokens
        return [list(islice(cycle(c or [eos]), n_tokens)) for c in completions], scored


def step_cost(
    source: str,
    quantization: str,
    basis: str,
    sequences: int,
    sequence_tokens: int,
    rows_per_forward: int,
) -> StepCost:
    """One step of `sequences` rows of `sequence_tokens` tokens, prompt and completion together.

    Raises `T2LocalError` when the model cannot be loaded.
    """
    loaded = drain(load_model(source, quantization))
    folder = paths.basis_dir() / loaded.slug
    svf = drain(attaching(loaded.model, "all", basis, folder))
    batch = [Example(q, "the") for q in QUESTIONS[: max(1, sequences // GROUP)]]
    prompt_tokens = max(len(prompt_ids(loaded, example)) for example in batch)
    config = TrainConfig(
        prompts_per_step=len(batch),
        samples_per_prompt=sequences // len(batch),
        max_new_tokens=max(1, sequence_tokens - prompt_tokens),
        rows_per_forward=rows_per_forward,
    )
    policy = _FullLength(loaded, svf, "contains", config)
    method = SVFMethod(loaded, svf)
    z, clock = method.start().requires_grad_(), Clock()
    with clock("forward"):
        hold = method.holding(z)
    statistics = policy.accumulate(batch, StepWork(1, hold, clock))
    torch.optim.AdamW([z], lr=config.learning_rate, weight_decay=0.0).step()
    tokens = sequences * (prompt_tokens + config.max_new_tokens)
    return StepCost(peak_memory_bytes(), tokens, statistics.seconds)

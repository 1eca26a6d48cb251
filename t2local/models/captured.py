"""Captured steps for one answer at a time: chosen for it by themselves, and left without a word.

The prompt is read by the ordinary forward into a growing cache; the first step copies that into the
fixed one, and `ordinary` gives it back for the next turn. Only families whose steps were compared
with the ordinary forward take part, on one CUDA device. Whatever cannot be captured, and an answer
that finds the fixed cache in use by another, goes on ordinarily. Knows nothing of `z`.
"""

import logging
import weakref
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from t2local.models.decode.cuda_graphs import StepDecoder
from t2local.models.decode.generate import Around, Decoder, Sampling
from t2local.models.load.loader import LoadedModel
from t2local.models.positions import positions_problem

FAMILIES = {
    "GemmaForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
}
SMALLEST = 1024  # tokens of the fixed cache; doubled as often as an answer needs it
TOO_LARGE = 4  # times what an answer needs: attention reads all of a fixed cache at every step
TRIAL = (0, 1)  # tokens that every model has
LOG = logging.getLogger(__name__)


def why_not(loaded: LoadedModel) -> str:
    """Why this model's steps are not captured, in a few words; "" when they are."""
    family = type(loaded.model).__name__
    if not loaded.device.startswith("cuda"):
        return f"CUDA graphs need a CUDA device, the model is on {loaded.device}"
    if loaded.spread:
        return "its layers are spread over several devices"
    if loaded.quantization == "int8":
        return "8-bit bitsandbytes layers look at their input on the CPU"
    if family not in FAMILIES:
        return f"{family} is not among the families whose captured steps were compared"
    return positions_problem(loaded.model.config)


class CapturedCache:
    """Keys and values of one sequence in the fixed cache, which is in use while this is alive."""

    def __init__(self, decoder: StepDecoder) -> None:
        self.decoder = decoder

    def get_seq_length(self) -> int:
        """Tokens read so far, by the name that transformers' caches use."""
        return self.decoder.length

    def ordinary(self) -> DynamicCache:
        """The same as transformers' cache; a copy."""
        return self.decoder.ordinary()


class CapturedSteps:
    """The fixed cache of `loaded` and the graphs on it. `problem`: why there will be no more.

    Guarded by the model's lock (`SVFModel.lock`), which the caller holds.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._decoder: StepDecoder | None = None
        self._in_use: weakref.ref[CapturedCache] | None = None
        self.problem = ""

    def take(self, ordinary: DynamicCache, n_tokens: int) -> CapturedCache | None:
        """The fixed cache with what `ordinary` holds and room for `n_tokens` in all.

        None while another answer has it, and where there is a `problem`.
        """
        if self.problem or (self._in_use is not None and self._in_use() is not None):
            return None
        try:
            decoder = self._fitting(n_tokens)
            decoder.take_over(ordinary)
        except torch.OutOfMemoryError:
            self._give_up(f"there is no memory for a fixed cache of {n_tokens:,} tokens")
            return None
        cache = CapturedCache(decoder)
        self._in_use = weakref.ref(cache)
        return cache

    def step(self, cache: CapturedCache, tokens: Tensor, variant: str, around: Around) -> Tensor:
        """As `StepDecoder.step`; what could not be captured ran as it is, and is a `problem`."""
        logits = cache.decoder.step(tokens, variant, around)
        if cache.decoder.problem:
            self._give_up(cache.decoder.problem)
        return logits

    def trial(self) -> str:
        """Capture a step of the model as it is: the `problem` there was, "" for none."""
        decoder = Decoder(self._loaded, TRIAL, Sampling(temperature=0.0, max_new_tokens=2))
        decoder.push(decoder.sample(decoder.logits()))
        decoder.quickly(Variant(self, "base", nullcontext))
        return self.problem

    def release(self) -> None:
        """Give the fixed cache's memory back once nobody uses it; the next answer makes another."""
        self._decoder = self._in_use = None

    def _fitting(self, n_tokens: int) -> StepDecoder:
        size, most = SMALLEST, self._loaded.context_length
        while size < n_tokens:
            size *= 2
        size = min(size, most)
        there = self._decoder
        if there is None or not size <= there.max_tokens <= TOO_LARGE * size:
            self._decoder = there = None  # freed before its successor is made
            self._decoder = StepDecoder(self._loaded.model, 1, size)
        return self._decoder

    def _give_up(self, problem: str) -> None:
        self.release()
        self.problem = problem
        LOG.warning("Answers are written by plain steps: %s.", problem)


@dataclass(frozen=True)
class Variant:
    """Captured steps under what `around()` puts in force; `name` as in `StepDecoder.step`."""

    steps: CapturedSteps
    name: str
    around: Around

    def begin(self, ordinary: DynamicCache, n_tokens: int) -> CapturedCache | None:
        """See `CapturedSteps.take`."""
        return self.steps.take(ordinary, n_tokens)

    def step(self, cache: CapturedCache, tokens: Tensor) -> Tensor:
        """Next-token logits `[1, V]` after one more token `[1]`."""
        return self.steps.step(cache, tokens, self.name, self.around)

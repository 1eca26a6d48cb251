"""CUDA graphs for decoding: one step on a fixed KV cache is captured once and then replayed.

The prompt is read by the ordinary forward; the first step copies its cache into the fixed one, and
`ordinary` gives it back for the next turn. Used for one answer at a time, on one CUDA device, by
families whose steps were compared with the ordinary forward. A step that cannot be captured, and an
answer that finds the fixed cache in use, run the ordinary forward.
"""

import logging
import warnings
import weakref
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

from t2local.models.decode.generate import Around, Decoder, Sampling
from t2local.models.fit.anatomy import positions_problem
from t2local.models.load.loader import LoadedModel
from t2local.models.storage import QUANTIZATIONS

WARM_UPS = 2  # kernels are compiled and chosen before they are captured
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


class StepDecoder:
    """`rows` rows of at most `max_tokens` tokens each: `read` the prompts, then `step` by step.

    One `z` (or one for each row) must hold from `read` or `take_over` on. `captured`: whether
    steps are replayed.
    """

    def __init__(self, model: PreTrainedModel, rows: int, max_tokens: int) -> None:
        self.model, self.rows, self.max_tokens = model, rows, max_tokens
        device = model.device
        self._cache = StaticCache(config=model.config, max_cache_len=max_tokens)
        sliding = any(layer.is_sliding for layer in self._cache.layers)
        self.captured = device.type == "cuda" and not sliding
        self.problem = ""  # why a step could not be captured, once that was tried
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._positions = torch.zeros_like(self._ids)
        hidden = torch.finfo(model.dtype).min
        self._hidden = torch.full(
            (rows, 1, 1, max_tokens), hidden, dtype=model.dtype, device=device
        )
        self._mask = self._hidden.clone()  # added to the attention scores: 0 where a row may look
        self._sliding, self._seen = sliding, torch.ones(rows, 0, dtype=torch.long, device=device)
        self._graphs: dict[str, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    @torch.no_grad()
    def read(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Next-token logits `[B, V]` after the prompts `ids` `[B, T]`, left-padded where `mask`
        `[B, T]` is 0. Starts anew: what was read before is forgotten; graphs stay valid."""
        assert (len(ids), ids.shape[1] < self.max_tokens) == (self.rows, True), ids.shape
        self._seen = torch.ones_like(ids) if mask is None else mask
        if self._cache.is_initialized:
            self._cache.reset()
        positions = (self._seen.cumsum(-1) - 1).clamp(min=0)
        self._positions.copy_(positions[:, -1:])
        self._mask.copy_(self._hidden)
        self._mask[:, 0, 0, : ids.shape[1]].masked_fill_(self._seen.bool(), 0)
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    @property
    def length(self) -> int:
        """Tokens in each row's cache, padding included."""
        return self._seen.shape[1]

    @torch.no_grad()
    def take_over(self, ordinary: DynamicCache) -> None:
        """Start anew from what the ordinary forward has read, without padding; graphs stay valid.

        The numbers are copied: `ordinary` may be dropped.
        """
        n_seen = ordinary.get_seq_length()
        assert 0 < n_seen < self.max_tokens, (n_seen, self.max_tokens)
        if self._cache.is_initialized:
            self._cache.reset()  # what lies behind the mask must be a number too
        for ours, theirs in zip(self._cache.layers, ordinary.layers, strict=True):
            if not ours.is_initialized:
                ours.lazy_initialization(theirs.keys, theirs.values)
            ours.keys[:, :, :n_seen] = theirs.keys
            ours.values[:, :, :n_seen] = theirs.values
            ours.cumulative_length.fill_(n_seen)
        self._seen = self._ids.new_ones(self.rows, n_seen)
        self._positions.fill_(n_seen - 1)
        self._mask.copy_(self._hidden)
        self._mask[..., :n_seen] = 0

    @torch.no_grad()
    def ordinary(self) -> DynamicCache:
        """What is in the cache as transformers' growing one; a copy."""
        cache = DynamicCache()
        for index, layer in enumerate(self._cache.layers):
            keys, values = (t[:, :, : self.length].clone() for t in (layer.keys, layer.values))
            cache.update(keys, values, index)
        return cache

    @torch.no_grad()
    def step(self, tokens: Tensor, variant: str = "base", around: Around = nullcontext) -> Tensor:
        """Next-token logits `[B, V]` after one more token `[B]` a row.

        `variant` names what `around()` puts in force; each is captured once, at its first step,
        and `around` is not entered again: its tensors may change their numbers, not their places.
        Where that fails, `problem` says why, and this step and the later ones run eagerly.
        """
        n_seen = self.length
        assert 0 < n_seen < self.max_tokens, (n_seen, self.max_tokens)
        self._ids.copy_(tokens[:, None])
        self._positions += 1
        self._mask[..., n_seen] = 0
        self._seen = torch.cat([self._seen, torch.ones_like(self._ids)], dim=1)
        if self.captured and variant not in self._graphs:
            self._capture(variant, around)
        if not self.captured:
            with around():
                return self._forward()
        graph, logits = self._graphs[variant]
        graph.replay()
        return logits.clone()

    def _forward(self) -> Tensor:
        return self.model(
            input_ids=self._ids,
            attention_mask=self._seen if self._sliding else self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _capture(self, variant: str, around: Around) -> None:
        """Record one step; the cache is as it was before, but for slots that come next."""
        lengths = [layer.cumulative_length.clone() for layer in self._cache.layers]
        device, graph = self._ids.device, torch.cuda.CUDAGraph()
        with torch.cuda.device(device), around():
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._forward()
                    self._rewind(lengths)
            torch.cuda.current_stream().wait_stream(side)
            try:  # other threads may allocate meanwhile: only this one's calls are watched
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    logits = self._forward()
            except RuntimeError as error:
                self.problem = str(error).partition("\n")[0].rstrip(".")
                warnings.warn(f"Steps run one kernel at a time: {self.problem}.", stacklevel=2)
                self.captured = False
                self._rewind(lengths)
                return
        self._graphs[variant] = (graph, logits)

    def _rewind(self, lengths: list[Tensor]) -> None:
        for layer, length in zip(self._cache.layers, lengths, strict=True):
            layer.cumulative_length.copy_(length)


# --- The graphs of a loaded model, for one answer at a time.


def why_not(loaded: LoadedModel) -> str:
    """Why this model's steps are not captured, in a few words; "" when they are."""
    family = type(loaded.model).__name__
    if not loaded.device.startswith("cuda"):
        return f"CUDA graphs need a CUDA device, the model is on {loaded.device}"
    if loaded.spread:
        return "its layers are spread over several devices"
    if problem := QUANTIZATIONS[loaded.quantization].no_graphs:
        return problem
    if family not in FAMILIES:
        return f"{family} is not among the families whose captured steps were compared"
    return positions_problem(loaded.model.config)


class GraphCache:
    """Keys and values of one sequence in the fixed cache, which is in use while this is alive."""

    def __init__(self, decoder: StepDecoder) -> None:
        self.decoder = decoder

    def get_seq_length(self) -> int:
        """Tokens read so far, by the name that transformers' caches use."""
        return self.decoder.length

    def ordinary(self) -> DynamicCache:
        """The same as transformers' cache; a copy."""
        return self.decoder.ordinary()


class GraphSteps:
    """The fixed cache of `loaded` and the graphs on it. `problem`: why there will be no more.

    Guarded by the model's lock (`SVFModel.lock`), which the caller holds.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._decoder: StepDecoder | None = None
        self._in_use: weakref.ref[GraphCache] | None = None
        self.problem = ""

    def take(self, ordinary: DynamicCache, n_tokens: int) -> GraphCache | None:
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
        cache = GraphCache(decoder)
        self._in_use = weakref.ref(cache)
        return cache

    def step(self, cache: GraphCache, tokens: Tensor, variant: str, around: Around) -> Tensor:
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

    steps: GraphSteps
    name: str
    around: Around
    several = None

    def begin(self, ordinary: DynamicCache, n_tokens: int) -> GraphCache | None:
        """See `GraphSteps.take`."""
        return self.steps.take(ordinary, n_tokens)

    def step(self, cache: GraphCache, tokens: Tensor) -> Tensor:
        """Next-token logits `[1, V]` after one more token `[1]`."""
        return self.steps.step(cache, tokens, self.name, self.around)

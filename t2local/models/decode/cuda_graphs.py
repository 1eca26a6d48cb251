"""Decoding step by step on a fixed KV cache, as a captured CUDA graph where there is CUDA.

A step of a 4-bit 8B model is a thousand small kernels; launched one by one from Python they take
longer than they run. Captured once for a variant (the base model, the adapted one), a step is one
launch. A graph replays on the addresses it was captured with: so cache, mask, positions and tokens
live in tensors that stay, and whoever adapts the model keeps its numbers in place too. Elsewhere,
and for models with sliding windows, the same step runs eagerly. Knows nothing of adaptation.
"""

import warnings
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

from t2local.models.decode.generate import Around

WARM_UPS = 2  # kernels are compiled and chosen before they are captured


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

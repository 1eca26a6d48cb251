"""One decoding step of a packed model, in as few operations as PyTorch allows, and its KV cache.

A token passes four products a layer (q, k, v and gate, up stacked), attention over a cache that
was allocated beforehand, and nothing else: transformers' own forward spends a third of its time
between the products. Batch 1, CPU. Prompts are read by the ordinary forward; `FastCache` takes its
cache over and gives one back. Knows nothing of sampling or `z`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from t2local.models.decode.int8 import PackedModel

ROOM = 256  # tokens that a cache grows by at least


class FastCache:
    """Keys and values of one sequence, with room for tokens to come: `[1, K, capacity, d]` each."""

    def __init__(self, ordinary: DynamicCache) -> None:
        """Take over what the ordinary forward has read."""
        self.length = self.capacity = ordinary.get_seq_length()
        self.keys = [layer.keys for layer in ordinary.layers]
        self.values = [layer.values for layer in ordinary.layers]

    def get_seq_length(self) -> int:
        """Tokens read so far, by the name that transformers' caches use."""
        return self.length

    def make_room(self) -> None:
        """See that one more token fits."""
        if self.length < self.capacity:
            return
        self.capacity = max(self.length + ROOM, self.length * 3 // 2)
        self.keys = [self._grown(old) for old in self.keys]
        self.values = [self._grown(old) for old in self.values]

    def ordinary(self) -> DynamicCache:
        """The same as transformers' cache."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(keys[:, :, : self.length], values[:, :, : self.length], index)
        return cache

    def _grown(self, old: Tensor) -> Tensor:
        new = old.new_zeros(*old.shape[:2], self.capacity, old.shape[3])
        new[:, :, : self.length] = old[:, :, : self.length]
        return new


@dataclass(frozen=True)
class PackedSteps:
    """The steps of a packed model, as `Decoder.quickly` takes them."""

    model: PackedModel

    def begin(self, ordinary: DynamicCache, n_tokens: int) -> FastCache:
        """Take the cache over; it grows by itself, whatever `n_tokens` come to be."""
        return FastCache(ordinary)

    def step(self, cache: FastCache, tokens: Tensor) -> Tensor:
        """Next-token logits `[1, V]` after one more token `[1]`."""
        return fast_step(self.model, cache, int(tokens))


@torch.no_grad()
def fast_step(model: PackedModel, cache: FastCache, token: int) -> Tensor:
    """Next-token logits `[1, V]` after `token`, which joins the cache."""
    cache.make_room()
    here, size, kv_heads = cache.length, model.head_size, model.kv_heads
    rotated = model.heads + kv_heads  # rows of q and k; those of v follow
    group = model.heads // kv_heads
    cosine, sine, half = model.cosines[here], model.sines[here], size // 2
    hidden, epsilon = model.embedding.shape[1:], model.epsilon
    x = model.embedding[token : token + 1]  # [1, h]
    for layer, keys, values in zip(model.layers, cache.keys, cache.values, strict=True):
        normed = torch.rms_norm(x, hidden, layer.attention_norm, epsilon)
        qkv = layer.qkv(normed).view(rotated + kv_heads, size)
        qk = qkv[:rotated]
        qk = torch.addcmul(qk * cosine, qk.roll(half, -1), sine)
        keys[0, :, here] = qk[model.heads :]
        values[0, :, here] = qkv[rotated:]
        # The heads that share keys are as many queries of one head: there is nothing to mask.
        heard = F.scaled_dot_product_attention(
            qk[: model.heads].view(1, kv_heads, group, size),
            keys[:, :, : here + 1],
            values[:, :, : here + 1],
        )
        x = x + layer.out(heard.reshape(1, -1))
        normed = torch.rms_norm(x, hidden, layer.mlp_norm, epsilon)
        gate, up = layer.gate_up(normed).chunk(2, dim=-1)
        x = x + layer.down(F.silu(gate).mul_(up))
    cache.length += 1
    return model.head(torch.rms_norm(x, hidden, model.norm, epsilon))

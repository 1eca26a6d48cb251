"""KV caches of earlier answers, so that a conversation's prefix is not read again.

A cache is only ever reused under the key it was kept with, a fingerprint of `z`: keys and values
computed under one `z` are wrong under any other. Knows nothing of how keys are made.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from transformers import DynamicCache


@dataclass(frozen=True)
class Kept:
    """A KV cache and the token ids it holds, one list for each row."""

    ids: list[list[int]]
    cache: DynamicCache


class PrefixCache:
    """The last few caches, one a key; taking one hands it over.

    Guarded by the model's lock (`SVFModel.lock`): whoever calls a method holds it.
    """

    def __init__(self, capacity: int = 2) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def put(self, key: Hashable, kept: Kept | None) -> None:
        """Keep a cache (None: nothing to keep); the one unused longest goes when it is full."""
        if kept is None:
            return
        self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def take(self, key: Hashable, prompt: Sequence[int], rows: int = 1) -> Kept | None:
        """The cache kept under `key`, cropped to the longest prefix it shares with `prompt`.

        At least the prompt's last token is left to be read, since its logits are wanted. None when
        there is nothing to reuse. The entry is handed over: `put` it back after the answer.
        """
        kept = self._kept.pop(key, None)
        if kept is None or len(kept.ids) != rows:
            return None
        n_cached = len(kept.ids[0])
        shared = min(_common_prefix(ids, prompt) for ids in kept.ids)
        shared = min(shared, len(prompt) - 1)
        if shared == 0:
            return None
        kept.cache.crop(shared - n_cached)  # a negative number: tokens to remove
        return Kept(ids=[ids[:shared] for ids in kept.ids], cache=kept.cache)

    def clear(self) -> None:
        """Forget everything: another model is loaded."""
        self._kept.clear()


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))

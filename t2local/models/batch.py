"""Rows that are written together: their tokens, mask, KV cache and next-token logits.

Rows are padded on the left and positions are counted without padding, so a row gives the logits it
would give alone. Rows leave when they have ended; whoever set a `z` a row is told which remain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from t2local.models.load.loader import LoadedModel


@dataclass
class Batch:
    """`ids`, `mask` `[b, T]` (1: a real token), `logits` `[b, V]` of each row's next token.

    `rows`: the original row of each row that is still in the batch.
    """

    model: PreTrainedModel
    ids: Tensor
    mask: Tensor
    cache: DynamicCache
    logits: Tensor | None = None
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = self.rows or list(range(len(self.ids)))

    @classmethod
    def read(cls, loaded: LoadedModel, prompts: Sequence[Sequence[int]], share: bool) -> "Batch":
        """Read `prompts`, none of them empty; `share`: equal ones once, under one z for all."""
        rows = [tuple(prompt) for prompt in prompts]
        distinct = list(dict.fromkeys(rows)) if share else rows
        ids, mask = padded(distinct)
        longest = ids.shape[1]
        assert longest < loaded.context_length, (longest, loaded.context_length)
        device = loaded.model.device
        batch = cls(loaded.model, ids.to(device), mask.to(device), DynamicCache())
        batch._forward(batch.ids, (batch.mask.cumsum(-1) - 1).clamp(min=0))
        if len(distinct) < len(rows):
            batch._select([distinct.index(row) for row in rows])
            batch.rows = list(range(len(rows)))
        return batch

    @classmethod
    def joined(cls, parts: Sequence["Batch"]) -> "Batch":
        """Batches of equal width and no lost rows as one."""
        if len(parts) == 1:
            return parts[0]
        cache = DynamicCache()
        for place, layers in enumerate(zip(*(part.cache.layers for part in parts), strict=True)):
            keys = torch.cat([layer.keys for layer in layers])
            values = torch.cat([layer.values for layer in layers])
            cache.update(keys, values, place)
        columns = ([p.ids for p in parts], [p.mask for p in parts], [p.logits for p in parts])
        ids, mask, logits = map(torch.cat, columns)
        return cls(parts[0].model, ids, mask, cache, logits)

    def append(self, tokens: Tensor) -> None:
        """Add chosen tokens [b]; `step` reads them."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)

    def keep(self, kept: list[int]) -> None:
        """Drop all rows but those at these places."""
        self.rows = [self.rows[i] for i in kept]
        self._select(kept)

    def step(self) -> None:
        """Next-token logits after the tokens appended last."""
        self._forward(self.ids[:, -1:], self.mask.sum(-1, keepdim=True) - 1)

    def _select(self, places: list[int]) -> None:
        index = torch.tensor(places, device=self.ids.device)
        self.ids, self.mask, self.logits = self.ids[index], self.mask[index], self.logits[index]
        self.cache.batch_select_indices(index)

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        self.logits = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # [b, V]


def padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """`ids` and `mask` `[b, T]`, prompts at the right; padding repeats a prompt's last token, which
    attention does not see and no repetition penalty counts anew."""
    assert all(prompts), "an empty prompt"
    longest = max(map(len, prompts))
    ids = [[row[-1]] * (longest - len(row)) + list(row) for row in prompts]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in prompts]
    return torch.tensor(ids), torch.tensor(mask)

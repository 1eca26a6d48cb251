"""Generation by our own loop over the model's forward: whole batches, or one streaming decode.

Prompts of a batch are padded on the left and positions are counted without padding, so each row
gets the logits that it would get alone. KV caches of earlier answers are kept, so that a
conversation's prefix is not read again.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from t2local.models.chat_format import Ends, answer_text, stop_strings, stop_tokens
from t2local.models.decode.sampling import Lookup, Sampling, choose, choose_and_tell
from t2local.models.load.loader import LoadedModel, Steps
from t2local.progress import CancelToken

__all__ = [
    "Around", "AroundRows", "Decoder", "Kept", "PrefixCache", "Quick", "Sampling", "generate_batch",
]  # fmt: skip

Around = Callable[[], AbstractContextManager]  # entered around each forward
AroundRows = Callable[[Sequence[int]], AbstractContextManager]  # the same, with the rows in it

# --- KV caches of earlier answers. One is only ever reused under the key it was kept with, a
# fingerprint of `z`: keys and values computed under one `z` are wrong under any other.


@dataclass(frozen=True)
class Kept:
    """A KV cache and the token ids it holds, one list for each row."""

    ids: list[list[int]]
    cache: DynamicCache


class PrefixCache:
    """The last few caches, one a key; taking one hands it over.

    Guarded by the model's lock (`SVFModel.lock`): whoever calls a method holds it.
    """

    def __init__(self, capacity: int = 3) -> None:
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


# --- Rows that are written together: their tokens, mask, KV cache and next-token logits.
#
# Rows are padded on the left and positions are counted without padding, so a row gives the logits
# it would give alone. Rows leave when they have ended; whoever set a `z` a row is told which
# remain.


@dataclass
class Batch:
    """Rows that are written together: tokens, mask, KV cache and next-token logits.

    `ids`, `mask` `[b, T]` (1: a real token); `logits` `[b, V]` of each row's next token. Rows leave
    when they have ended; `rows`: the original row of each that remains.
    """

    model: PreTrainedModel
    ids: Tensor
    mask: Tensor
    cache: DynamicCache
    logits: Tensor | None = None
    rows: list[int] = field(default_factory=list)
    steps: Steps | None = None  # quicker ones than the forward, which then keep their own caches
    caches: list[Any] | None = None

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
        batch.steps = loaded.steps
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
        return cls(parts[0].model, ids, mask, cache, logits, steps=parts[0].steps)

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
        deltas = self.steps.deltas if self.steps else None
        if deltas is not None and self.caches is None:
            padding = (self.mask == 0).sum(dim=1).tolist()
            self.caches = [self.steps.row(self.cache, i, n) for i, n in enumerate(padding)]
            self.cache = DynamicCache()
        if self.caches is not None:
            assert deltas is not None, "another kind of adaptation than the rows began under"
            self.logits = self.steps.step(self.caches, self.ids[:, -1], deltas)
            return
        self._forward(self.ids[:, -1:], self.mask.sum(-1, keepdim=True) - 1)

    def _select(self, places: list[int]) -> None:
        index = torch.tensor(places, device=self.ids.device)
        self.ids, self.mask, self.logits = self.ids[index], self.mask[index], self.logits[index]
        if self.caches is None:
            self.cache.batch_select_indices(index)
        else:
            self.caches = [self.caches[place] for place in places]

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


class StepCache(Protocol):
    """Keys and values of one sequence, held in some way of their own."""

    def get_seq_length(self) -> int:
        """Tokens read so far, by the name that transformers' caches use."""

    def ordinary(self) -> DynamicCache:
        """The same as transformers' cache."""


class Quick(Protocol):
    """A faster way to make a single row's steps, under the `z` that it was made for."""

    def begin(self, ordinary: DynamicCache, n_tokens: int) -> StepCache | None:
        """Take a cache over that may grow to `n_tokens`; None where that cannot be just now."""

    def step(self, cache: StepCache, tokens: Tensor) -> Tensor:
        """Next-token logits `[1, V]` after one more token `[1]`, which joins the cache."""

    @property
    def several(self) -> Callable[[StepCache, Tensor], Tensor] | None:
        """The same after each of some tokens `[k]`: `[k, V]`. Only the first joins the cache; the
        others do by its `take_in`, one after the other. None where that is no faster."""


@torch.no_grad()
def generate_batch(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    cancel: CancelToken | None = None,
    *,
    around: Around = nullcontext,
    around_rows: AroundRows | None = None,
    begun: Batch | None = None,
    keep_end: bool = False,
    among: tuple[Sequence[int], int] | None = None,
    log_mu: list[list[float]] | None = None,
) -> list[list[int]]:
    """One completion (token ids, without the end token) for each prompt; callers repeat prompts.

    `around()` is entered around each forward alone: what adapts or holds the model. Where each row
    has its own `z`, `around_rows(rows)` is entered instead, with the prompts' places that are still
    in the batch: finished rows leave it. Without it, equal prompts are read once. `begun`: the
    prompts as they have been read already. A row's random numbers do not depend on the others.
    `keep_end`: what ended a row, a token or the next speaker's name, belongs to its completion.
    `among`: (places, total): the prompts stand at these places of a larger batch and get its random
    numbers. `log_mu`: an empty list, for log μ of each token that is kept, as it was drawn (with
    `keep_end`). Raises `Cancelled` between tokens.
    """
    if not prompts:
        return []
    assert log_mu is None or keep_end, "log μ is of whole completions"
    cancel = cancel or CancelToken()
    ends, generator = _ends(loaded), sampling.generator()
    own, total = among or (range(len(prompts)), len(prompts))
    said: list[list[int]] = [[] for _ in prompts]
    running = dict.fromkeys(range(len(prompts)))  # rows that still speak, in order

    def held() -> AbstractContextManager:
        return around() if around_rows is None else around_rows(batch.rows if batch else places)

    places, batch = list(range(len(prompts))), begun
    if batch is None:
        with held():
            batch = Batch.read(loaded, prompts, share=around_rows is None)
    n_steps = most_tokens(loaded, batch.ids.shape[1], sampling)
    for step in range(n_steps):
        cancel.raise_if_cancelled()
        uniform = torch.rand(total, generator=generator, dtype=torch.float64)[list(own)]
        tokens = _chosen(batch, sampling, uniform[batch.rows], running, log_mu)  # [b]
        for row, token in zip(batch.rows, tokens.tolist(), strict=True):
            if row in running and (token not in ends.tokens or keep_end):
                said[row].append(token)
            if row in running and (token in ends.tokens or ends.named(said[row])):
                del running[row]
        if not running or step == n_steps - 1:
            break
        batch.append(tokens)
        if 2 * len(running) < len(batch.rows):
            batch.keep([i for i, row in enumerate(batch.rows) if row in running])
        with held():
            batch.step()
    return said if keep_end else [ends.without_name(ids) for ids in said]


def _chosen(
    batch: Batch,
    sampling: Sampling,
    uniform: Tensor,
    running: Collection[int],
    log_mu: list[list[float]] | None,
) -> Tensor:
    """The rows' next tokens [b]; log μ of those that still speak is appended to theirs."""
    given = (batch.logits, batch.ids, sampling, uniform)
    if log_mu is None:
        return choose(*given)
    tokens, likely = choose_and_tell(*given)
    log_mu += [[] for _ in range(max(batch.rows) + 1 - len(log_mu))]
    for row, value in zip(batch.rows, likely.tolist(), strict=True):
        if row in running:
            log_mu[row].append(value)
    return tokens


def most_tokens(loaded: LoadedModel, prompt_tokens: int, sampling: Sampling) -> int:
    """As long as an answer may be after a prompt so long; one that is longer was cut."""
    return min(int(sampling.max_new_tokens), loaded.context_length - prompt_tokens)


class Decoder:
    """One streaming decode of `rows` rows that begin with the same prompt.

    The loop is the caller's: `logits`, `sample` (or any other choice), `push` until `done`. Between
    tokens the caller may change `z` and say so with `forget`. One row answers; two rows are base
    beside adapted, under a `z` a row.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prompt: Sequence[int],
        sampling: Sampling,
        rows: int = 1,
        cache: Kept | None = None,
    ) -> None:
        """`prompt` must fit the context; `cache`: from `PrefixCache.take` for this prompt and z."""
        assert 0 < len(prompt) < loaded.context_length, (len(prompt), loaded.context_length)
        assert cache is None or len(cache.ids) == rows, "a cache of another number of rows"
        self.loaded = loaded
        self.sampling = sampling
        self.said: list[list[int]] = [[] for _ in range(rows)]  # without the end token
        self.finished = [False] * rows  # rows that ended by themselves, not at the limit
        self.n_quick = 0  # tokens that a quick way served
        self._n_prompt = len(prompt)
        self._ids = torch.tensor([list(prompt)] * rows, device=loaded.model.device)  # [B, T]
        self._cache: DynamicCache | StepCache | None = cache.cache if cache else None
        self._logits: Tensor | None = None
        self._generator = sampling.generator()
        self._ends = _ends(loaded)
        self._lookup = Lookup()
        self._ahead: list[tuple[int, Tensor]] = []  # guessed tokens, the logits after each
        self._guess = (0, 0)  # how many were guessed last, how many of them came true

    @torch.no_grad()
    def read(self, n_tokens: int) -> bool:
        """Read the next `n_tokens` of a long prompt; False when what is left is no longer."""
        cache = self._ordinary_cache()
        cached = cache.get_seq_length()
        if self._ids.shape[1] - cached <= n_tokens:
            return False
        self.loaded.model(
            input_ids=self._ids[:, cached : cached + n_tokens],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return True

    def logits(self, quick: Quick | None = None) -> Tensor:
        """Next-token logits [B, V] of the current sequences; reads what is not in the cache.

        `quick`: serves a single row's next token where it can, for the `z` in force.
        """
        found = None if quick is None else self.quickly(quick)
        return self._by_the_model() if found is None else found

    @torch.no_grad()
    def quickly(self, quick: Quick) -> Tensor | None:
        """The same by `quick` alone, which has the `z` in it; None where it cannot serve."""
        assert len(self._ids) == 1, "quick steps serve a single row"
        if self._logits is None and self.one_unread:
            if isinstance(self._cache, DynamicCache):
                begun = quick.begin(self._cache, self._most_tokens)
                if begun is None:
                    return None
                self._cache = begun
            found = self._guessed() if self._ahead else None
            self._logits = self._read_on(quick) if found is None else found
            self.n_quick += 1
        return self._logits

    def _guessed(self) -> Tensor | None:
        """The logits that were read ahead, where the last token is the one that was guessed."""
        (token, logits), *self._ahead = self._ahead
        if token != self._ids[0, -1]:
            return None
        self._cache.take_in()
        self._guess = (self._guess[0], self._guess[1] + 1)
        return logits

    def _read_on(self, quick: Quick) -> Tensor:
        """The logits after the last token; those after a guess are read together with them."""
        if self._guess[0]:
            self._lookup.learn(*self._guess)
        able = getattr(quick, "several", None) is not None
        guess = self._lookup.guess(self._ids[0].tolist()) if able else []
        guess = guess[: max(0, self._most_tokens - self.context_used - 1)]
        self._ahead, self._guess = [], (len(guess), 0)
        if not guess:
            return quick.step(self._cache, self._ids[:, -1])
        tokens = torch.cat([self._ids[0, -1:], torch.tensor(guess)])
        first, *others = quick.several(self._cache, tokens).split(1)
        self._ahead = list(zip(guess, others, strict=True))
        return first

    @torch.no_grad()
    def _by_the_model(self) -> Tensor:
        if self._logits is None:
            cache = self._ordinary_cache()
            self._logits = self.loaded.model(
                input_ids=self._ids[:, cache.get_seq_length() :],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        return self._logits

    @torch.no_grad()
    def sample(self, logits: Tensor) -> Tensor:
        """Tokens [B] drawn from `logits` [B, V] with one random number for all rows."""
        uniform = torch.rand(1, generator=self._generator, dtype=torch.float64)
        return choose(logits, self._ids, self.sampling, uniform.expand(len(logits)))

    def push(self, tokens: Tensor) -> None:
        """Append chosen tokens [B]; a row that has ended ignores its one."""
        for row, token in enumerate(tokens.tolist()):
            if not self.finished[row] and token not in self._ends.tokens:
                self.said[row].append(token)
                self.finished[row] = self._ends.named(self.said[row])
            else:
                self.finished[row] = True
        self._ids = torch.cat([self._ids, tokens[:, None].to(self._ids)], dim=1)
        self._logits = None

    def forget(self) -> None:
        """Drop the KV cache: `z` changed, so the next `logits` reads everything again."""
        self._cache = self._logits = None
        self._ahead, self._guess = [], (0, 0)

    @property
    def n_tokens(self) -> int:
        """Tokens pushed so far in each row."""
        return self._ids.shape[1] - self._n_prompt

    @property
    def context_used(self) -> int:
        """Tokens of prompt and answer together."""
        return self._ids.shape[1]

    @property
    def at_limit(self) -> bool:
        """True when `max_new_tokens` are said or the context is full."""
        return self.context_used >= self._most_tokens

    @property
    def done(self) -> bool:
        return self.at_limit or all(self.finished)

    def texts(self) -> list[str]:
        """What each row has said, without what is incomplete at the end of one that goes on or was
        cut: half of a character, the beginning of the next speaker's name."""
        return [
            answer_text(self.loaded.tokenizer, said, complete=ended)
            for said, ended in zip(self.said, self.finished, strict=True)
        ]

    def kept(self) -> Kept | None:
        """The cache for `PrefixCache.put`, under the `z` of the last `logits`; then it is gone."""
        if self._cache is None:
            return None
        cache = self._ordinary_cache()
        kept = Kept(ids=self._ids[:, : cache.get_seq_length()].tolist(), cache=cache)
        self.forget()
        return kept

    @property
    def one_unread(self) -> bool:
        """True when all but the last token is in the cache."""
        cached = 0 if self._cache is None else self._cache.get_seq_length()
        return cached == self.context_used - 1 > 0

    @property
    def _most_tokens(self) -> int:
        """Tokens of prompt and answer together when the answer is as long as it may be."""
        return self._n_prompt + most_tokens(self.loaded, self._n_prompt, self.sampling)

    def _ordinary_cache(self) -> DynamicCache:
        if self._cache is None:
            self._cache = DynamicCache()
        elif not isinstance(self._cache, DynamicCache):
            self._cache = self._cache.ordinary()
            self._ahead = []  # was read into the other cache
        return self._cache


def _ends(loaded: LoadedModel) -> Ends:
    return Ends(loaded.tokenizer, frozenset(_stops(loaded)), stop_strings(loaded.tokenizer))


def _stops(loaded: LoadedModel) -> set[int]:
    return stop_tokens(loaded.tokenizer, loaded.model.generation_config.eos_token_id)

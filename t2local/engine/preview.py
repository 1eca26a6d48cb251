"""The likeliest next tokens, base beside adapted, after the words so far.

Reads the chat under each `z`; the base model's keys and values are kept between two moves of a
slider, those of another `z` never serve. Knows nothing of sessions.
"""

import time
from collections.abc import Mapping, Sequence

import torch

from t2local.adapt.context import check_messages, fit
from t2local.adapt.two_pass import Workshop, peek
from t2local.engine.requests import NextTokens
from t2local.models.decode.out_of_memory import ANSWER, Work, out_of_memory_told
from t2local.models.decode.prefix_cache import PrefixCache
from t2local.svf import Mixture

PREVIEW = Work("The preview of the next word", ANSWER.remedy)
ANSWER_TOKENS = 1  # room that the preview leaves in the context

Messages = Sequence[Mapping[str, str]]


class Previews:
    """`bars` for any session; two caches serve all, base and the last mixture."""

    def __init__(self) -> None:
        self._kept = PrefixCache(capacity=2)  # as the workshop's: its lock is held around it

    def bars(
        self, workshop: Workshop, messages: Messages, said: str, mixture: Mixture, k: int
    ) -> NextTokens:
        """The `k` likeliest tokens after `messages` and what the running answer has `said`.

        Raises `T2LocalError` when memory runs out.
        """
        started = time.perf_counter()
        messages, goes_on = so_far(messages, said)
        check_messages(messages)
        ids = fit(workshop.loaded, messages, ANSWER_TOKENS, goes_on).ids
        with out_of_memory_told(workshop.loaded, lambda: self._forget(workshop), PREVIEW):
            base = self._likeliest(workshop, ids, Mixture(), k)
            adapted = base if mixture.is_base else self._likeliest(workshop, ids, mixture, k)
        return NextTokens(base, adapted, seconds=time.perf_counter() - started)

    def _forget(self, workshop: Workshop) -> None:
        with workshop.lock():
            self._kept.clear()
            workshop.forget()

    @torch.no_grad()
    def _likeliest(
        self, workshop: Workshop, ids: list[int], mixture: Mixture, k: int
    ) -> tuple[tuple[str, float], ...]:
        tokenizer, applier = workshop.loaded.tokenizer, workshop.applier
        with workshop.lock(), applier.using(mixture):
            key = applier.key(mixture)
            probabilities, kept = peek(workshop.loaded, ids, self._kept.take(key, ids))
            self._kept.put(key, kept)
        values, tokens = probabilities.topk(min(k, len(probabilities)))
        texts = [tokenizer.decode([token]) for token in tokens.tolist()]
        return tuple(zip(texts, values.tolist(), strict=True))


def so_far(messages: Messages, said: str) -> tuple[Messages, bool]:
    """The chat with the running answer's words; whether its last message goes on."""
    if said and messages[-1]["role"] == "assistant":
        last = {"role": "assistant", "content": messages[-1]["content"] + said}
        return (*messages[:-1], last), True
    if said:
        return (*messages, {"role": "assistant", "content": said}), True
    return messages, bool(messages) and messages[-1]["role"] == "assistant"

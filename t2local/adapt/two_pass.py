"""Two passes: decide, then answer (paper, section 3.2), as a generator of typed events.

The model is held, through `lock`, for one step at a time, so that several answers, slider previews
and a training run can share it. The KV cache of an answer is dropped whenever `z` changes, for keys
and values computed under one `z` are wrong under another; within one `z` a chat's prefix is kept.
Knows nothing of pages, files or sessions.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch

from t2local.adapt.answer_stream import ADAPTED_ROW, Dispatch, Dispatched, Done, Steered, Token
from t2local.adapt.applier import Applier, MixtureKey
from t2local.adapt.context import check_messages, check_pictures, fit
from t2local.adapt.dispatch import Available, Controls, Reading, first_pass, strategy_of
from t2local.models.decode.generate import Decoder, Quick
from t2local.models.decode.out_of_memory import out_of_memory_told
from t2local.models.decode.prefix_cache import Kept, PrefixCache
from t2local.models.decode.sampling import Sampling
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import Mixture

PACK_AFTER = 16  # tokens under one mixture: short answers and moving sliders are not worth packing
WORTH_PACKING = 48  # tokens that an answer may have at most: below, packing takes longer than it
PREFILL_TOKENS = 512  # of a long prompt at a time: stop, the wheel and others come in between

Event = Dispatched | Steered | Token | Done


class Steering:
    """The wheel of one running answer: another thread may turn it between two tokens."""

    def __init__(self) -> None:
        self._newest: Mixture | None = None
        self._taken: Mixture | None = None

    def steer(self, mixture: Mixture) -> None:
        self._newest = mixture

    def take(self) -> Mixture | None:
        """The newest mixture since the last call, or None."""
        newest = self._newest
        if newest is self._taken:
            return None
        self._taken = newest
        return newest


@dataclass(frozen=True)
class PrefixKey:
    """What the KV cache of an answer was computed under.

    `exact`: without 8-bit copies, where there could have been some.
    """

    mixture: MixtureKey
    beside_base: bool
    exact: bool


@dataclass(frozen=True)
class Workshop:
    """What an answer works with: the model, its experts, kept caches, and the lock around them.

    `lock()`: the model's own, which the same thread may enter again.
    """

    loaded: LoadedModel
    applier: Applier
    prefixes: PrefixCache
    lock: Callable[[], AbstractContextManager]
    warnings: Mapping[str, str] = field(default_factory=dict)  # experts to be used with care
    available: Available = field(default_factory=Available)  # what pass 1 may choose

    def forget(self) -> None:
        """Give back what can be made again: kept caches, captured steps. Waits for the lock."""
        with self.lock():
            self.prefixes.clear()
            self.applier.release()


def dispatch(workshop: Workshop, message: str, controls: Controls) -> Dispatch:
    """Pass 1 alone. Raises `T2LocalError` for unknown experts or a missing classifier."""

    @contextmanager
    def under(reader: Mixture) -> Iterator[None]:
        with workshop.lock():
            workshop.applier.settle(reader)
            with workshop.applier.using(reader):
                yield

    started, available = time.perf_counter(), workshop.available
    (decision,) = first_pass(Reading(workshop.loaded, available, under), [message], controls)
    workshop.applier.check(decision.mixture)
    reader = strategy_of(controls.strategy).reader_of(available) if controls.asks else ""
    used = [*filter(None, [reader]), *decision.mixture.alpha]
    words = [decision.note, *(workshop.warnings.get(name, "") for name in used)]
    seconds = time.perf_counter() - started if controls.asks else 0.0
    return replace(decision, seconds=seconds, note=" ".join(filter(None, words)))


def answer(
    workshop: Workshop,
    messages: Sequence[Mapping[str, str]],
    controls: Controls,
    sampling: Sampling,
    steering: Steering | None = None,
    cancel: CancelToken | None = None,
    compare: bool = False,
    continue_last: bool = False,
) -> Generator[Event, None, None]:
    """Answer the last message of a chat: `Dispatched`, `Token`s and `Steered`s, `Done`.

    `compare`: the base model answers too, as row `BASE_ROW` of the same batch with the same random
    numbers. Raises `T2LocalError` for an empty message or unknown experts, before anything was
    said, and at any time when memory runs out.
    """
    check_messages(messages)
    check_pictures(workshop.loaded, messages)
    question = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    with out_of_memory_told(workshop.loaded, workshop.forget):
        decision = dispatch(workshop, question, controls)
        fitted = fit(workshop.loaded, messages, sampling.max_new_tokens, continue_last)
        if fitted.note:
            decision = replace(decision, note=f"{decision.note} {fitted.note}".strip())
        yield Dispatched(decision, len(fitted.ids), fitted.cut_tokens)
        yield from _speak(
            workshop, decision, fitted.ids, sampling, steering or Steering(), cancel, compare
        )


def _speak(
    workshop: Workshop,
    decision: Dispatch,
    prompt: list[int],
    sampling: Sampling,
    steering: Steering,
    cancel: CancelToken | None,
    compare: bool,
) -> Generator[Event, None, None]:
    """Pass 2: the answer's tokens under the decided mixture, or whatever the wheel says next."""
    applier, mixture, rows = workshop.applier, decision.mixture, 2 if compare else 1
    seconds, said, cancelled, whole = 0.0, [""] * rows, False, True
    since = 0  # tokens that were said when the mixture last changed
    may_pack = not (compare or sampling.exact) and sampling.max_new_tokens >= WORTH_PACKING
    exact = sampling.exact and applier.packs
    with workshop.lock():
        started = time.perf_counter()
        if not compare:
            applier.settle_if_repeated(mixture)
        key = PrefixKey(applier.key(mixture), compare, exact)
        kept = workshop.prefixes.take(key, prompt, rows)
        decoder = Decoder(workshop.loaded, prompt, sampling, rows, kept)
        seconds += time.perf_counter() - started
    try:
        while not decoder.done:
            if cancel is not None and cancel.cancelled:
                cancelled = True
                break
            turned = steering.take()
            if turned is not None and applier.key(turned) != applier.key(mixture):
                applier.check(turned)
                mixture, since = turned, decoder.n_tokens
                with workshop.lock():
                    decoder.forget()
                yield Steered(mixture, decoder.n_tokens, len(said[ADAPTED_ROW]))
            if may_pack and (decoder.n_tokens - since >= PACK_AFTER or sampling.repeatable):
                with workshop.lock():
                    started = time.perf_counter()
                    packing = applier.pack_on(mixture)
                    seconds += time.perf_counter() - started
                if packing and decoder.n_tokens == 0:  # repeated, it must not change on the way
                    continue
            whole = False  # an error inside a forward leaves layers of different lengths
            with workshop.lock():
                started = time.perf_counter()
                quick = None if compare else applier.quick(mixture, may_pack)
                reading = _next_token(applier, mixture, decoder, quick, compare)
                seconds += time.perf_counter() - started
            whole = True
            if reading:
                continue
            for row, text in enumerate(decoder.texts()):
                if text != said[row]:
                    new = text[len(said[row]) :]
                    said[row] = text
                    yield Token(new, row, len(decoder.said[row]))
    finally:
        with workshop.lock():
            kept = decoder.kept() if whole else None
            workshop.prefixes.put(PrefixKey(applier.key(mixture), compare, exact), kept)
    yield Done(
        texts=tuple(said),
        tokens=sum(len(row) for row in decoder.said),
        first_pass_s=decision.seconds,
        second_pass_s=seconds,
        finish="cancelled" if cancelled else "length" if not all(decoder.finished) else "stop",
        context_used=decoder.context_used,
        context_length=workshop.loaded.context_length,
        int8_tokens=decoder.n_quick if applier.packs else 0,
    )


def _next_token(
    applier: Applier,
    mixture: Mixture,
    decoder: Decoder,
    quick: Quick | None,
    compare: bool,
) -> bool:
    """Say the next token, or read a part of a long prompt: then True."""
    logits = None if quick is None else decoder.quickly(quick)
    if logits is not None:
        decoder.push(decoder.sample(logits))
        return False
    with applier.using(mixture, beside_base=compare):
        reading = decoder.read(PREFILL_TOKENS)
        if not reading:
            decoder.push(decoder.sample(decoder.logits()))
    return reading


def peek(
    loaded: LoadedModel, ids: Sequence[int], kept: Kept | None
) -> tuple[torch.Tensor, Kept | None]:
    """Probabilities `[V]` of the token after `ids`, under the `z` in force, and the KV cache."""
    decoder = Decoder(loaded, ids, Sampling(max_new_tokens=1), 1, kept)
    probabilities = decoder.logits()[0].float().softmax(dim=-1)
    return probabilities, decoder.kept()

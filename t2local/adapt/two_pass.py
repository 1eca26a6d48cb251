"""Two passes: decide, then answer (paper, section 3.2), as a generator of typed events.

The model is held, through `lock`, for one step at a time, so that several answers, slider previews
and a training run can share it. The KV cache of an answer is dropped whenever `z` changes, for keys
and values computed under one `z` are wrong under another; within one `z` a chat's prefix is kept.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch

from t2local.adapt.applier import Applier, MixtureKey
from t2local.adapt.choosing import Labels, choose, leading
from t2local.adapt.context import (
    Fitted,
    TooLong,
    check_length,
    check_messages,
    check_pictures,
    fit,
    without_thoughts,
)
from t2local.adapt.dispatch import (
    ADAPTED_ROW,
    BASE,
    Available,
    Controls,
    Dispatch,
    Dispatched,
    Done,
    Reading,
    Steered,
    Token,
    decide,
    first_pass,
    strategy_of,
    without_question,
)
from t2local.models.chat_format import encode_text
from t2local.models.decode.embedding import (
    MOST_TOKENS,
    depth_of_embedding,
    listening,
    message_span,
    pooled,
)
from t2local.models.decode.generate import Decoder, PrefixCache, Quick
from t2local.models.decode.out_of_memory import out_of_memory_told
from t2local.models.decode.sampling import Sampling
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import Mixture

WORTH_ROUNDING = 48  # tokens that an answer may have at most: below, a copy takes longer than it
# Of a long prompt at a time: stop, the wheel and the tokens of others come in between. A CPU reads
# fewer the larger the model is. (Not fewer the slower it is: the same seed gives the same answer.)
PREFILL_TOKENS, FEWEST_TOKENS = 512, 16
READ_BYTES = 20 * 10**9  # of weights × tokens: some tenths of a second on two cores

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
    choosers: Mapping[str, Labels] = field(default_factory=dict)  # experts trained to choose
    available: Available = field(default_factory=Available)  # what pass 1 may choose

    def forget(self) -> None:
        """Give back what can be made again: kept caches, CUDA graphs. Waits for the lock."""
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
    seconds = time.perf_counter() - started if controls.asks else 0.0
    return _with_warnings(workshop, replace(decision, seconds=seconds), controls)


def _with_warnings(workshop: Workshop, decision: Dispatch, controls: Controls) -> Dispatch:
    """The decision with a word about each expert that is used with care. `T2LocalError`."""
    workshop.applier.check(decision.mixture)
    asked = strategy_of(controls.strategy) if controls.asks else None
    reader = asked.reader_of(workshop.available) if asked else ""
    used = [*filter(None, [reader]), *decision.mixture.alpha]
    words = [decision.note, *(workshop.warnings.get(name, "") for name in used)]
    return replace(decision, note=" ".join(filter(None, words)))


def _reads_on(workshop: Workshop, controls: Controls) -> bool:
    """Whether pass 1 is a reading of the chat from which the base model's answer goes on."""
    can = workshop.available.prints is not None
    return can and controls.asks and strategy_of(controls.strategy).reads_on


def _read_and_decide(
    workshop: Workshop,
    messages: Sequence[Mapping[str, str]],
    fitted: Fitted,
    controls: Controls,
    sampling: Sampling,
    cancel: CancelToken | None,
) -> tuple[Dispatch, Decoder]:
    """Pass 1 by the base model's reading of the chat: the decision, and what has read it.

    The last message is always read, for its states are wanted; of what comes before it the cache
    of the answer before is used.
    """
    loaded, prints, started = workshop.loaded, workshop.available.prints, time.perf_counter()
    assert prints is not None, "without prints there is no such strategy"
    first, end = message_span(loaded, without_thoughts(messages), fitted.ids)
    end = min(end, first + MOST_TOKENS)  # as it is embedded alone
    before = fitted.ids[: len(fitted.ids) + first + 1]
    with workshop.lock():
        kept = workshop.prefixes.take(_base_key(workshop, sampling), before)
        decoder = Decoder(loaded, fitted.ids, sampling, 1, kept)
    states, reading, depth = [], True, depth_of_embedding(loaded)
    while reading:
        if cancel is not None and cancel.cancelled:
            return without_question(replace(controls, override=BASE)), decoder
        with (
            workshop.lock(),
            workshop.applier.using(Mixture()),
            listening(loaded.model, depth) as heard,
        ):
            reading = decoder.read(tokens_at_a_time(loaded))
            if not reading:
                decoder.logits()
        states += heard
    vector = pooled(states, end - first, end)
    (probabilities,) = prints.probabilities(vector[None])
    decision = decide(controls, probabilities, workshop.available.skills)
    near = tuple(prints.nearest(vector)) if probabilities else ()
    return replace(decision, near=near, seconds=time.perf_counter() - started), decoder


def _keep_reading(workshop: Workshop, sampling: Sampling, begun: Decoder | None) -> None:
    """Keep what pass 1 has read for the next message, which the base model reads as well."""
    if begun is not None:
        workshop.prefixes.put(_base_key(workshop, sampling), begun.kept())


def _base_key(workshop: Workshop, sampling: Sampling) -> "PrefixKey":
    applier = workshop.applier
    return PrefixKey(applier.key(Mixture()), False, sampling.exact and applier.rounds)


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
    check_length(workshop.loaded, messages, sampling.max_new_tokens)
    question = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    with out_of_memory_told(workshop.loaded, workshop.forget):
        fitted = fit(workshop.loaded, messages, sampling.max_new_tokens, continue_last)
        if _reads_on(workshop, controls) and not continue_last:
            decision, begun = _read_and_decide(
                workshop, messages, fitted, controls, sampling, cancel
            )
            decision = _with_warnings(workshop, decision, controls)
        else:
            decision, begun = dispatch(workshop, question, controls), None
        if fitted.note:
            decision = replace(decision, note=f"{decision.note} {fitted.note}".strip())
        if not (controls.write or continue_last) and leading(decision.mixture) in workshop.choosers:
            chosen = _choose(workshop, decision, fitted, compare)
            if chosen is not None:
                with workshop.lock():
                    _keep_reading(workshop, sampling, begun)
                yield from chosen
                return
        yield Dispatched(decision, len(fitted.ids), fitted.cut_tokens)
        speech = _Speech(workshop, decision.mixture, fitted, sampling, compare, begun)
        yield from _speak(workshop, decision, speech, steering or Steering(), cancel)


def _choose(
    workshop: Workshop, decision: Dispatch, fitted: Fitted, compare: bool
) -> list[Event] | None:
    """The events of an answer by the leading expert's labels; None where it has to write."""
    loaded, name, started = workshop.loaded, leading(decision.mixture), time.perf_counter()
    mixtures = [decision.mixture, *([Mixture()] if compare else [])]
    choices = []
    for mixture in mixtures:
        with workshop.lock():
            held = workshop.applier.using(mixture)
            choices.append(choose(loaded, name, workshop.choosers[name], fitted.ids, held))
    if any(choice is None for choice in choices):
        return None
    decision = replace(decision, choice=choices[ADAPTED_ROW])
    said = [(row, choice.label) for row, choice in enumerate(choices)]
    counts = [len(encode_text(loaded.tokenizer, label)) for _, label in said]
    return [
        Dispatched(decision, len(fitted.ids), fitted.cut_tokens),
        *(Token(label, row, n) for (row, label), n in zip(said, counts, strict=True)),
        Done(
            texts=tuple(label for _, label in said),
            tokens=sum(counts),
            first_pass_s=decision.seconds,
            second_pass_s=time.perf_counter() - started,
            finish="stop",
            context_used=len(fitted.ids) + max(counts),
            context_length=loaded.context_length,
        ),
    ]


def _speak(
    workshop: Workshop,
    decision: Dispatch,
    speech: "_Speech",
    steering: Steering,
    cancel: CancelToken | None,
) -> Generator[Event, None, None]:
    """Pass 2: the answer's tokens under the decided mixture, or whatever the wheel says next."""
    cancelled = False
    decoder = speech.decoder
    try:
        yield from speech.new_tokens()  # what the template has opened
        while not decoder.done:
            if cancel is not None and cancel.cancelled:
                cancelled = True
                break
            if speech.turn_to(steering.take()):
                yield Steered(speech.mixture, decoder.n_tokens, len(speech.said[ADAPTED_ROW]))
            if speech.round_on():
                continue
            if speech.step():
                yield from speech.new_tokens()
    finally:
        speech.keep_cache()
    yield Done(
        texts=tuple(speech.said),
        tokens=sum(len(row) for row in decoder.said),
        first_pass_s=decision.seconds,
        second_pass_s=speech.seconds,
        finish="cancelled" if cancelled else "length" if not all(decoder.finished) else "stop",
        context_used=decoder.context_used,
        context_length=workshop.loaded.context_length,
        int8_tokens=decoder.n_quick if workshop.applier.rounds else 0,
    )


class _Speech:
    """One answer on its way: its decoder, the mixture it is under, what was said, and how long.

    `said`: the text of each row so far, with what the template wrote of it. `seconds`: of work with
    the model, without waiting for it. `begun`: a decoder with which the base model has read the
    prompt in pass 1. Each method takes the model's lock where it needs it, for one step.
    """

    def __init__(
        self,
        workshop: Workshop,
        mixture: Mixture,
        prompt: Fitted,
        sampling: Sampling,
        compare: bool,
        begun: Decoder | None = None,
    ) -> None:
        rows = 2 if compare else 1
        self.mixture, self.said, self.seconds = mixture, [""] * rows, 0.0
        self._opening = prompt.opening
        self._workshop, self._applier, self._compare = workshop, workshop.applier, compare
        self._exact = sampling.exact and self._applier.rounds
        worth_it = sampling.max_new_tokens >= WORTH_ROUNDING
        self._may_round = worth_it and not (compare or sampling.exact)
        self._whole = True  # the cache's layers are of one length
        with self._at_work():
            if not compare and not (self._may_round and self._applier.rounds):
                self._applier.settle_if_repeated(mixture)
            if begun is not None and self._key() == _base_key(workshop, sampling):
                self.decoder = begun
                return
            kept = workshop.prefixes.take(self._key(), prompt.ids, rows)
            _keep_reading(workshop, sampling, begun)
            self.decoder = Decoder(workshop.loaded, prompt.ids, sampling, rows, kept)

    def turn_to(self, mixture: Mixture | None) -> bool:
        """Go on under another mixture; False where nothing changes. Raises `T2LocalError`."""
        if mixture is None or self._applier.key(mixture) == self._applier.key(self.mixture):
            return False
        self._applier.check(mixture)
        self.mixture = mixture
        with self._workshop.lock():
            self.decoder.forget()
        return True

    def round_on(self) -> bool:
        """Work on the copy in 8 bits that the next tokens come from; True while there is more.

        The first token and all of the prompt are exact: they are the same when it is asked again.
        """
        if not (self._may_round and self.decoder.n_tokens):
            return False
        with self._at_work():
            return self._applier.round_on()

    def step(self) -> bool:
        """Say the next token; False where a part of a long prompt was read instead."""
        self._whole = False  # an error inside a forward leaves layers of different lengths
        with self._at_work():
            may_round = self._may_round and self.decoder.n_tokens > 0
            quick = None if self._compare else self._applier.quick(self.mixture, may_round)
            read = _next_token(self._applier, self.mixture, self.decoder, quick, self._compare)
        self._whole = True
        return not read

    def new_tokens(self) -> Iterator[Token]:
        """What each row has said since the last call."""
        for row, spoken in enumerate(self.decoder.texts()):
            text = self._opening + spoken
            if text != self.said[row]:
                new = text[len(self.said[row]) :]
                self.said[row] = text
                yield Token(new, row, len(self.decoder.said[row]))

    def keep_cache(self) -> None:
        """For the chat's next answer."""
        with self._workshop.lock():
            kept = self.decoder.kept() if self._whole else None
            self._workshop.prefixes.put(self._key(), kept)

    def _key(self) -> PrefixKey:
        return PrefixKey(self._applier.key(self.mixture), self._compare, self._exact)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._workshop.lock():
            started = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - started


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
        reading = decoder.read(tokens_at_a_time(decoder.loaded))
        if not reading:
            decoder.push(decoder.sample(decoder.logits()))
    return reading


def tokens_at_a_time(loaded: LoadedModel) -> int:
    """How much of a long prompt is read while the model is held."""
    if not loaded.device.startswith("cpu"):
        return PREFILL_TOKENS
    return min(PREFILL_TOKENS, max(FEWEST_TOKENS, READ_BYTES // loaded.resident_bytes))


def peek(
    workshop: Workshop, mixture: Mixture, ids: Sequence[int], kept: PrefixCache, until_s: float
) -> torch.Tensor:
    """Probabilities `[V]` of the token after `ids`; `kept`: caches of earlier ones.

    The model is held for a part of a long prompt at a time. Raises `TooLong` where `until_s` (of
    `time.monotonic`) comes first; what was read is kept, and the next call goes on there.
    """
    key, decoder, reading = workshop.applier.key(mixture), None, True
    while reading:
        with workshop.lock(), workshop.applier.using(mixture):
            if decoder is None:
                cache = kept.take(key, ids)
                decoder = Decoder(workshop.loaded, ids, Sampling(max_new_tokens=1), 1, cache)
            reading = decoder.read(tokens_at_a_time(workshop.loaded))
            if reading and time.monotonic() < until_s:
                continue
            probabilities = None if reading else decoder.logits()[0].float().softmax(dim=-1)
            kept.put(key, decoder.kept())
        if probabilities is None:
            raise TooLong(
                "So long a prompt is not read at once; the next word is shown when a slider is "
                "moved again."
            )
    return probabilities

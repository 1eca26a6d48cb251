"""Pass 1: which experts fit this message? The table of strategies, and the one way to apply them.

*Prompt* asks the unadapted model to classify the message (paper, section 3.2, strategy A);
*classifier* asks the same question of the model adapted by an expert that was trained to classify
(strategy B). Both score every label in one forward. Departures: the repository lets the model write
the label and parses it; here the labels' likelihoods give a probability each, at the temperature
under which a classifier expert is trained, for soft mixing and the threshold need one.
*Similarity* asks nothing: it compares the message, as the base model reads it, with what each
expert was trained on (`adapt.similarity`), so it knows a new expert at once. *Other*, anything
below the threshold, and a pass 1 that gives NaN are answered by the base model.
A new strategy is one `Strategy` in `STRATEGIES`; command line, page and evaluations follow from it.
Where it asks the model nothing, its name stands in `experts.expert.RESERVED` too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from t2local.adapt.choosing import Choice
from t2local.adapt.similarity import Discriminant, Neighbour
from t2local.errors import T2LocalError
from t2local.experts.expert import RESERVED
from t2local.models.chat_format import encode_text, render_chat
from t2local.models.decode.embedding import embed
from t2local.models.decode.scoring import choice_scores
from t2local.models.load.loader import LoadedModel
from t2local.svf import Mixture
from t2local.tasks.datasets import TOPICS

# --- What happens in an answer, as typed events: `Dispatched`, then `Token`s (with a `Steered`
# wherever the mixture changed), then one `Done`.

BASE, OTHER, MANUAL, FEW_SHOT = RESERVED  # `few-shot:NAME`: with the mixture kept under a name
PROMPT, CLASSIFIER, SIMILARITY = "prompt", "classifier", "similarity"

ADAPTED_ROW, BASE_ROW = 0, 1


@dataclass(frozen=True)
class Dispatch:
    """What pass 1 decided.

    `probabilities`: label -> p, summing to 1, `OTHER` among them; empty where nothing was asked
    (base, manual) or the model gave NaN. `chosen`: the label that won, else the strategy's name,
    `BASE` or the expert chosen by hand. `mixture.alpha`: what pass 2 mixes; empty means the base
    model answers.
    """

    strategy: str
    probabilities: Mapping[str, float]
    chosen: str
    mixture: Mixture
    seconds: float = 0.0
    note: str = ""  # one sentence when the decision needs a word ("below the threshold of 0.40")
    near: tuple[Neighbour, ...] = ()  # training prompts that the message is like, the nearest first
    choice: Choice | None = None  # what the leading expert chose, where it was trained to choose


@dataclass(frozen=True)
class Dispatched:
    dispatch: Dispatch
    context_tokens: int  # prompt tokens after the chat template
    cut_tokens: int = 0  # oldest tokens left out because they did not fit


@dataclass(frozen=True)
class Token:
    """`text`: what one more token added to a row's answer ("" while a character is incomplete)."""

    text: str
    row: int = ADAPTED_ROW
    tokens: int = 0  # generated so far in this row


@dataclass(frozen=True)
class Steered:
    """The mixture changed: the next `Token` is the first under `mixture`."""

    mixture: Mixture
    at_token: int
    at_character: int


@dataclass(frozen=True)
class Done:
    """`texts`: one answer a row (adapted, and base beside it when compared)."""

    texts: tuple[str, ...]
    tokens: int
    first_pass_s: float
    second_pass_s: float
    finish: str  # "stop" | "length" | "cancelled"
    context_used: int
    context_length: int
    int8_tokens: int = 0  # of `tokens`, those that came from an 8-bit copy of the weights

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.second_pass_s if self.second_pass_s > 0 else 0.0


# --- The strategies.

LABELS = TOPICS
LABEL_TEMPERATURE = 4.0  # scores of single tokens lie far apart; at 1 every answer is 0 or 1
HEAD_CHARACTERS, TAIL_CHARACTERS = 360, 120  # what pass 1 reads of a long message

Probabilities = Mapping[str, float]  # label -> p, summing to 1; {}: the model gave NaN


@dataclass(frozen=True)
class Available:
    """What a strategy has to work with on this model, by name.

    `skills`: experts that pass 1 may choose. `mixable`: those a person may mix. `classifier`: the
    expert that reads messages, "" for none, with its `labels`. `kept`: mixtures kept under a name.
    `prints`: tells by their prompt prints for which expert a message is, None where none has one;
    `own_prints`: whether an expert of the person's own is among them.
    """

    skills: Sequence[str] = ()
    mixable: Sequence[str] = ()
    classifier: str = ""
    labels: Sequence[str] = LABELS
    kept: Sequence[str] = ()
    prints: Discriminant | None = None
    own_prints: bool = False


@dataclass(frozen=True)
class Reading:
    """A model about to read messages. `under(mixture)` holds it with a mixture in force."""

    loaded: LoadedModel
    available: Available
    under: Callable[[Mixture], AbstractContextManager]


@dataclass(frozen=True)
class Strategy:
    """A way in which pass 1 decides.

    `explanation`: who decides, for a person. `needs`: fields of `Available` that must not be empty
    for it to be offered. `each`: the field whose every entry is a choice of its own, `name:entry`.
    `probabilities`: what it makes of messages, one mapping each; None where it does not look at
    them and `unasked` says so. `reader`: the field that names the expert which reads.
    `mixture`: what then answers, made of the sliders' mixture. `reads_on`: pass 1 is the base
    model's reading of the chat, from which the base model's answer goes on.
    """

    name: str
    explanation: str
    needs: tuple[str, ...] = ()
    each: str = ""
    probabilities: "Callable[[Strategy, Reading, Sequence[str]], list[Probabilities]] | None" = None
    reader: str = ""
    unasked: str = "Pass 1 gave no probabilities."
    mixture: Callable[[Mixture], Mixture] = lambda sliders: sliders
    reads_on: bool = False

    @property
    def asks(self) -> bool:
        """Whether it looks at each message."""
        return self.probabilities is not None

    def names(self, available: Available) -> list[str]:
        """What can be asked for with what there is: its name, or one for each entry, or nothing."""
        if not all(getattr(available, need) for need in self.needs):
            return []
        entries = getattr(available, self.each) if self.each else ()
        return [f"{self.name}:{entry}" for entry in entries] if self.each else [self.name]

    def reader_of(self, available: Available) -> str:
        """The expert that reads, "" for the unadapted model. `T2LocalError` where it is missing."""
        name = getattr(available, self.reader) if self.reader else ""
        if self.reader and not name:
            raise T2LocalError(
                "There is no classifier expert for this model; choose the strategy prompt, or "
                "train one with `python -m t2local train --classifier`."
            )
        return name

    def labels(self, available: Available) -> tuple[str, ...]:
        """What it tells apart."""
        if self.reads_on:
            return available.prints.labels if available.prints else (OTHER,)
        return tuple(available.labels) if self.reader else (*available.skills, OTHER)


def ask_model(strategy: Strategy, reading: Reading, messages: Sequence[str]) -> list[Probabilities]:
    """Put the question of pass 1 to the model, adapted by the strategy's reader."""
    reader = strategy.reader_of(reading.available)
    with reading.under(Mixture({reader: 1.0} if reader else {})):
        return label_probabilities(reading.loaded, messages, strategy.labels(reading.available))


def compare_prints(
    strategy: Strategy, reading: Reading, messages: Sequence[str]
) -> list[Probabilities]:
    """Compare each message with what the experts were trained on. One short forward each."""
    prints = reading.available.prints
    if prints is None:
        raise T2LocalError(
            "The experts of this model cannot be told apart by similarity yet: none has a prompt "
            "print, or everyday messages were not read. `python -m t2local experts print NAME "
            "--data FILE` does both; or choose another strategy."
        )
    chats = [[{"role": "user", "content": message}] for message in messages]
    return prints.probabilities(embed(reading.loaded, chats, lambda: reading.under(Mixture())))


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            CLASSIFIER, "an expert trained to classify prompts", ("classifier",),
            probabilities=ask_model, reader="classifier",
        ),
        Strategy(
            SIMILARITY, "the expert whose training prompts are nearest", ("prints",),
            probabilities=compare_prints, reads_on=True,
        ),
        Strategy(
            PROMPT, "the plain model asked to classify", ("skills",), probabilities=ask_model
        ),
        Strategy(
            FEW_SHOT, "a mixture found from a few examples", ("skills",), each="kept",
            unasked="Nothing was asked: this mixture was found from a few examples.",
        ),
        Strategy(
            MANUAL, "you with the sliders", ("mixable",),
            unasked="Nothing was asked: your sliders decide.",
        ),
        Strategy(
            BASE, "nobody", unasked="Nothing was asked: the base model answers.",
            mixture=lambda sliders: sliders.with_alpha({}),
        ),
    )
}  # fmt: skip


def strategy_of(name: str) -> Strategy:
    """The strategy of a name such as `prompt` or `few-shot:NAME`. Raises `T2LocalError`."""
    strategy = STRATEGIES.get(name.partition(":")[0])
    if strategy is None:
        known = ", ".join(STRATEGIES)
        raise T2LocalError(f"There is no strategy '{name}'; choose one of {known}.")
    return strategy


def offered(available: Available | None = None) -> list[str]:
    """What can be asked for, best first; None: whatever needs no kept mixture.

    An expert of the person's own is known to *similarity* alone, which then is the best.
    """
    if available is None:
        return [s.name for s in STRATEGIES.values() if not s.each]
    names = [name for s in STRATEGIES.values() for name in s.names(available)]
    if available.own_prints and SIMILARITY in names:
        return [SIMILARITY, *(name for name in names if name != SIMILARITY)]
    return names


def asking_strategies() -> list[Strategy]:
    """Those that look at each message, the simplest first."""
    return [s for s in reversed(STRATEGIES.values()) if s.asks]


# In *similarity* a message is nobody's where *other* is twice as likely as all experts together.
NOBODYS = 1 / 3


@dataclass(frozen=True)
class Controls:
    """How an answer chooses its experts.

    `soft`: probabilities are the α's (else the winner takes all). `threshold`: how far from chance
    (0) to certain (1) pass 1 has to be, whatever the number of kinds (`least`); below it the base
    model answers. `mixture`: its α are used by `manual`, its strength and gains by every strategy.
    A strategy `few-shot:NAME` answers with the mixture kept under that name, plain `few-shot` with
    `mixture` itself. `override`: an expert's name, or `base`, skips pass 1 and answers with it
    alone. `write`: an expert that was trained to choose writes its answer instead.
    """

    strategy: str = CLASSIFIER
    soft: bool = True
    threshold: float = 0.1
    mixture: Mixture = field(default_factory=Mixture)
    override: str | None = None
    write: bool = False

    def __post_init__(self) -> None:
        strategy_of(self.strategy)
        if not 0.0 <= self.threshold <= 1.0:
            raise T2LocalError(
                f"The threshold is a share of the way from chance to certain, but "
                f"{self.threshold:g} was given; choose a number from 0 to 1."
            )

    @property
    def asks(self) -> bool:
        """Whether pass 1 looks at the message."""
        return self.override is None and strategy_of(self.strategy).asks


def first_pass(reading: Reading, messages: Sequence[str], controls: Controls) -> list[Dispatch]:
    """Pass 1 for each message, in one forward. Raises `T2LocalError` for a missing classifier."""
    if not controls.asks:
        return [without_question(controls)] * len(messages)
    strategy = strategy_of(controls.strategy)
    found = strategy.probabilities(strategy, reading, messages)
    return [decide(controls, each, reading.available.skills) for each in found]


def classification_prompt(message: str, labels: Sequence[str] = LABELS) -> str:
    """The question of pass 1 about a user's message: its beginning and end, if it is long."""
    text = message.strip()
    if len(text) > HEAD_CHARACTERS + TAIL_CHARACTERS:
        text = f"{text[:HEAD_CHARACTERS]} … {text[-TAIL_CHARACTERS:]}"
    names = ", ".join(labels[:-1]) + f" or {labels[-1]}"
    return f"Classify the following message as {names}.\n\nMessage: {text}\n\nClass:"


@torch.no_grad()
def label_probabilities(
    loaded: LoadedModel, messages: Sequence[str], labels: Sequence[str] = LABELS
) -> list[Probabilities]:
    """Label -> p a message, under the `z` in force. One forward for all messages and labels."""
    asked = [classification_prompt(message, labels) for message in messages]
    ids = [render_chat(loaded.tokenizer, [{"role": "user", "content": a}]) for a in asked]
    tokens = [encode_text(loaded.tokenizer, label) for label in labels]
    scored = choice_scores(loaded.model, ids, [tokens] * len(ids))
    return [_shares(scores, labels) for scores in scored]


def _shares(scores: torch.Tensor, labels: Sequence[str]) -> Probabilities:
    """`scores` `[K]` as probabilities; none where one is not finite."""
    if not torch.isfinite(scores).all():
        return {}
    shares = (scores / LABEL_TEMPERATURE).softmax(dim=0).tolist()
    return dict(zip(labels, shares, strict=True))


def decide(controls: Controls, probabilities: Probabilities, skills: Sequence[str]) -> Dispatch:
    """The mixture that follows from label probabilities. A pure function.

    Soft: each expert's α is its label's probability, and what *other* holds stays with the base
    model; hard: the likeliest label's expert gets α = 1. Strength and gains are the sliders'.
    Probabilities that are missing or not finite decide nothing: the base model answers.
    """
    strategy, sliders = controls.strategy, controls.mixture
    if not probabilities or not all(map(math.isfinite, probabilities.values())):
        note = "Pass 1 gave NaN and decides nothing: the base model answers."
        return Dispatch(strategy, {}, BASE, sliders.with_alpha({}), note=note)
    chosen = max(probabilities, key=probabilities.__getitem__)
    note, alpha = "", {}
    if chosen == OTHER:
        note = "No expert's subject: the base model answers."
    elif chosen not in skills:
        note = f"There is no expert for {chosen} here: the base model answers."
    elif _certainty(strategy, probabilities, chosen) < least(controls, len(probabilities)):
        bar = least(controls, len(probabilities))
        note = f"Below the threshold of {bar:.2f} for {len(probabilities)} kinds: the base model "
        note += "answers."
    elif controls.soft:
        alpha = {name: probabilities[name] for name in skills if name in probabilities}
    else:
        alpha = {chosen: 1.0}
    return Dispatch(strategy, dict(probabilities), chosen, sliders.with_alpha(alpha), note=note)


def least(controls: Controls, kinds: int) -> float:
    """The probability that pass 1 has to reach among so many kinds.

    >>> round(least(Controls(threshold=0.1), 4), 3), round(least(Controls(threshold=0.1), 20), 3)
    (0.325, 0.145)
    """
    together = strategy_of(controls.strategy).reads_on
    chance = NOBODYS if together else 1.0 / max(1, kinds)
    return chance + controls.threshold * (1.0 - chance)


def _certainty(strategy: str, probabilities: Probabilities, chosen: str) -> float:
    """What has to reach the threshold: the winner's probability.

    Of experts that cover the same ground each gets a part of the message in *similarity*, and they
    count together: *other*, which is told apart from them, has lost already.
    """
    together = strategy_of(strategy).reads_on
    return 1.0 - probabilities.get(OTHER, 0.0) if together else probabilities[chosen]


def without_question(controls: Controls) -> Dispatch:
    """Dispatch without pass 1: the base model, the sliders, a mixture, or one expert."""
    strategy, mixture, override = (
        strategy_of(controls.strategy),
        controls.mixture,
        controls.override,
    )
    if override == BASE:
        return Dispatch(controls.strategy, {}, BASE, mixture.with_alpha({}))
    if override is not None:
        note = "Chosen by hand." if strategy.name != MANUAL else ""
        return Dispatch(
            controls.strategy, {}, override, mixture.with_alpha({override: 1.0}), note=note
        )
    return Dispatch(controls.strategy, {}, strategy.name, strategy.mixture(mixture))

"""Variants: what is measured beside each other, each a way to decide on the mixture of a prompt.

A variant is a `name`, a `key` of what its numbers depend on, how many numbers were `trained`, and
`decide`: a `Dispatch` a prompt. `hold` gives the way to keep one decision for all prompts in force
(rebuilt matrices on a float model), or None where each prompt has its own. A strategy makes soft
mixtures as in the chat; with `:hard`, as in the paper, one expert at full strength.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from t2local.adapt.answer_stream import BASE, Dispatch
from t2local.adapt.dispatch import Controls, Reading, first_pass, strategy_of
from t2local.adapt.mixer import holding
from t2local.errors import T2LocalError
from t2local.evaluation.subject import Subject
from t2local.models.decode.generate import Around
from t2local.svf import Mixture

HARD = "hard"
ORACLE = "oracle"


class Variant(Protocol):
    """See the module. `needed`: the mixture without which nothing can be measured.

    `shots`: hashes of the prompts it was chosen by.
    """

    name: str
    key: Any
    trained: int
    needed: Mixture
    shots: Sequence[str]

    def hold(self) -> Around | None: ...

    def decide(self, prompts: Sequence[str]) -> list[Dispatch]: ...


@dataclass(frozen=True)
class Held:
    """One decision for every prompt. `holds`: makes the way to keep it in force, when it begins."""

    name: str
    key: Any
    trained: int
    holds: Callable[[], Around]
    needed: Mixture = field(default_factory=Mixture)
    shots: tuple[str, ...] = ()

    def hold(self) -> Around:
        return self.holds()

    def decide(self, prompts: Sequence[str]) -> list[Dispatch]:
        return [Dispatch(self.name, {}, "", self.needed)] * len(prompts)


@dataclass(frozen=True)
class Asking:
    """A strategy that looks at each prompt: the same pass 1 as the chat's."""

    name: str
    key: Any
    trained: int
    reading: Reading
    controls: Controls
    needed: Mixture = field(default_factory=Mixture)
    shots: tuple[str, ...] = ()

    def hold(self) -> None:
        return None

    def decide(self, prompts: Sequence[str]) -> list[Dispatch]:
        """One forward for all prompts and all labels."""
        return first_pass(self.reading, prompts, self.controls)


def base(subject: Subject) -> Held:
    return Held(BASE, BASE, 0, lambda: lambda: subject.svf.using({}))


def mixed(subject: Subject, name: str, mixture: Mixture, shots: tuple[str, ...] = ()) -> Held:
    """A mixture for all prompts: one expert, or one found from a few examples."""
    alphas = 0 if len(mixture.experts) == 1 and not mixture.by_matrix else len(mixture.alpha)
    alphas += sum(map(len, mixture.by_matrix.values()))
    trained = sum(subject.size(expert) for expert in mixture.experts) + alphas
    return Held(
        name,
        subject.mixture_key(mixture),
        trained,
        lambda: holding(subject.loaded, subject.svf, subject.z_of(mixture)),
        mixture,
        shots,
    )


def asking(subject: Subject, name: str) -> Asking:
    """A strategy that asks, by its name, or `name:hard`.

    Raises `T2LocalError` where there are no experts to choose from or the classifier is missing.
    """
    kind, _, rest = name.partition(":")
    soft, available = rest != HARD, subject.available
    strategy = strategy_of(kind)
    if not available.skills:
        raise T2LocalError(f"'{name}' needs experts to choose from, and there are none here.")
    reader = strategy.reader_of(available)
    experts = (*available.skills, reader) if reader else available.skills
    labels = list(strategy.labels(available))
    key = [kind, soft, labels, [subject.digest(expert) for expert in experts]]
    return Asking(
        name,
        key,
        sum(map(subject.size, experts)),
        Reading(subject.loaded, available, _under(subject)),
        Controls(kind, soft),
        Mixture({reader: 1.0} if reader else {}),
    )


def _under(subject: Subject) -> Callable[[Mixture], AbstractContextManager]:
    """Holds the model under a reader's mixture; rebuilding it, once, takes a second."""
    held: dict[str, Around] = {}

    def under(mixture: Mixture) -> AbstractContextManager:
        key = str(subject.mixture_key(mixture))
        if key not in held:
            held[key] = holding(subject.loaded, subject.svf, subject.z_of(mixture))
        return held[key]()

    return under

"""Variants: what is measured beside each other, each a way to decide on the mixture of a prompt.

A variant is a `name`, a `key` of what its numbers depend on, how many numbers were `trained`, and
`decide`: a `Dispatch` a prompt. `hold` gives the way to keep one decision for all prompts in force
(rebuilt matrices on a float model), or None where each prompt has its own. A strategy makes soft
mixtures as in the chat; with `:hard`, as in the paper, one expert at full strength.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch

from t2local.adapt.applier import holding
from t2local.adapt.dispatch import (
    BASE,
    Available,
    Controls,
    Dispatch,
    Reading,
    first_pass,
    strategy_of,
)
from t2local.adapt.similarity import Discriminant
from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.experts.expert import CLASSIFIER, SKILL
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.svf import Mixture, SVFModel, Z, compose

# --- What is evaluated: a model, and the experts that are on the shelf for it.


@dataclass(frozen=True)
class Subject:
    """`experts`: the usable ones, by name. `prints`: what *similarity* tells apart."""

    loaded: LoadedModel
    svf: SVFModel
    experts: Mapping[str, Expert]
    prints: Discriminant | None = None

    @property
    def skills(self) -> tuple[str, ...]:
        return tuple(name for name, e in self.experts.items() if e.kind == SKILL)

    @property
    def available(self) -> Available:
        """What strategies choose among."""
        readers = (e for e in self.experts.values() if e.kind == CLASSIFIER)
        if (reader := next(readers, None)) is None:
            return Available(self.skills, self.skills, prints=self.prints)
        return Available(self.skills, self.skills, reader.name, reader.labels, prints=self.prints)

    def size(self, name: str) -> int:
        """How many numbers an expert has."""
        return self.experts[name].size

    @cached_property
    def unsound(self) -> frozenset[str]:
        """Experts that are not made of finite numbers."""
        return frozenset(
            name
            for name, expert in self.experts.items()
            if not all(bool(torch.isfinite(row).all()) for row in expert.z.values())
        )

    def broken(self, mixture: Mixture) -> str:
        """The first expert of a mixture that is not made of finite numbers, else ""."""
        return next((name for name in mixture.experts if name in self.unsound), "")

    def z_of(self, mixture: Mixture) -> Z:
        """`{}` for the base model, else `[r]` a matrix on the model's device."""
        sigma = self.svf.singular_values
        z = compose({name: self.experts[name].z for name in mixture.experts}, mixture)
        return {name: row.to(sigma[name].device) for name, row in z.items()}

    def rows(self, mixtures: Sequence[Mixture]) -> Z:
        """`[B, r]` a matrix: a row for each mixture."""
        zs = [self.z_of(mixture) for mixture in mixtures]
        names = dict.fromkeys(name for z in zs for name in z)
        ones = {n: torch.ones_like(self.svf.singular_values[n]) for n in names}
        return {name: torch.stack([z.get(name, ones[name]) for z in zs]) for name in names}

    def digest(self, name: str) -> str:
        """A retrained expert keeps its name, not its digest."""
        digest = hashlib.sha256(name.encode())
        for matrix, row in sorted(self.experts[name].z.items()):
            digest.update(matrix.encode() + row.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:24]

    def mixture_key(self, mixture: Mixture) -> list:
        values = json.loads(json.dumps(asdict(mixture)))
        return [values, [self.digest(name) for name in sorted(mixture.experts)]]

    def model_key(self) -> list:
        loaded = self.loaded
        return [loaded.name, self.svf.fingerprint(), loaded.quantization, str(loaded.dtype)]


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
    key.append(Controls(kind, soft).threshold)
    if strategy.reads_on and subject.prints is not None:
        key.append(subject.prints.digest)
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

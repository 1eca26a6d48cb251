"""Strategies: who decides on the mixture of each prompt, before it is answered.

A strategy is a `name`, a `key` of what its numbers depend on, how many numbers were `trained`, and
`decide`: a `Decision` a prompt. `hold` gives the way to keep one decision for all prompts in force
(rebuilt matrices on a float model), or None where each prompt has its own. Soft mixtures as the
chat makes them; `:hard` is the paper's, one expert at full strength.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from t2local.adapt.adapter import holding
from t2local.adapt.dispatch import LABEL_TEMPERATURE, classification_prompt, decide
from t2local.adapt.events import BASE, OTHER
from t2local.adapt.two_pass import Strategy as ChatStrategy
from t2local.evaluation.subject import Subject
from t2local.models.chat_format import render_chat
from t2local.models.generate import Around
from t2local.models.scoring import choice_scores
from t2local.svf import Mixture

ORACLE = "oracle"


@dataclass(frozen=True)
class Decision:
    """`mixture` answers; `chosen`, `probabilities` are pass 1's, empty where nothing was asked."""

    mixture: Mixture = field(default_factory=Mixture)
    chosen: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)


class Strategy(Protocol):
    """See the module. `needed`: the mixture without which nothing can be measured.

    `shots`: hashes of the prompts it was chosen by.
    """

    name: str
    key: Any
    trained: int
    needed: Mixture
    shots: Sequence[str]

    def hold(self) -> Around | None: ...

    def decide(self, prompts: Sequence[str]) -> list[Decision]: ...


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

    def decide(self, prompts: Sequence[str]) -> list[Decision]:
        return [Decision(self.needed)] * len(prompts)


@dataclass(frozen=True)
class Asking:
    """Pass 1 asks the model, adapted by `reader` or not, what kind of task a prompt is."""

    name: str
    key: Any
    trained: int
    subject: Subject
    labels: tuple[str, ...]
    soft: bool
    reader: Callable[[], Around]
    needed: Mixture = field(default_factory=Mixture)
    shots: tuple[str, ...] = ()

    def hold(self) -> None:
        return None

    @torch.no_grad()
    def decide(self, prompts: Sequence[str]) -> list[Decision]:
        """One forward for all prompts and all labels."""
        loaded = self.subject.loaded
        asked = [classification_prompt(prompt, self.labels) for prompt in prompts]
        ids = [render_chat(loaded.tokenizer, [{"role": "user", "content": a}]) for a in asked]
        tokens = [loaded.tokenizer.encode(n, add_special_tokens=False) for n in self.labels]
        with self.reader()():
            scored = choice_scores(loaded.model, ids, [tokens] * len(ids))
        return [self._decided(scores) for scores in scored]

    def _decided(self, scores: torch.Tensor) -> Decision:
        if not torch.isfinite(scores).all():
            return Decision()  # whoever reads is broken: the base model answers
        shares = (scores / LABEL_TEMPERATURE).softmax(dim=0).tolist()
        probabilities = dict(zip(self.labels, shares, strict=True))
        made = decide(
            self.name, probabilities, self.subject.skills, self.soft, ChatStrategy.threshold,
            Mixture(),
        )  # fmt: skip
        return Decision(made.mixture, made.chosen, probabilities)


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


def asking(subject: Subject, name: str, reader: str | None, soft: bool) -> Asking:
    """The strategies prompt (`reader` None) and classifier (`reader`: the expert's name)."""
    skills = subject.skills
    labels = (*skills, OTHER) if reader is None else subject.labels_of(reader)
    experts = (*skills, reader) if reader else skills
    key = [name.partition(":")[0], soft, list(labels), [subject.digest(e) for e in experts]]
    reading = Mixture({reader: 1.0} if reader else {})

    @functools.cache
    def hold() -> Around:
        """Made when it is first asked: rebuilding the reader takes a second."""
        return holding(subject.loaded, subject.svf, subject.z_of(reading))

    return Asking(name, key, sum(map(subject.size, experts)), subject, labels, soft, hold, reading)

"""A model on the bench: attached to some targets, training variants, scoring sets, all remembered.

Training is the product's own loop (`training.loop`), scoring its greedy likelihood. Nothing here
decides what is compared: that is `sections`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from t2local import paths
from t2local.adapt.mixer import holding
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.progress import Progress
from t2local.proof.book import Book, Cell
from t2local.proof.measured_sets import MeasuredSet
from t2local.statistics import paired_difference, wilson
from t2local.svf import SVFModel, Z, attach
from t2local.tasks.datasets import Curriculum
from t2local.training.config import TrainConfig
from t2local.training.loop import train
from t2local.training.methods import Method, method_for
from t2local.training.reports import Checkpoint, StepReport, TrainOutcome
from t2local.training.validation import score_greedy

BASE = ("base",)
CHOICE_REWARD = "choice"
MAX_NEW_TOKENS = 1  # nothing is written

Right = list[float]


@dataclass(frozen=True)
class Learnt:
    """What training a variant found. `cell`: numbers, steps, validation, ..."""

    name: str
    key: tuple
    flat: torch.Tensor
    method: Method
    cell: Cell

    def holding(self) -> Around:
        return self.method.holding(self.flat)


class Laboratory:
    """`report` hears `Progress`. One model; `attached` changes what of it is adapted."""

    def __init__(self, loaded: LoadedModel, book: Book, report: Callable[[Progress], None]) -> None:
        self.loaded, self.book, self.report = loaded, book, report
        self._svf: SVFModel | None = None

    @property
    def svf(self) -> SVFModel:
        assert self._svf is not None, "attach first"
        return self._svf

    @contextmanager
    def attached(self, targets: str = "all") -> Iterator[SVFModel]:
        """The model with `targets` adapted, as it was before afterwards."""
        folder = paths.basis_dir() / self.loaded.slug
        self._svf = attach(self.loaded.model, targets, cache_folder=folder)
        try:
            yield self._svf
        finally:
            self._svf.detach()
            self._svf = None

    def learn(
        self, name: str, source: Curriculum, config: TrainConfig, last: bool = False
    ) -> Learnt:
        """Train (or recall) a variant on the attached matrices, by the reward `choice`.

        `last`: what the last step left, instead of what validated best.
        """
        method = method_for(self.loaded, self.svf, config)
        key = ("learnt", source.sha256, asdict(config), *(["last"] if last else []))

        def make() -> tuple[torch.Tensor, Cell]:
            started = time.perf_counter()
            events = train(
                self.loaded, self.svf, source.train, source.validation, CHOICE_REWARD, config,
                method=method,
            )  # fmt: skip
            outcome, final = self._drained(name, events, config.steps)
            return (final if last else outcome.flat), {
                "numbers": final.numel(),
                "steps": outcome.steps,
                "best_step": outcome.best_step,
                "validation": max(v.accuracy for v in outcome.validations),
                "train_s": round(time.perf_counter() - started, 1),
                "curve": [round(value, 4) for value in outcome.curve],
            }

        flat, cell = self.book.tensor(key, make)
        return Learnt(name, key, flat, method, cell)

    def right(self, key: Sequence, around: Callable[[], Around], rows: MeasuredSet) -> Right:
        """1.0 or 0.0 a row, under what `around()` puts in force. `key`: what that depends on."""

        def make() -> Cell:
            self.report(Progress(f"Scoring {key[0]} on {rows.name}", 0, len(rows.rows), "rows"))
            started = time.perf_counter()
            scored = score_greedy(self.loaded, around(), rows.rows, CHOICE_REWARD, MAX_NEW_TOKENS)
            seconds = round(time.perf_counter() - started, 1)
            return {"right": scored.right, "answers": list(scored.answers), "seconds": seconds}

        return self._scored(key, rows, make)["right"]

    def base(self, rows: MeasuredSet) -> Right:
        return self.right(BASE, lambda: lambda: self.svf.using({}), rows)

    def under(self, key: Sequence, z: Callable[[], Z], rows: MeasuredSet) -> Right:
        """As `right`, under a z `[r]` a matrix."""
        return self.right(key, lambda: holding(self.loaded, self.svf, z()), rows)

    def _scored(self, key: Sequence, rows: MeasuredSet, make: Callable[[], Cell]) -> Cell:
        return self.book.cell(("scored", self.svf.fingerprint(), *key, rows.key), make)

    def _drained(self, name: str, events, steps: int) -> tuple[TrainOutcome, torch.Tensor]:
        """The outcome, and the numbers after the last step."""
        final = None
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                return end.value, final
            if isinstance(event, Checkpoint):
                final = event.state.flat
            if isinstance(event, StepReport):
                self.report(Progress(f"Training {name}", event.step, steps, "steps"))


def compared(base: Right, other: Right) -> Cell:
    """Accuracies, Wilson interval of the second, and the paired difference with its interval."""
    mean, low, high = paired_difference(base, other)
    return {
        "n": len(base),
        "base": sum(base) / len(base),
        "adapted": sum(other) / len(other),
        "ci95": list(wilson(int(sum(other)), len(other))),
        "difference": mean,
        "ci95_difference": [low, high],
    }

"""A model on the bench: attached to some targets, training variants, scoring sets, all remembered.

A cell is computed once, written down (`Book`), and read back ever after. The rows that everything
trained is measured on, a fine-tuned second model and the dispatchers' confusion stand here too.
"""

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from t2local import paths
from t2local.adapt.answering import CHOICE, batches
from t2local.adapt.applier import holding
from t2local.adapt.dispatch import (
    CLASSIFIER,
    LABELS,
    OTHER,
    PROMPT,
    Available,
    Controls,
    Reading,
    classification_prompt,
    first_pass,
)
from t2local.evaluation.benchmark_tasks import question_set
from t2local.evaluation.tally import key_of
from t2local.experts import Expert
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.progress import Progress
from t2local.statistics import paired_difference, wilson
from t2local.svf import SVFModel, Z, attach
from t2local.tasks.datasets import Dataset, dataset, with_prompts
from t2local.tasks.rows import Example
from t2local.training.config import LORA, NEXT_TOKEN, Method, TrainConfig, method_for
from t2local.training.loop import train
from t2local.training.reports import Checkpoint, StepReport, TrainOutcome
from t2local.training.validation import score_greedy
from t2local.untrusted import read_document

# --- What was measured so far, on disk.
#
# A cell is a JSON object (and a tensor, where it is what training found) under a hash of all that
# it depends on, so a proof that was cut off goes on where it was, and two processes may share the
# work.

Cell = dict[str, Any]


@dataclass(frozen=True)
class Book:
    """`about`: what all cells depend on (model, dtype, ...), as JSON values."""

    folder: Path
    about: tuple[Any, ...]

    def cell(self, parts: tuple[Any, ...], make: Callable[[], Cell]) -> Cell:
        """The cell that `parts` (JSON values) name, made if it is not there or damaged."""
        path = self._path(parts, "json")
        try:
            return read_document(path, finite=False)
        except (OSError, ValueError):
            made = make()
        with paths.atomic_write(path) as temporary:
            temporary.write_text(json.dumps(made), encoding="utf-8")
        return made

    def tensor(
        self, parts: tuple[Any, ...], make: Callable[[], tuple[torch.Tensor, Cell]]
    ) -> tuple[torch.Tensor, Cell]:
        """As `cell`, with a tensor beside it."""
        path = self._path(parts, "safetensors")
        made: list[torch.Tensor] = []

        def both() -> Cell:
            flat, about = make()
            with paths.atomic_write(path) as temporary:
                temporary.write_bytes(save({"flat": flat.detach().cpu()}))
            made.append(flat)
            return about

        if not path.is_file():
            self._path(parts, "json").unlink(missing_ok=True)
        about = self.cell(parts, both)
        try:
            return (made[0] if made else load(path.read_bytes())["flat"]), about
        except (OSError, SafetensorError, KeyError):
            path.unlink(missing_ok=True)
            return self.tensor(parts, make)

    def _path(self, parts: tuple[Any, ...], suffix: str) -> Path:
        return self.folder / f"{key_of(*self.about, *parts)}.{suffix}"


# --- The rows that everything trained is measured on: likelihood of choices, held out, n ≥ 300.
#
# `arc_easy` is the trained task's held-out part; the others tell interference: arithmetic (which
# of four equations fits a SVAMP problem), `topics` (which kind of message: the dispatcher's own
# task) and ARC-Challenge. Benchmark files come from `T2LOCAL_DATA`.

TRAINED, ARITHMETIC, TOPICS, HARDER = "arc_easy", "svamp_equations", "topics", "arc_challenge"


@dataclass(frozen=True)
class MeasuredSet:
    """`rows` list their `choices`; the reward is `choice`."""

    name: str
    rows: tuple[Example, ...]

    @property
    def key(self) -> str:
        return key_of([[row.prompt, row.answer, row.columns["choices"]] for row in self.rows])


def measured_sets(limit: int) -> dict[str, MeasuredSet]:
    """At most `limit` rows each. Raises `T2LocalError` where benchmark files are missing."""
    topics = with_prompts(dataset("topics"), classification_prompt).held_out
    every = max(1, len(topics) // limit)  # its kinds follow each other
    rows: dict[str, Sequence[Example]] = {
        TRAINED: dataset("arc-easy").held_out,
        HARDER: [q.example for q in question_set("arc_challenge", limit).questions],
        ARITHMETIC: dataset("svamp-equations").held_out,
        TOPICS: topics[::every],
    }
    return {name: MeasuredSet(name, tuple(given[:limit])) for name, given in rows.items()}


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

    def learn(self, name: str, source: Dataset, config: TrainConfig, last: bool = False) -> Learnt:
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


# --- A second model of the same shapes: the loaded one, fine-tuned on something else.
#
# For want of a second real model beside the embedded one: LoRA by next-token prediction on the
# arithmetic set, merged into the weights, so that every σ and basis is the copy's own.

RATE = 2e-3


def fine_tuned(lab: Laboratory, steps: int) -> Laboratory:
    """A laboratory around the fine-tuned copy."""
    from t2local.training.lora import ADAPTER  # PEFT alone takes 60 MB of memory

    source = dataset("svamp-equations")
    config = TrainConfig(
        method=LORA, objective=NEXT_TOKEN, learning_rate=RATE, steps=steps, validate_every=steps
    )
    with lab.attached():
        learnt = lab.learn(f"a copy on {ARITHMETIC}", source, config, last=True)
        learnt.holding()  # points PEFT's layers at what was learnt
        layers = learnt.method.layers.items()
        changes = {n: layer.get_delta_weight(ADAPTER).detach().clone() for n, layer in layers}
    model = copy.deepcopy(lab.loaded.model)
    for name, change in changes.items():
        weight = model.get_submodule(name).weight
        weight.data = (weight.float() + change.float()).to(weight.dtype)
    loaded = replace(lab.loaded, model=model)
    book = Book(lab.book.folder, (*lab.book.about, "fine-tuned copy", steps))
    return Laboratory(loaded, book, lab.report)


# --- Which kind the dispatchers *prompt* and *classifier* call held-out messages.

SKILLS = tuple(label for label in LABELS if label != OTHER)


def confusion(lab: Laboratory, experts: Mapping[str, Expert]) -> list[Cell]:
    """A row a dispatcher: accuracy with its interval, and counts by true and called kind."""
    rows, reader = dataset("topics").held_out, experts[CLASSIFIER]
    messages = [row.prompt for row in rows]
    found = []
    with lab.attached() as svf:
        size = float(sum(row.double().sum() for row in reader.z.values()))
        for name in (PROMPT, CLASSIFIER):
            parts = ("called", svf.fingerprint(), size, messages, name)
            cell = lab.book.cell(parts, partial(_called, lab, reader, name, messages))
            pairs = zip((row.answer for row in rows), cell["called"], strict=True)
            counts = Counter(pairs)
            right = sum(counts[label, label] for label in LABELS)
            found.append(
                {
                    "strategy": name,
                    "n": len(rows),
                    "accuracy": right / len(rows),
                    "ci95": list(wilson(right, len(rows))),
                    "labels": list(LABELS),
                    "counts": [[counts[true, called] for called in LABELS] for true in LABELS],
                }
            )
    return found


def _called(lab: Laboratory, reader: Expert, strategy: str, messages: Sequence[str]) -> Cell:
    """What pass 1 calls each message."""
    sigma = lab.svf.singular_values
    own = {name: row.to(sigma[name].device) for name, row in reader.z.items()}
    hold = holding(lab.loaded, lab.svf, own if strategy == CLASSIFIER else {})
    available = Available(SKILLS, SKILLS, CLASSIFIER, LABELS)
    reading = Reading(lab.loaded, available, lambda mixture: hold())
    called = [""] * len(messages)
    for places in batches([classification_prompt(message) for message in messages], CHOICE):
        part = [messages[place] for place in places]
        for place, decision in zip(
            places, first_pass(reading, part, Controls(strategy)), strict=True
        ):
            called[place] = decision.chosen
    return {"called": called}

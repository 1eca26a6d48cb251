"""Scored prompts to numbers: accuracies with intervals, differences to the base, confusion.

Pure functions of records. Wilson's interval for an accuracy; the difference to the base model is
paired over the same prompts. The *oracle* takes for each prompt the base model or single expert of
the same run that was right: how much a perfect dispatcher could win.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2local.adapt.answer_stream import BASE
from t2local.evaluation.questions import QuestionSet
from t2local.evaluation.records import Record
from t2local.evaluation.subject import Subject
from t2local.evaluation.variants import ORACLE, Variant
from t2local.statistics import paired_difference, wilson

Cells = Mapping[tuple[str, str], Mapping[int, Record]]  # (task, strategy) -> index -> record


@dataclass(frozen=True)
class Result:
    """One variant on one task, `strategy` its name.

    `difference`: mean, low, high of `strategy − base` (95 %, paired); None without a base.
    `tokens`: written. `trained`: numbers that training chose; None for the oracle.
    `failed_prompts` count as wrong; `failed`: why nothing could be measured (then n is 0), else "".
    """

    task: str
    strategy: str
    n: int
    correct: int
    difference: tuple[float, float, float] | None = None
    first_pass_s: float = 0.0
    second_pass_s: float = 0.0
    tokens: int = 0
    trained: int | None = 0
    failed_prompts: int = 0
    failed: str = ""

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.n if self.n else None

    @property
    def ci95(self) -> tuple[float, float]:
        return wilson(self.correct, self.n)

    def as_dict(self) -> dict[str, Any]:
        """DESIGN's row of `evaluate --json`, and the rest."""
        mean, low, high = self.difference or (None, None, None)
        return {
            "task": self.task,
            "strategy": self.strategy,
            "n": self.n,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "ci95": list(self.ci95),
            "difference": mean,
            "ci95_difference": None if self.difference is None else [low, high],
            "first_pass_s": round(self.first_pass_s, 3),
            "second_pass_s": round(self.second_pass_s, 3),
            "tokens": self.tokens,
            "trained": self.trained,
            "failed_prompts": self.failed_prompts,
            "failed": self.failed,
        }


@dataclass(frozen=True)
class Confusion:
    """How often a dispatcher called prompts of a topic (row) each of `labels` (column)."""

    strategy: str
    topics: tuple[str, ...]
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def accuracy(self) -> float:
        """Share of prompts that were called by their topic's name."""
        right = sum(
            count
            for topic, row in zip(self.topics, self.counts, strict=True)
            for label, count in zip(self.labels, row, strict=True)
            if label == topic
        )
        total = sum(map(sum, self.counts))
        return right / total if total else 0.0


@dataclass(frozen=True)
class Evaluation:
    """What a run found. `records`: the samples behind each result."""

    model: str
    results: tuple[Result, ...]
    confusions: tuple[Confusion, ...]
    records: Cells
    sources: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": [result.as_dict() for result in self.results],
            "model": self.model,
            "confusion": [
                {
                    "strategy": c.strategy,
                    "topics": list(c.topics),
                    "labels": list(c.labels),
                    "counts": [list(row) for row in c.counts],
                    "accuracy": c.accuracy,
                }
                for c in self.confusions
            ],
            "sources": dict(self.sources),
        }


def summary(
    subject: Subject,
    tasks: Sequence[QuestionSet],
    variants: Sequence[Variant],
    records: Cells,
    failed: Mapping[tuple[str, str], str],
    oracle: bool,
) -> Evaluation:
    """The evaluation that the records of a run make."""
    records, results = dict(records), []
    singles = [v.name for v in variants if v.name == BASE or v.name in subject.skills]
    for task in tasks:
        base = records.get((task.name, BASE))
        for variant in variants:
            cell = (task.name, variant.name)
            if cell in failed:
                reason = failed[cell]
                results.append(Result(*cell, 0, 0, trained=variant.trained, failed=reason))
            else:
                own = base if variant.name != BASE else None
                results.append(_result(*cell, records[cell], own, variant.trained))
        if oracle:
            parts = [records[c] for n in singles if (c := (task.name, n)) in records]
            if parts:
                cell = (task.name, ORACLE)
                records[cell] = best_of(parts)
                results.append(_result(*cell, records[cell], base, None))
    sources = {task.name: task.source for task in tasks}
    confusions = _confusions(tasks, variants, records)
    return Evaluation(subject.loaded.name, tuple(results), confusions, records, sources)


def best_of(parts: Sequence[Mapping[int, Record]]) -> dict[int, Record]:
    """For each prompt the first record that is right, else the first; at no time of its own."""
    shared = set.intersection(*(set(part) for part in parts))
    best = {i: next((p[i] for p in parts if p[i].right), parts[0][i]) for i in sorted(shared)}
    return {i: replace(r, first_pass_s=0.0, second_pass_s=0.0, tokens=0) for i, r in best.items()}


def _result(
    task: str,
    strategy: str,
    records: Mapping[int, Record],
    base: Mapping[int, Record] | None,
    trained: int | None,
) -> Result:
    found = records.values()
    difference = None
    if base is not None and (shared := sorted(set(base) & set(records))):
        pair = ([float(part[i].right) for i in shared] for part in (base, records))
        difference = paired_difference(*pair)
    return Result(
        task,
        strategy,
        len(records),
        sum(record.right for record in found),
        difference,
        sum(record.first_pass_s for record in found),
        sum(record.second_pass_s for record in found),
        sum(record.tokens for record in found),
        trained,
        sum(bool(record.failed) for record in found),
    )


def _confusions(
    tasks: Sequence[QuestionSet], variants: Sequence[Variant], records: Cells
) -> tuple[Confusion, ...]:
    """A matrix a dispatcher, where several tasks were given."""
    if len(tasks) < 2:
        return ()
    found = []
    for variant in variants:
        called: dict[str, Counter[str]] = {}
        labels: dict[str, None] = {}
        for task in tasks:
            cell = records.get((task.name, variant.name), {}).values()
            called.setdefault(task.topic, Counter()).update(r.chosen for r in cell if r.chosen)
            labels |= {label: None for r in cell for label in r.probabilities}
        if labels:
            counts = tuple(tuple(row[label] for label in labels) for row in called.values())
            found.append(Confusion(variant.name, tuple(called), tuple(labels), counts))
    return tuple(found)

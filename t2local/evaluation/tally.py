"""Scored prompts on disk, and what they come to: accuracies with intervals, differences, confusion.

A line of JSON a prompt, appended as they come and read back when an evaluation is resumed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.adapt.dispatch import BASE
from t2local.evaluation.questions import QuestionSet
from t2local.evaluation.variants import ORACLE, Subject, Variant
from t2local.statistics import paired_difference, wilson
from t2local.untrusted import parsed, typed

# --- Scored prompts on disk: a line of JSON each, appended as they come, read back when resumed.
#
# One file for each task and strategy below the user's home, under a hash of all that its numbers
# depend on (`key_of`). A line is written whole or, where a machine went down in the middle,
# dropped when it is read.

SCHEMA = 1  # raise it when the way answers are scored changes


@dataclass(frozen=True)
class Record:
    """One scored prompt. `index`: its place among the task's questions.

    `wanted`: the right answer. `chosen`, `probabilities`: what pass 1 said, "" and {} where nothing
    was asked. Seconds are the prompt's share of its batch. `failed`: why it could not be answered
    (it counts as wrong), else "".
    """

    index: int
    prompt: str
    answer: str
    wanted: str
    right: bool
    alpha: Mapping[str, float] = field(default_factory=dict)
    chosen: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    first_pass_s: float = 0.0
    second_pass_s: float = 0.0
    tokens: int = 0
    failed: str = ""


def key_of(*parts: Any) -> str:
    """A file name for what `parts` (JSON values) say."""
    text = json.dumps([SCHEMA, *parts], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


@dataclass(frozen=True)
class RecordFile:
    """`path` need not exist yet."""

    path: Path

    @classmethod
    def of(cls, key: str) -> "RecordFile":
        return cls(paths.home() / "evaluations" / f"{key}.jsonl")

    def read(self) -> dict[int, Record]:
        """Index -> record; of two lines for one prompt the first counts."""
        found: dict[int, Record] = {}
        for line in self._whole_lines():
            try:
                record = typed(Record, parsed(line))
            except ValueError:
                continue  # a damaged line: its prompt is answered again
            found.setdefault(record.index, record)
        return found

    def append(self, records: Sequence[Record]) -> None:
        """Add lines in one write. Raises `T2LocalError` when the disk is full or not writable."""
        lines = "".join(json.dumps(asdict(r), ensure_ascii=True) + "\n" for r in records)
        with paths.saving(self.path):
            paths.make_folder(self.path.parent)
            with paths.appending(self.path, "ab+") as file:
                torn = file.tell() > 0 and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"
                file.write((("\n" if torn else "") + lines).encode())

    def _whole_lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return text.split("\n")[:-1]


Cell = tuple[str, str]  # task, strategy
Cells = Mapping[Cell, Mapping[int, Record]]  # index -> record


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

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n:
            raise ValueError(f"{self.correct} of {self.n} right")

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

    def __post_init__(self) -> None:
        shape = [len(self.labels)] * len(self.topics)
        if [len(row) for row in self.counts] != shape:
            raise ValueError(f"the counts of '{self.strategy}' are not a row a topic")

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


@dataclass(frozen=True)
class _Kept:
    """What `evaluation_json` writes."""

    model: str
    results: tuple[Result, ...]
    confusions: tuple[Confusion, ...]
    sources: Mapping[str, str]
    oracle: Mapping[str, tuple[Record, ...]]


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """As JSON values; of the records only the oracle's, which no event tells."""
    best = {t: part.values() for (t, name), part in evaluation.records.items() if name == ORACLE}
    return {
        "model": evaluation.model,
        "results": [asdict(result) for result in evaluation.results],
        "confusions": [asdict(confusion) for confusion in evaluation.confusions],
        "sources": dict(evaluation.sources),
        "oracle": {task: [asdict(record) for record in part] for task, part in best.items()},
    }


def evaluation_from_json(
    values: Mapping[str, Any], records: Mapping[Cell, Sequence[Record]]
) -> Evaluation:
    """The inverse of `evaluation_json`, with the records of each cell. Raises `ValueError`."""
    found = typed(_Kept, values)
    best = {(task, ORACLE): part for task, part in found.oracle.items()}
    cells = {
        cell: {record.index: record for record in part}
        for cell, part in {**records, **best}.items()
    }
    return Evaluation(found.model, found.results, found.confusions, cells, found.sources)


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

"""Which kind each dispatcher calls held-out messages: the confusion matrices of *prompt* and
*classifier*, rows the true kind, *other* included.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from t2local.adapt.answer_stream import CLASSIFIER, OTHER, PROMPT
from t2local.adapt.answering import CHOICE, batches
from t2local.adapt.dispatch import (
    LABELS,
    Available,
    Controls,
    Reading,
    classification_prompt,
    first_pass,
)
from t2local.adapt.mixer import holding
from t2local.experiments.laboratory import Laboratory
from t2local.experts import Expert
from t2local.proof.book import Cell
from t2local.statistics import wilson
from t2local.tasks.datasets import curriculum

SKILLS = tuple(label for label in LABELS if label != OTHER)


def confusion(lab: Laboratory, experts: Mapping[str, Expert]) -> list[Cell]:
    """A row a dispatcher: accuracy with its interval, and counts by true and called kind."""
    rows, reader = curriculum("topics").held_out, experts[CLASSIFIER]
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

"""Which kind each dispatcher calls held-out messages: the confusion matrices of *prompt* and
*classifier*, rows the true kind, *other* included.
"""

from collections import Counter
from collections.abc import Mapping

from t2local.adapt.dispatch import LABELS, classification_prompt
from t2local.experts import Expert
from t2local.proof.book import Cell
from t2local.proof.laboratory import Laboratory
from t2local.proof.measured_sets import TOPICS, MeasuredSet
from t2local.tasks.curricula import curriculum, with_prompts
from t2local.tasks.intervals import wilson


def confusion(lab: Laboratory, experts: Mapping[str, Expert]) -> list[Cell]:
    """A row a dispatcher: accuracy with its interval, and counts by true and called kind."""
    rows = with_prompts(curriculum("topics"), classification_prompt).held_out
    asked = MeasuredSet(TOPICS, tuple(rows))
    reader = experts["classifier"]
    found = []
    with lab.attached() as svf:
        device = next(iter(svf.singular_values.values())).device
        z = {name: row.to(device) for name, row in reader.z.items()}
        size = float(sum(row.double().sum() for row in reader.z.values()))
        for name, key, own in (("prompt", ("base",), {}), ("classifier", ("classifier", size), z)):
            lab.under(key, lambda own=own: own, asked)
            said = lab.answers(key, dict, asked)
            counts = Counter((e.answer, word.strip()) for e, word in zip(rows, said, strict=True))
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

"""The rows that everything trained is measured on: likelihood of choices, held out, n ≥ 300.

`arc_easy` is the trained task's held-out part; the others tell interference: arithmetic (which of
four equations fits a SVAMP problem), `topics` (which kind of message: the dispatcher's own task)
and ARC-Challenge. Benchmark files come from `T2LOCAL_DATA`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from t2local.adapt.dispatch import classification_prompt
from t2local.evaluation.benchmark_tasks import question_set
from t2local.evaluation.tally import key_of
from t2local.tasks.datasets import curriculum, with_prompts
from t2local.tasks.rows import Example

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
    topics = with_prompts(curriculum("topics"), classification_prompt).held_out
    every = max(1, len(topics) // limit)  # its kinds follow each other
    rows: dict[str, Sequence[Example]] = {
        TRAINED: curriculum("arc-easy").held_out,
        HARDER: [q.example for q in question_set("arc_challenge", limit).questions],
        ARITHMETIC: curriculum("svamp-equations").held_out,
        TOPICS: topics[::every],
    }
    return {name: MeasuredSet(name, tuple(given[:limit])) for name, given in rows.items()}

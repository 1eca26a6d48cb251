"""What the Evaluate tab shows as HTML: progress, the table, confusion matrices, samples.

Here are the values; the elements are in `templates/evaluate.html`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from t2local.evaluation.measure import Scored
from t2local.evaluation.report import trained_text
from t2local.evaluation.tally import Confusion, Record, Result
from t2local.html import percent, signed
from t2local.plots import theme
from t2local.statistics import wilson
from t2local.ui.style import PAGE, quiet_html

FILE = "evaluate.html"
ALL, RIGHT, WRONG = "all", "right", "wrong"
MOST_SAMPLES = 40
LONGEST = 2_000  # characters of a prompt or answer


def status_html(event: Scored, cells: int, cell: int) -> str:
    """How far the run is: this cell of `cells` (counted from 1), and its running accuracy."""
    low, high = wilson(event.correct, event.done)
    return PAGE.render(
        FILE,
        "status",
        event=event,
        share=(cell - 1 + event.done / max(1, event.total)) / max(1, cells),
        right=f"{percent(event.correct / event.done)} right" if event.done else "beginning",
        low=low,
        high=high,
        colour=theme.POSITIVE,
    )


def done_html(scored: int) -> str:
    return PAGE.render(FILE, "done", scored=scored)


def table_html(results: Sequence[Result]) -> str:
    """A row a result; before the end `difference` and seconds may be missing."""
    if not results:
        return ""
    rows = [(result, trained_text(result.trained)) for result in results]
    return PAGE.render(FILE, "table", rows=rows)


def confusion_html(confusions: Sequence[Confusion]) -> str:
    """A matrix a dispatcher."""
    return PAGE.render(FILE, "confusions", confusions=confusions)


@dataclass(frozen=True)
class Sample:
    """A record, cut to what is shown. `first`: the beginning of its prompt."""

    right: bool
    first: str
    prompt: str
    answer: str
    wanted: str
    chosen: str
    probabilities: Sequence[tuple[str, str]]
    alpha: Sequence[tuple[str, str]]


def samples_html(records: Sequence[Record], verdict: str) -> str:
    """The first samples of a verdict, each to be opened."""
    kept = [r for r in records if verdict == ALL or r.right == (verdict == RIGHT)]
    if not kept:
        return quiet_html("There are none.")
    samples = [_sample(record) for record in kept[:MOST_SAMPLES]]
    return PAGE.render(FILE, "samples", samples=samples, rest=len(kept) - MOST_SAMPLES)


def _sample(record: Record) -> Sample:
    return Sample(
        right=record.right,
        first=" ".join(record.prompt.split())[:110],
        prompt=record.prompt[:LONGEST],
        answer=(record.failed or record.answer or "(nothing)")[:LONGEST],
        wanted=record.wanted[:LONGEST],
        chosen=record.chosen,
        probabilities=[(name, f"{p:.2f}") for name, p in record.probabilities.items()],
        alpha=[(name, signed(a)) for name, a in record.alpha.items() if a],
    )

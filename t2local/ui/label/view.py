"""What the Label tab shows as HTML: a table before and after, and how far it is.

Here are the values; the elements are in `templates/label.html`.
"""

from t2local.engine.labelling import LONGEST, SHOWN, LabelReport, LabelSummary
from t2local.html import percent
from t2local.progress import FAILED, INTERRUPTED
from t2local.tasks.unlabelled import Unlabelled
from t2local.ui.style import PAGE, note_html

FILE = "label.html"


def preview_html(found: Unlabelled) -> str:
    """Which column is labelled, and the first rows as they are asked."""
    rows = [asked for asked in found.rows if asked.example is not None]
    return PAGE.render(
        FILE,
        "preview",
        found=found,
        first=[asked.example.prompt[:LONGEST] for asked in rows[:3]],
        empty=len(found.rows) - len(rows),
        context=", ".join(found.context),
    )


def status_html(report: LabelReport) -> str:
    """How far it is, then what came of it."""
    status, summary = report.status, report.summary
    if summary is None:
        words = note_html(status.message) if status.stage in (FAILED, INTERRUPTED) else ""
        return PAGE.render(FILE, "progress", status=status) + words
    labels = [
        (label, count, percent(count / max(1, summary.rows)), count / max(1, summary.rows))
        for label, count in summary.labels.items()
    ]
    agreed = percent(summary.agreed / summary.answered) if summary.answered else ""
    return PAGE.render(
        FILE, "summary", summary=summary, expert=report.plan.expert, labels=labels, agreed=agreed
    )


def table_html(summary: LabelSummary) -> str:
    """The first rows of a labelled table, what was added to them first."""
    return PAGE.render(FILE, "table", columns=summary.columns, rows=summary.first, most=SHOWN)

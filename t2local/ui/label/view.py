"""What the Label tab shows as HTML: a table before and after, and how far it is.

Here are the values; the elements are in `templates/label.html`.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from t2local.engine.labelling import LabelReport
from t2local.html import percent
from t2local.progress import FAILED, INTERRUPTED
from t2local.tasks.unlabelled import JSONL, Unlabelled
from t2local.ui.style import PAGE, note_html

FILE = "label.html"
SHOWN, LONGEST = 60, 300  # rows of a labelled table, characters of a cell


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


def table_html(file: Path) -> str:
    """The first rows of a labelled file, what was added to them first."""
    text = file.read_text(encoding="utf-8-sig")
    rows = _json_rows(text) if file.suffix == JSONL else _csv_rows(text)
    columns = list(rows[0]) if rows else []
    columns = [*columns[-3:], *columns[:-3]][:8]
    cells = [[str(row.get(c) or "")[:LONGEST] for c in columns] for row in rows]
    return PAGE.render(FILE, "table", columns=columns, rows=cells, most=SHOWN)


def _csv_rows(text: str) -> Sequence[Mapping[str, str]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [row for row, _ in zip(reader, range(SHOWN), strict=False)]


def _json_rows(text: str) -> Sequence[Mapping[str, str]]:
    return [json.loads(line) for line in text.splitlines()[:SHOWN]]

"""Runs laid over each other: their curves in one figure, and what came of each in a table.

Pure functions of `RunReport`s to HTML.
"""

from collections.abc import Sequence
from html import escape

from t2local.engine.training import RunReport
from t2local.ui.forms import way_of
from t2local.ui.messages import term

NOTHING = '<p class="quiet">Choose two runs or more to lay them over each other.</p>'


def runs_html(reports: Sequence[RunReport]) -> str:
    """One line a run; figures of runs that are not over are left open."""
    if not reports:
        return NOTHING
    rows = "".join(_row(report) for report in reports)
    return (
        '<div class="scroll"><table class="compared"><thead><tr><th>run</th><th>how</th>'
        f"<th>numbers</th><th>steps</th><th>minutes</th><th>{term('held out', 'held-out')}</th>"
        f"<th>difference (95 %)</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def label(report: RunReport) -> str:
    """The expert's name, how it learns and when it began; in the figure's legend."""
    return f"{report.status.expert} · {way_of(report.plan.config)} · {when(report.status.run)}"


def when(folder: str) -> str:
    """`20260131-091500-name` as `2026-01-31 09:15`."""
    return f"{folder[:4]}-{folder[4:6]}-{folder[6:8]} {folder[9:11]}:{folder[11:13]}"


def _row(report: RunReport) -> str:
    result, held_out = report.result, report.held_out
    cells = [escape(report.status.expert), escape(way_of(report.plan.config))]
    cells += [f"{result['numbers']:,}" if "numbers" in result else "–", str(report.status.step)]
    cells.append(f"{result['train_s'] / 60:.1f}" if "train_s" in result else "–")
    if held_out:
        low, high = (100 * float(x) for x in held_out["ci95_difference"])
        before, after = 100 * held_out["base"], 100 * held_out["trained"]
        cells.append(f"{before:.0f} → {after:.0f} % of {held_out['n']}")
        cells.append(f"{low:+.0f} to {high:+.0f}".replace("-", "−"))
    else:
        cells += ["–", "–"]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

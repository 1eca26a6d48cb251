"""A run in words: how far it is, what to watch, and what came of it.

Pure functions of a `RunReport` to HTML.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from t2local.engine.jobs import FAILED, FINISHED, INTERRUPTED, PAUSED, QUEUED, RUNNING, STOPPING
from t2local.engine.training import RunReport
from t2local.experts import HeldOut
from t2local.plots import theme
from t2local.training.config import TrainConfig
from t2local.training.dry_run import in_words
from t2local.training.validation import in_words as said
from t2local.ui.forms import USUAL, way_of
from t2local.ui.messages import term

STAGES = {
    QUEUED: "waits for its turn",
    RUNNING: "learning",
    PAUSED: "paused",
    STOPPING: "stopping",
    FINISHED: "finished",
    FAILED: "failed",
    INTERRUPTED: "cut off",
}
NO_RUN = (
    '<div class="live"><p class="quiet">Runs appear here. A run goes on when this page is closed, '
    "and is kept on disk: after a restart it can be resumed.</p></div>"
)
PAUSED_HINT = "Paused: the model is all yours in the chat. Resume whenever you like."


def live_html(report: RunReport) -> str:
    status, plan = report.status, report.plan
    share = 100 * status.step / max(1, status.steps)
    message = PAUSED_HINT if status.stage == PAUSED else status.message
    kind = "note" if status.stage in (FAILED, INTERRUPTED) else "quiet"
    said = f'<p class="{kind}">{escape(message)}</p>' if message else ""
    texts = [*report.warnings, *(text for _, text in report.curves.notices)]
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in texts)
    return (
        f'<div class="live" style="--c:{theme.colour(status.expert)}">'
        f'<h4><span class="chip">{escape(status.expert)}</span>'
        f'<small data-stage="{escape(status.stage)}">{STAGES[status.stage]}</small>'
        f"{_way(plan.config)}</h4>"
        f'<div class="bar-line"><i style="width:{share:.1f}%"></i></div>'
        f'<p class="tally">{_facts(report)}</p>{said}{_held_out(report.held_out)}'
        f"{_forgotten(report.forgetting)}{notes}</div>"
    )


def _way(config: TrainConfig) -> str:
    """How it learns, where that is not the usual way."""
    way = way_of(config)
    return "" if way == USUAL else f"<small>{escape(way)}</small>"


def _facts(report: RunReport) -> str:
    status, run = report.status, report.curves
    facts = [f"step <b>{status.step}</b> of {status.steps}"]
    if report.live and status.eta_s is not None:
        facts.append(f"{in_words(status.eta_s)} to go")
    if run.steps:
        facts.append(f"reward <b>{run.reward[-1]:+.2f}</b>".replace("-", "−"))
        facts.append(f"{run.tokens_per_s[-1]:.0f} tokens/s")
    if run.memory_bytes:
        facts.append(f"{run.memory_bytes / 2**30:.1f} GB beside the model")
    if run.checks:
        best = max(check.accuracy for check in run.checks)
        facts.append(f"best check <b>{100 * best:.0f} %</b>")
    return " · ".join(facts)


def _forgotten(measured: Sequence[Mapping[str, Any]]) -> str:
    """What the other experts' tasks have lost or gained, a line each."""
    if not measured:
        return ""
    lines = "".join(f"<li>{escape(said(HeldOut.from_dict(task)))}</li>" for task in measured)
    return (
        f"<details><summary>{term('forgetting', 'What it forgot')}: other experts' tasks, before → "
        f"after</summary><ul>{lines}</ul></details>"
    )


def _held_out(held_out: Mapping[str, Any] | None) -> str:
    """Before and after, with what the difference may be by chance."""
    if not held_out:
        return ""
    base, trained = float(held_out["base"]), float(held_out["trained"])
    low, high = (100 * float(x) for x in held_out["ci95_difference"])
    verdict = "It helps." if low > 0 else "It harms." if high < 0 else "That may still be chance."
    span = f"{low:+.0f} to {high:+.0f}".replace("-", "−")
    return (
        f'<div class="before-after"><span class="scale"><i style="--w:{100 * base:.1f}%"></i>'
        f'<i class="after" style="--w:{100 * trained:.1f}%"></i></span>'
        f'<p class="result"><b>{100 * base:.0f} % → {100 * trained:.0f} %</b> right on '
        f"{held_out['n']} {term('held out', 'held-out')} rows<br>difference {span} points (95 %). "
        f"<em>{verdict}</em></p></div>"
    )

"""The Train tab as HTML: a person's rows, the dry run, a run in words, runs side by side."""

import difflib
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from t2local.engine.training import RunReport
from t2local.experts import HeldOut
from t2local.plots import theme
from t2local.progress import FAILED, FINISHED, INTERRUPTED, PAUSED, QUEUED, RUNNING, STOPPING
from t2local.tasks.datasets import Dataset, split_rows
from t2local.tasks.rows import Example
from t2local.tasks.uploads import Draft
from t2local.training.config import TrainConfig
from t2local.training.dry_run import DryRunReport, Sample, in_words, run_seconds
from t2local.training.reports import Curves
from t2local.training.validation import in_words as said
from t2local.ui.forms import USUAL, way_of
from t2local.ui.messages import term

ROWS_SHOWN, LISTED = 3, 12
NO_ROWS = (
    '<p class="quiet">A spreadsheet (Excel, LibreOffice), CSV, TSV, JSON, JSONL or Parquet, with a '
    "column for what you ask and one for the answer. Nothing leaves this computer.</p>"
)


def rows_html(draft: Draft, as_read: Sequence[str], held_out_share: float) -> str:
    """The rows in numbers, what is wrong with some, and the first as the model reads them."""
    parts = split_rows(draft.name, draft.file.examples, held_out_share=held_out_share)
    held = "".join(f"<li>{_cut(e.prompt, 140)}</li>" for e in parts.held_out[:LISTED])
    more = len(parts.held_out) - LISTED
    listed = (
        f"<details><summary>The held-out rows</summary><ul>{held}</ul>"
        f"{f'<p class=quiet>and {more} more</p>' if more > 0 else ''}</details>"
    )
    return (
        f'<div class="rows"><p class="tally"><b>{len(draft.file.examples)}</b> rows: '
        f"{_parts(parts)}</p>"
        f"{_note(draft)}{_bad(draft)}{_duplicates(draft)}{_preview(draft.file.examples, as_read)}"
        f"{'' if parts.leave_one_out else listed}</div>"
    )


def _parts(parts: Dataset) -> str:
    if parts.leave_one_out:
        return (
            "too few to set any aside, so all are learnt from, and each is "
            f"{term('held out')} once, from a training of its own (leave-one-out)"
        )
    return (
        f"<b>{len(parts.train)}</b> to learn from, <b>{len(parts.validation)}</b> "
        f"{term('checked', 'to check')} on the way, <b>{len(parts.held_out)}</b> {term('held out')}"
    )


def reward_html(draft: Draft, reward: str) -> str:
    """Why this reward was suggested, or what the chosen one asks for."""
    if reward == draft.suggestion.reward:
        return f'<p class="quiet"><b>Suggested.</b> {escape(draft.suggestion.reason)}</p>'
    return (
        f'<p class="quiet">Your choice; suggested was <b>{escape(draft.suggestion.reward)}</b>. '
        f"{escape(draft.suggestion.reason)}</p>"
    )


def tried_html(tried: DryRunReport) -> str:
    """What the base model says to a few rows and what it earns for it."""
    rows = "".join(_sample(sample) for sample in tried.samples)
    problem = f'<p class="note">{escape(tried.problem)}</p>' if tried.problem else ""
    return (
        f'{problem}<div class="scroll"><table class="tried"><thead><tr><th>prompt</th>'
        "<th>the base model says</th><th>wanted</th><th>reward</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="caption">Before any training. Right earns +1, wrong −1. If a reward looks wrong '
        "here, choose another one.</p>"
    )


def estimate_html(tried: DryRunReport | None, config: TrainConfig) -> str:
    """Time and memory of a run, as far as they are known."""
    if tried is None:
        return '<p class="quiet">How long that is in steps is measured when it starts.</p>'
    measured = (
        "each row held out once" if tried.leave_one_out else f"{tried.held_out} held-out rows"
    )
    memory = f"about {tried.memory_bytes / 2**30:.1f} GB of memory beside the model"
    short = (
        f'<p class="note">Only {tried.free_bytes / 2**30:.1f} GB are free. Shorter answers need '
        "less; if memory runs out, fewer rows are taken at a time and it goes on.</p>"
    )
    return (
        f'<p class="quiet"><b>{in_words(run_seconds(tried, config)).capitalize()}</b> in all: '
        f"{config.steps} steps of {tried.step_s:.1f} s, {measured} answered before and after, then "
        f"{in_words(tried.others_s)} to see what was {term('forgetting', 'forgotten')}. "
        f"{memory.capitalize()}.</p>{'' if tried.fits else short}"
    )


def _bad(draft: Draft) -> str:
    bad = draft.file.bad_rows
    if not bad:
        return ""
    rows = "".join(f"<li>row {n}: {_cut(reason, 200)}</li>" for n, reason in bad[:LISTED])
    more = f"<li>and {len(bad) - LISTED} more</li>" if len(bad) > LISTED else ""
    many = "row cannot" if len(bad) == 1 else "rows cannot"
    return f'<div class="note"><b>{len(bad)} {many} be used</b><ul>{rows}{more}</ul></div>'


def _note(draft: Draft) -> str:
    return f'<p class="quiet">{escape(draft.file.note)}</p>' if draft.file.note else ""


def _duplicates(draft: Draft) -> str:
    found = draft.file.duplicates
    if not found:
        return ""
    listed = ", ".join(f"{later} (as {first})" for later, first in found[:LISTED])
    more = " …" if len(found) > LISTED else ""
    return f'<p class="quiet">Rows that repeat an earlier one: {listed}{more}.</p>'


def _preview(examples: Sequence[Example], as_read: Sequence[str]) -> str:
    rows = "".join(
        f"<tr><td><pre>{escape(text)}</pre></td><td>{_cut(example.answer, 160)}</td></tr>"
        for example, text in zip(examples, as_read, strict=False)
    )
    return (
        '<div class="scroll"><table class="preview"><thead><tr><th>what the model reads</th>'
        f"<th>answer</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _sample(sample: Sample) -> str:
    if sample.reward is None:
        reward, kind = "none", "none"
    else:
        reward = f"{sample.reward:+.1f}".replace("-", "−")
        kind = "right" if sample.reward >= 1 else "wrong" if sample.reward < 0 else "part"
    return (
        f"<tr><td>{_cut(sample.prompt, 110)}</td><td>{_cut(sample.said, 160)}</td>"
        f'<td>{_cut(sample.wanted, 80)}</td><td class="{kind}">{reward}</td></tr>'
    )


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return escape(text if len(text) <= most else text[: most - 1] + "…")


# --- A run in words: how far it is, what to watch, and what came of it.
#
# Pure functions of a `RunReport` to HTML.

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
        f'<div class="live" style="--c:{theme.colour(status.name)}">'
        f'<h4><span class="chip">{escape(status.name)}</span>'
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


# --- What a run has learnt, to read: base and current answers to the same prompts, side by side.
#
# Pure functions of a run's curves to HTML. Words that only one of the two says are marked.

LONGEST = 600  # characters of an answer
MOST_CHECKS = 8  # earlier ones that can be opened


def answers_html(run: Curves) -> str:
    """The newest check, and the earlier ones folded; "" before the first."""
    if not run.answers:
        return ""
    newest, *earlier = run.answers[::-1]
    folded = "".join(
        f"<details><summary>{_when(step)}</summary>{_table(rows)}</details>"
        for step, rows in earlier[:MOST_CHECKS]
    )
    return (
        f'<div class="answers"><h4>{term("base", "Base")} and now, {_when(newest[0]).lower()}</h4>'
        f"{_table(newest[1])}{folded}</div>"
    )


def marked(base: str, current: str) -> tuple[str, str]:
    """Both texts as HTML; words that stand in one alone are in `<del>` or `<ins>`."""
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text[:LONGEST]) for text in (base, current))
    left, right = [], []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, False).get_opcodes():
        old, new = escape("".join(before[a:b])), escape("".join(after[c:d]))
        same = kind == "equal" or not (old + new).strip()
        left.append(old if same or not old else f"<del>{old}</del>")
        right.append(new if same or not new else f"<ins>{new}</ins>")
    return "".join(left), "".join(right)


def _when(step: int) -> str:
    return f"After step {step}" if step else "Before the first step"


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    body = ""
    for prompt, base, current in rows:
        left, right = marked(base, current)
        body += (
            f'<tr class="asked"><td colspan="2">{escape(prompt)}</td></tr>'
            f"<tr><td><pre>{left}</pre></td><td><pre>{right}</pre></td></tr>"
        )
    return (
        '<div class="scroll"><table class="answers"><thead><tr><th>the base model</th>'
        f"<th>with the current z</th></tr></thead><tbody>{body}</tbody></table></div>"
    )


# --- Runs laid over each other: their curves in one figure, and what came of each in a table.
#
# Pure functions of `RunReport`s to HTML.

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
    return f"{report.status.name} · {way_of(report.plan.config)} · {when(report.status.id)}"


def when(folder: str) -> str:
    """`20260131-091500-name` as `2026-01-31 09:15`."""
    return f"{folder[:4]}-{folder[4:6]}-{folder[6:8]} {folder[9:11]}:{folder[11:13]}"


def _row(report: RunReport) -> str:
    result, held_out = report.result, report.held_out
    cells = [escape(report.status.name), escape(way_of(report.plan.config))]
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

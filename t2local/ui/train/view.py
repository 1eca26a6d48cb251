"""The Train tab as HTML: a person's rows, the dry run, a run in words, runs side by side.

Here are the values; the elements are in `templates/train.html`.
"""

from collections.abc import Sequence
from dataclasses import replace

from t2local.engine.training import RunReport
from t2local.experts import HeldOut
from t2local.html import commas, gib, percent, plus_minus, points
from t2local.progress import FAILED, FINISHED, INTERRUPTED, PAUSED, QUEUED, RUNNING, STOPPING
from t2local.statistics import fewest_proven
from t2local.tasks.datasets import split_rows
from t2local.tasks.uploads import Draft
from t2local.training.config import TrainConfig
from t2local.training.dry_run import DryRunReport, Sample
from t2local.training.forecast import in_words, run_seconds
from t2local.training.reports import Curves
from t2local.training.validation import in_words as said
from t2local.ui.forms import USUAL, way_of
from t2local.ui.markdown import Piece, pieces
from t2local.ui.own_rows import earned
from t2local.ui.style import PAGE, quiet_html

FILE = "train.html"
LISTED = 12  # held-out rows
NO_ROWS = PAGE.render(FILE, "no_rows")


def parts_html(draft: Draft, held_out_share: float) -> str:
    """How many rows are learnt from, and which are held out."""
    parts = split_rows(draft.name, draft.file.examples, held_out_share=held_out_share)
    return PAGE.render(
        FILE,
        "parts",
        parts=parts,
        held_out=[_cut(e.prompt, 140) for e in parts.held_out[:LISTED]],
        more_held_out=len(parts.held_out) - LISTED,
        fewest=fewest_proven(),
    )


def reward_html(draft: Draft, reward: str) -> str:
    """Why this reward was suggested, or what the chosen one asks for."""
    taken = reward == draft.suggestion.reward
    return PAGE.render(FILE, "reward", suggestion=draft.suggestion, taken=taken)


def begin_html(start: str, replay: str) -> str:
    """What going on from an expert means. `replay`: a sentence about its own rows."""
    return PAGE.render(FILE, "begin", start=start, replay=replay)


def tried_html(tried: DryRunReport) -> str:
    """What the base model says to a few rows and what it earns for it."""
    samples = [_sample(sample) for sample in tried.samples]
    return PAGE.render(FILE, "tried", samples=samples, problem=tried.problem)


def estimate_html(tried: DryRunReport | None, config: TrainConfig, forgetting: bool = True) -> str:
    """Time and memory of a run, as far as they are known."""
    if tried is None:
        return PAGE.render(FILE, "not_estimated")
    return PAGE.render(
        FILE,
        "estimate",
        tried=tried,
        duration=in_words(run_seconds(tried, config, forgetting)).capitalize(),
        steps=config.steps,
        others=in_words(tried.others_s) if forgetting else "",
    )


def _sample(sample: Sample) -> tuple[str, str, str, str, str]:
    """Prompt, answer, wanted answer, kind of reward, reward."""
    texts = _cut(sample.prompt, 110), _cut(sample.said, 160), _cut(sample.wanted, 80)
    return *texts, *earned(sample.reward)


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


# --- A run in words: how far it is, what to watch, and what came of it.

STAGES = {
    QUEUED: "waits for its turn",
    RUNNING: "learning",
    PAUSED: "paused",
    STOPPING: "stopping",
    FINISHED: "finished",
    FAILED: "failed",
    INTERRUPTED: "cut off",
}
NO_RUN = PAGE.render(FILE, "no_run")
PAUSED_HINT = "Paused: the model is all yours in the chat. Resume whenever you like."


def live_html(report: RunReport) -> str:
    status, way, held_out = report.status, way_of(report.plan.config), report.held_out
    return PAGE.render(
        FILE,
        "live",
        status=status,
        stage=STAGES[status.stage],
        way="" if way == USUAL else way,
        share=status.step / max(1, status.steps),
        facts=_facts(report),
        message=PAUSED_HINT if status.stage == PAUSED else status.message,
        failed=status.stage in (FAILED, INTERRUPTED),
        held_out=held_out,
        verdict=_verdict(held_out["ci95_difference"]) if held_out else "",
        forgotten=[said(HeldOut.from_dict(task)) for task in report.forgetting],
        found=report.found,
        prefers=report.prefers,
        since=since_line(report),
        offered=report.offered,
        notes=[*report.warnings, *(text for _, text in report.curves.notices)],
    )


def since_line(report: RunReport) -> str:
    """What a version that goes on has gained since the one before, "" where there is none."""
    if report.since_start is None:
        return ""
    gain = HeldOut.from_dict(report.since_start)
    return said(replace(gain, task=f"Beside {report.plan.start} before"))


def _facts(report: RunReport) -> list[tuple[str, str, str]]:
    """What comes before a figure, the figure in bold, what comes after it."""
    status, run = report.status, report.curves
    facts = [("step ", str(status.step), f" of {status.steps}")]
    if report.live and status.eta_s is not None:
        facts.append((f"{in_words(status.eta_s)} to go", "", ""))
    if run.steps:
        facts.append(("reward ", plus_minus(run.reward[-1], 2), ""))
        facts.append((f"{run.tokens_per_s[-1]:.0f} tokens/s", "", ""))
    if again := sum(run.drawn_again):
        facts.append((f"{again} prompts drawn again", "", ""))
    if run.memory_bytes:
        facts.append((f"{gib(run.memory_bytes)} beside the model", "", ""))
    if run.checks:
        best = max(check.accuracy for check in run.checks)
        facts.append(("best check ", percent(best), ""))
    return facts


def _verdict(difference: Sequence[float]) -> str:
    """What the interval of the difference says in words."""
    low, high = difference
    return "It helps." if low > 0 else "It harms." if high < 0 else "That may still be chance."


# --- What a run has learnt, to read: base and current answers to the same prompts, side by side.
#
# Words that only one of the two says are marked.

LONGEST = 600  # characters of an answer
MOST_CHECKS = 8  # earlier ones that can be opened


def answers_html(run: Curves) -> str:
    """The newest check, and the earlier ones folded; "" before the first."""
    if not run.answers:
        return ""
    (step, rows), *earlier = run.answers[::-1]
    return PAGE.render(
        FILE,
        "answers",
        newest=_when(step),
        rows=_compared(rows),
        earlier=[(_when(step), _compared(rows)) for step, rows in earlier[:MOST_CHECKS]],
    )


def _compared(rows: Sequence[tuple[str, str, str]]) -> list[tuple[str, list[Piece], list[Piece]]]:
    return [(prompt, *pieces(base[:LONGEST], current[:LONGEST])) for prompt, base, current in rows]


def _when(step: int) -> str:
    return f"After step {step}" if step else "Before the first step"


# --- Runs laid over each other: their curves in one figure, and what came of each in a table.

NOTHING = quiet_html("Choose two runs or more to lay them over each other.")
OPEN = "–"


def runs_html(reports: Sequence[RunReport]) -> str:
    """One line a run; figures that are not measured yet are left open."""
    if not reports:
        return NOTHING
    return PAGE.render(FILE, "runs", rows=[_cells(report) for report in reports])


def label(report: RunReport) -> str:
    """The expert's name, how it learns and when it began; in the figure's legend."""
    return f"{report.status.name} · {way_of(report.plan.config)} · {when(report.status.id)}"


def when(folder: str) -> str:
    """`20260131-091500-name` as `2026-01-31 09:15`."""
    return f"{folder[:4]}-{folder[4:6]}-{folder[6:8]} {folder[9:11]}:{folder[11:13]}"


def _cells(report: RunReport) -> list[str]:
    result, held_out = report.result, report.held_out
    cells = [report.status.name, way_of(report.plan.config)]
    cells += [commas(result["numbers"]) if "numbers" in result else OPEN, str(report.status.step)]
    cells.append(f"{result['train_s'] / 60:.1f}" if "train_s" in result else OPEN)
    if not held_out:
        return [*cells, OPEN, OPEN]
    before, after = 100 * held_out["base"], 100 * held_out["trained"]
    cells.append(f"{before:.0f} → {after:.0f} % of {held_out['n']}")
    return [*cells, points(held_out["ci95_difference"])]

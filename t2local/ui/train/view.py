"""What the Train tab says of a person's rows, of the reward, and of the base model's try-out.

Pure functions of values to HTML; every text of a file is escaped.
"""

from collections.abc import Sequence
from html import escape

from t2local.tasks.datasets import Curriculum, split_rows
from t2local.tasks.rows import Example
from t2local.tasks.uploads import Draft
from t2local.training.config import TrainConfig
from t2local.training.dry_run import Sample, TryOut, in_words, run_seconds
from t2local.ui.messages import term

REWARDS = {
    "choice": "one of a few choices is right",
    "contains": "the answer stands in what it says",
    "exact": "it says the answer and nothing else",
    "numeric": "its final number is the answer",
    "math": "its final value or formula equals the answer",
    "length": "a number of words, such as 5-20",
    "json": "JSON with the right fields",
    "regex": "a pattern in the answer column matches",
    "code": "its program passes the row's tests",
    "code_partial": "as code, with credit on the way",
}
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


def _parts(parts: Curriculum) -> str:
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


def tried_html(tried: TryOut) -> str:
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


def estimate_html(tried: TryOut | None, config: TrainConfig) -> str:
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

"""What the Evaluate tab shows as HTML: progress, the table, confusion matrices, samples.

Pure functions of results and records.
"""

from collections.abc import Sequence
from html import escape

from t2local.evaluation.measure import Scored
from t2local.evaluation.report import trained_text
from t2local.evaluation.tally import Confusion, Record, Result
from t2local.plots import theme
from t2local.statistics import wilson
from t2local.ui.chat.view import signed
from t2local.ui.messages import term

ALL, RIGHT, WRONG = "all", "right", "wrong"
MOST_SAMPLES = 40
LONGEST = 2_000  # characters of a prompt or answer


def status_html(event: Scored, cells: int, cell: int) -> str:
    """How far the run is: this cell of `cells` (counted from 1), and its running accuracy."""
    share = 100 * (cell - 1 + event.done / max(1, event.total)) / max(1, cells)
    low, high = wilson(event.correct, event.done)
    right = f"{100 * event.correct / event.done:.0f} % right" if event.done else "beginning"
    return (
        f'<div class="bar-line" style="--c:{theme.POSITIVE}"><i style="width:{share:.0f}%"></i>'
        f'</div><p class="tally" data-done="{event.done}"><b>{escape(event.strategy)}</b> on '
        f"{escape(event.task)}: {event.done} of {event.total} · {right} "
        f"({100 * low:.0f} to {100 * high:.0f} %)</p>"
    )


def table_html(results: Sequence[Result]) -> str:
    """A row a result; before the end `difference` and seconds may be missing."""
    if not results:
        return ""
    heads = (
        "task", "strategy", "right", term("95 % interval"), "more than base", "",
        term("pass 1"), term("pass 2"), "tokens", "numbers trained",
    )  # fmt: skip
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(map(_row, results))}</tbody></table></div>"
    )


def _row(result: Result) -> str:
    name = (
        f'<td>{escape(result.task)}</td><td><span class="chip" '
        f'style="--c:{theme.colour(result.strategy)}">{escape(result.strategy)}</span></td>'
    )
    if result.failed:
        return f'<tr>{name}<td colspan="8" class="bad">failed: {escape(result.failed)}</td></tr>'
    if not result.n:
        return f'<tr>{name}<td colspan="8" class="quiet">waits</td></tr>'
    low, high = (100 * end for end in result.ci95)
    share = f"<b>{100 * result.accuracy:.1f} %</b> <small>{result.correct} of {result.n}</small>"
    if result.failed_prompts:
        share += f' <small class="bad">{result.failed_prompts} not answered</small>'
    cells = (
        share, f"{low:.1f} – {high:.1f}", *_difference(result), _seconds(result.first_pass_s),
        _seconds(result.second_pass_s), f"{result.tokens:,}" if result.tokens else "",
        trained_text(result.trained),
    )  # fmt: skip
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _difference(result: Result) -> tuple[str, str]:
    """The difference in points, and in words whether it is one."""
    if result.difference is None:
        return "", ""
    mean, low, high = (100 * value for value in result.difference)
    word = "better" if low > 0 else "worse" if high < 0 else "not proven"
    tone = "good" if low > 0 else "bad" if high < 0 else "quiet"
    return f"{mean:+.1f} <small>{low:+.1f} to {high:+.1f}</small>", (
        f'<span class="{tone}">{word}</span>'
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value else ""


def confusion_html(confusions: Sequence[Confusion]) -> str:
    """A matrix a dispatcher; the darker a cell, the larger its share of the row."""
    return "".join(map(_matrix, confusions))


def _matrix(confusion: Confusion) -> str:
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in confusion.labels)
    rows = "".join(
        f'<tr><th scope="row">{escape(topic)}</th>{_counts(counts)}</tr>'
        for topic, counts in zip(confusion.topics, confusion.counts, strict=True)
    )
    return (
        f'<p class="caption">What <b>{escape(confusion.strategy)}</b> called the prompts '
        f"(columns) of each kind (rows): {100 * confusion.accuracy:.0f} % rightly.</p>"
        f'<div class="scroll"><table class="confusion"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _counts(counts: Sequence[int]) -> str:
    total = max(1, sum(counts))
    return "".join(f'<td style="--share:{100 * c / total:.0f}%">{c}</td>' for c in counts)


def samples_html(records: Sequence[Record], verdict: str) -> str:
    """The first samples of a verdict, each to be opened."""
    kept = [r for r in records if verdict == ALL or r.right == (verdict == RIGHT)]
    if not kept:
        return '<p class="quiet">There are none.</p>'
    shown = "".join(_sample(record) for record in kept[:MOST_SAMPLES])
    rest = len(kept) - MOST_SAMPLES
    more = f'<p class="quiet">{rest} more in samples.jsonl.</p>' if rest > 0 else ""
    return f'<div class="samples">{shown}</div>{more}'


def _sample(record: Record) -> str:
    mark = '<span class="good">✓</span>' if record.right else '<span class="bad">✗</span>'
    first = escape(" ".join(record.prompt.split())[:110])
    alpha = _chips({name: a for name, a in record.alpha.items() if a}, signed)
    asked = _chips(record.probabilities, "{:.2f}".format)
    called = f"<p>called <b>{escape(record.chosen)}</b> {asked}</p>" if record.chosen else ""
    mixed = f"<p>answered with {alpha}</p>" if alpha else ""
    answer = escape((record.failed or record.answer or "(nothing)")[:LONGEST])
    return (
        f"<details><summary>{mark} {first}</summary><h5>prompt</h5>"
        f"<pre>{escape(record.prompt[:LONGEST])}</pre><h5>answer</h5><pre>{answer}</pre>"
        f"<h5>right answer</h5><pre>{escape(record.wanted[:LONGEST])}</pre>"
        f"{called}{mixed}</details>"
    )


def _chips(values, number) -> str:
    return " ".join(
        f'<span class="chip" style="--c:{theme.colour(name)}">{escape(name)} {number(v)}</span>'
        for name, v in values.items()
    )

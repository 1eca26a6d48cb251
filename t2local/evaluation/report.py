"""An evaluation as files: JSON, CSV, Markdown, and one page of HTML that needs nothing else."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.evaluation.tally import Confusion, Evaluation, Record, Result

SAMPLES = 40  # shown of each strategy on each task, wrong and right ones as they come
LONGEST = 1200  # characters of a prompt or answer
STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#23282b, #e8e6e0);
  --quiet: light-dark(#6b6861, #a19e96); --line: light-dark(#e2dfd7, #2d3235);
  --bar: light-dark(#2c7a70, #7fc4b6); --base: #8391a3; --bad: light-dark(#a8382a, #f09a8c); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: light-dark(#faf9f6, #121416); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--quiet); }
th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; } .quiet { color: var(--quiet); } .wrong { color: var(--bad); }
svg text { fill: var(--ink); font-size: 13px; } pre { white-space: pre-wrap; margin: .2rem 0 .6rem;
  font: 13px/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--line); padding: .3rem 0; } summary { cursor: pointer; }
"""


def page_html(evaluation: Evaluation, about: Mapping[str, Any]) -> str:
    tasks = dict.fromkeys(result.task for result in evaluation.results)
    parts = [_task(evaluation, task) for task in tasks]
    parts += [_confusion(confusion) for confusion in evaluation.confusions]
    parts += [_samples(*cell, records) for cell, records in evaluation.records.items()]
    made = "".join(f"<li>{escape(str(k))}: {escape(str(v))}</li>" for k, v in about.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {escape(evaluation.model)}</title><style>{STYLE}</style></head>"
        f"<body><h1>Evaluation of {escape(evaluation.model)}</h1>"
        '<p class="quiet">Accuracy with its 95 % interval (Wilson); the difference to the base '
        "model is paired over the same prompts.</p>"
        f'{"".join(parts)}<h2>How it was made</h2><ul class="quiet">{made}</ul></body></html>\n'
    )


def _task(evaluation: Evaluation, task: str) -> str:
    results = [result for result in evaluation.results if result.task == task]
    heads = ("strategy", "n", "right", "95 %", "− base", "95 %", "pass 1", "pass 2", "tokens",
             "trained")  # fmt: skip
    head = "".join(f"<th>{h}</th>" for h in heads)
    source = escape(evaluation.sources.get(task, ""))
    return (
        f'<h2>{escape(task)}</h2><p class="quiet">{source}</p>{bars_svg(results)}'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(map(_row, results))}</tbody></table></div>"
    )


def _row(result: Result) -> str:
    name = f"<td>{escape(result.strategy)}</td>"
    if result.failed:
        return f'<tr>{name}<td colspan="9" class="wrong">failed: {escape(result.failed)}</td></tr>'
    low, high = result.ci95
    mean, least, most = result.difference or (None, None, None)
    cells = (
        f"{result.n}",
        f"{100 * result.accuracy:.1f} %",
        f"{100 * low:.1f} – {100 * high:.1f}",
        "" if mean is None else f"{100 * mean:+.1f}",
        "" if mean is None else f"{100 * least:+.1f} … {100 * most:+.1f}",
        f"{result.first_pass_s:.1f} s",
        f"{result.second_pass_s:.1f} s",
        f"{result.tokens:,}",
        "" if result.trained is None else f"{result.trained:,}",
    )
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def bars_svg(results: Sequence[Result]) -> str:
    """A bar a strategy from 0 to 100 %, the interval as a line across its end."""
    height, left, width = 30, 190, 620
    rows = []
    for i, result in enumerate(results):
        y = 8 + i * height
        low, high = (left + width * end for end in result.ci95)
        share = left + width * (result.accuracy or 0.0)
        colour = "var(--base)" if result.strategy == "base" else "var(--bar)"
        said = "failed" if result.failed else f"{100 * result.accuracy:.1f} %"
        rows.append(
            f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">'
            f"{escape(result.strategy[:26])}</text>"
            f'<rect x="{left}" y="{y + 3}" width="{share - left:.1f}" height="17" rx="3" '
            f'fill="{colour}" opacity=".8"/>'
            f'<text x="{left + width + 12}" y="{y + 16}">{said}</text>'
        )
        if not result.failed:
            rows.append(
                f'<path d="M{low:.1f} {y + 11.5}H{high:.1f}M{low:.1f} {y + 7}v9'
                f'M{high:.1f} {y + 7}v9" '
                'stroke="var(--ink)" stroke-width="1.5" fill="none"/>'
            )
    total = 16 + height * len(results)
    return f'<svg viewBox="0 0 890 {total}" width="100%" role="img">{"".join(rows)}</svg>'


def _confusion(confusion: Confusion) -> str:
    head = "".join(f"<th>{escape(label)}</th>" for label in confusion.labels)
    rows = "".join(
        f"<tr><td>{escape(topic)}</td>{''.join(f'<td>{count}</td>' for count in row)}</tr>"
        for topic, row in zip(confusion.topics, confusion.counts, strict=True)
    )
    return (
        f"<h2>What {escape(confusion.strategy)} called the prompts</h2>"
        f'<p class="quiet">Rows: the true kind. {100 * confusion.accuracy:.1f} % called rightly.'
        f"</p><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _samples(task: str, strategy: str, records: Mapping[int, Record]) -> str:
    shown = [records[i] for i in sorted(records)][:SAMPLES]
    rest = len(records) - len(shown)
    note = f'<p class="quiet">{rest} more in samples.jsonl.</p>' if rest > 0 else ""
    return (
        f"<h2>{escape(task)} · {escape(strategy)}: samples</h2>{''.join(map(_sample, shown))}{note}"
    )


def _sample(record: Record) -> str:
    verdict = "right" if record.right else '<span class="wrong">wrong</span>'
    alpha = ", ".join(f"{name} {a:.2f}" for name, a in record.alpha.items() if a)
    decided = f" · called {escape(record.chosen)}" if record.chosen else ""
    mixed = f" · α {escape(alpha)}" if alpha else ""
    first = escape(" ".join(record.prompt.split())[:90])
    answer = escape((record.failed or record.answer)[:LONGEST])
    return (
        f"<details><summary>{verdict} · {first}{decided}{mixed}</summary>"
        f"<p>prompt</p><pre>{escape(record.prompt[:LONGEST])}</pre><p>answer</p><pre>{answer}</pre>"
        f"<p>right answer</p><pre>{escape(record.wanted[:LONGEST])}</pre></details>"
    )


# --- An evaluation as files: JSON, CSV, Markdown, and a page that opens without a network.
#
# `about` says how it was made (command, seed, machine).

MOST_TRAINED = 1_000_000


def write_report(evaluation: Evaluation, about: Mapping[str, Any], folder: Path) -> list[Path]:
    """results.json, .csv, .md, samples.jsonl and report.html in `folder`, each atomically.

    Raises `T2LocalError` when the disk is full or the folder cannot be written.
    """
    content = {**evaluation.as_dict(), "about": dict(about)}
    texts = {
        "results.json": json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        "results.csv": csv_text(evaluation),
        "results.md": markdown_text(evaluation, about),
        "samples.jsonl": "".join(samples_lines(evaluation)),
        "report.html": page_html(evaluation, about),
    }
    for name, text in texts.items():
        with paths.atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    return [folder / name for name in texts]


def csv_text(evaluation: Evaluation) -> str:
    """A row a result; intervals in two columns each."""
    rows = [_flat(result) for result in evaluation.results]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def samples_lines(evaluation: Evaluation) -> Iterator[str]:
    """Every scored prompt, a line of JSON each."""
    for (task, strategy), records in evaluation.records.items():
        for record in records.values():
            line = {"task": task, "strategy": strategy, **asdict(record)}
            yield json.dumps(line, ensure_ascii=False) + "\n"


def markdown_text(evaluation: Evaluation, about: Mapping[str, Any]) -> str:
    """A table of results, then the confusion matrices."""
    heads = ("task", "strategy", "n", "accuracy", "95 %", "− base", "95 %", "pass 1", "pass 2",
             "tokens", "trained")  # fmt: skip
    lines = [f"Evaluation of {evaluation.model}", "", _line(heads), _line(["---"] * len(heads))]
    lines += [_line(in_words(result)) for result in evaluation.results]
    for confusion in evaluation.confusions:
        lines += ["", *_confusion_lines(confusion)]
    lines += ["", *(f"- {name}: {value}" for name, value in about.items())]
    return "\n".join(lines) + "\n"


def in_words(result: Result) -> list[str]:
    """One result as a table shows it: percentages, seconds, counts."""
    if result.failed:
        return [result.task, result.strategy, "0", f"failed: {result.failed}", *[""] * 7]
    low, high = result.ci95
    difference, interval = "", ""
    if result.difference:
        mean, least, most = result.difference
        difference, interval = f"{100 * mean:+.1f}", f"{100 * least:+.1f} to {100 * most:+.1f}"
    return [
        result.task,
        result.strategy,
        str(result.n),
        f"{100 * result.accuracy:.1f} %",
        f"{100 * low:.1f} to {100 * high:.1f}",
        difference,
        interval,
        f"{result.first_pass_s:.1f} s",
        f"{result.second_pass_s:.1f} s",
        f"{result.tokens:,}",
        trained_text(result.trained),
    ]


def trained_text(count: int | None) -> str:
    """
    >>> trained_text(1_234_567), trained_text(160_512), trained_text(None)
    ('1.23 M', '160,512', '')
    """
    if count is None:
        return ""
    return f"{count / 1e6:.2f} M" if count >= MOST_TRAINED else f"{count:,}"


def _flat(result: Result) -> dict[str, Any]:
    values = result.as_dict()
    low, high = values.pop("ci95")
    least, most = values.pop("ci95_difference") or (None, None)
    return {**values, "ci95_low": low, "ci95_high": high, "diff_low": least, "diff_high": most}


def _confusion_lines(confusion: Confusion) -> list[str]:
    title = f"{confusion.strategy}: {100 * confusion.accuracy:.1f} % of prompts called rightly"
    heads = ["true kind", *confusion.labels]
    rows = zip(confusion.topics, confusion.counts, strict=True)
    return [
        title, "", _line(heads), _line(["---"] * len(heads)),
        *(_line([topic, *map(str, row)]) for topic, row in rows),
    ]  # fmt: skip


def _line(cells) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

"""An evaluation as files: JSON, CSV, Markdown, and one page of HTML that needs nothing else."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.evaluation.tally import Confusion, Evaluation, Record, Result
from t2local.html import Templates

SAMPLES = 40  # shown of each strategy on each task, wrong and right ones as they come
LONGEST = 1200  # characters of a prompt or answer
PAGE = Templates(Path(__file__).with_name("templates"))
BAR_HEIGHT, BARS_FROM, BARS_WIDTH = 30, 190, 620  # of the picture in report.html


@dataclass(frozen=True)
class Task:
    name: str
    source: str
    results: Sequence[Result]
    bars: "Sequence[Bar]"


@dataclass(frozen=True)
class Bar:
    """One strategy in the picture. `ends`: of its interval, from left; None where it failed."""

    name: str
    is_base: bool
    top: int
    width: float
    said: str
    ends: tuple[float, float] | None


@dataclass(frozen=True)
class Sample:
    """A record, cut to what is shown. `first`: the beginning of its prompt."""

    right: bool
    first: str
    chosen: str
    alpha: str
    prompt: str
    answer: str
    wanted: str


def page_html(evaluation: Evaluation, about: Mapping[str, Any]) -> str:
    tasks = dict.fromkeys(result.task for result in evaluation.results)
    return PAGE.render(
        "report.html",
        "page",
        model=evaluation.model,
        tasks=[_task(evaluation, task) for task in tasks],
        confusions=evaluation.confusions,
        cells=[_cell(*cell, records) for cell, records in evaluation.records.items()],
        about=about,
    )


def _task(evaluation: Evaluation, task: str) -> Task:
    results = [result for result in evaluation.results if result.task == task]
    return Task(task, evaluation.sources.get(task, ""), results, bars(results))


def bars(results: Sequence[Result]) -> list[Bar]:
    """A bar a strategy from 0 to 100 %, the interval as a line across its end."""
    return [
        Bar(
            name=result.strategy[:26],
            is_base=result.strategy == "base",
            top=8 + i * BAR_HEIGHT,
            width=BARS_WIDTH * (result.accuracy or 0.0),
            said="failed" if result.failed else f"{100 * result.accuracy:.1f} %",
            ends=None
            if result.failed
            else tuple(BARS_FROM + BARS_WIDTH * end for end in result.ci95),
        )
        for i, result in enumerate(results)
    ]


def _cell(
    task: str, strategy: str, records: Mapping[int, Record]
) -> tuple[str, str, list[Sample], int]:
    """Task, strategy, the first samples, how many there are beside them."""
    shown = [_sample(records[i]) for i in sorted(records)[:SAMPLES]]
    return task, strategy, shown, len(records) - len(shown)


def _sample(record: Record) -> Sample:
    return Sample(
        right=record.right,
        first=" ".join(record.prompt.split())[:90],
        chosen=record.chosen,
        alpha=", ".join(f"{name} {a:.2f}" for name, a in record.alpha.items() if a),
        prompt=record.prompt[:LONGEST],
        answer=(record.failed or record.answer)[:LONGEST],
        wanted=record.wanted[:LONGEST],
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

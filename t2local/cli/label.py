"""`label`: a table given back with labels, by an expert that was trained to choose."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.cli import add_model_arguments, log, log_progress
from t2local.engine.engine import Engine
from t2local.engine.labelling import DOUBT, LabelPlan, LabelSummary
from t2local.errors import T2LocalError
from t2local.progress import drain
from t2local.tasks.unlabelled import KINDS, kind_of

MOST_TOLD = 5  # rows that were left out


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("label", help="label a table with an expert that chooses")
    parser.add_argument("file", type=Path, help="CSV, TSV, JSON, JSONL, Parquet or a spreadsheet")
    parser.add_argument("--expert", required=True, metavar="NAME")
    parser.add_argument("--column", default="", metavar="NAME", help="the one to be labelled")
    parser.add_argument("--no-header", action="store_true", help="the first row is a row as well")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"{', '.join(KINDS)}; default: beside the file"
    )
    parser.add_argument(
        "--doubt", type=float, default=DOUBT, metavar="SHARE",
        help="of the way from chance to certain; a label below it is doubtful",
    )  # fmt: skip
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Label, write and report. What was done is kept: after Ctrl + C the same command goes on."""
    source = paths.named(str(arguments.file))
    out = _out(source, arguments.out)
    plan = LabelPlan(
        str(source), arguments.expert, arguments.column, arguments.doubt, arguments.no_header
    )
    engine = Engine(arguments.model, arguments.quantize, arguments.basis).load(log_progress)
    work = engine.labelling.label(plan, kind=out.suffix.lower())
    content, summary = drain(work, log_progress)
    with paths.atomic_write(out) as temporary:
        temporary.write_bytes(content)
    for number, reason in summary.left_out[:MOST_TOLD]:
        log(f"row {number} is not in it: {reason}")
    report({"out": str(out), "expert": arguments.expert, **_told(summary)})


def _out(source: Path, asked: Path | None) -> Path:
    """Where to write. Raises `T2LocalError` for a file that is there, or of another kind."""
    out = source.with_name(f"{source.stem}-labelled{kind_of(source)}") if asked is None else asked
    out = paths.named(str(out))
    if out.suffix.lower() not in KINDS:
        raise T2LocalError(f"'{out.name}' cannot be written; end it in {', '.join(KINDS)}.")
    if out.exists():
        raise T2LocalError(f"'{out}' is there already; move it, or name another with --out.")
    return out


def _told(summary: LabelSummary) -> dict[str, Any]:
    told = {
        "column": summary.column,
        "rows": summary.rows,
        "labels": dict(summary.labels),
        "doubtful": summary.doubtful,
        "unlabelled": summary.unlabelled,
        "left_out": len(summary.left_out),
    }
    if summary.answered:
        had = f"{summary.answered} that had a label in '{summary.known}'"
        told["agreed"] = f"{summary.agreed} of {had}"
    return told

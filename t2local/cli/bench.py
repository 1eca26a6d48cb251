"""`bench`: this machine's figures beside the bars they should reach. It reports, never asserts."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from t2local import paths
from t2local.bench.shape import SHAPES, goals_of, measuring_shape
from t2local.bench.suite import FULL, QUICK, measuring
from t2local.bench.table import RATIO_BARS, ROW_BARS, Bar, Measured, Row, device_name
from t2local.cli import add_model_arguments, log, log_progress
from t2local.progress import Progress, drain
from t2local.provenance import origin

NOT_MEASURED = "not measured"


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("bench", help="measure this machine against the bars")
    parser.add_argument("--quick", action="store_true", help="few repetitions: rough figures")
    parser.add_argument(
        "--shape", choices=sorted(SHAPES), help="random weights of this shape, in 4 bits, on a GPU"
    )
    parser.add_argument(
        "--vram", type=float, metavar="GIB", help="with --shape: use no more of the GPU's memory"
    )
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Measure, and report DESIGN's `bench --json` object or a table."""
    if arguments.shape:
        return _run_shape(arguments, report)
    source = arguments.model or paths.default_model()
    opening = (source, arguments.quantize, arguments.basis)
    status, found = drain(measuring(opening, QUICK if arguments.quick else FULL), _tell)
    device = device_name(status.device)
    if arguments.json:
        return report(_as_json(device, status.model_name, found))
    print(f"{status.model_name}, {status.quantization}, {status.dtype} on {device}\n")
    return print_table(found.rows, found.ratios)


def _run_shape(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    shape, name = arguments.shape, f"random-{arguments.shape}"
    rows = drain(measuring_shape(shape, arguments.vram, arguments.quick), _tell)
    device = device_name("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.json:
        return report(_as_json(device, name, Measured(rows, {})))
    print(f"{name}, nf4, on {device}\n")
    for row in rows:
        print(_line_with_goals(shape, row))
    return None


def print_table(rows: Sequence[Row], ratios: Mapping[str, float]) -> None:
    """Rows, then ratios; the bar and its mark at the end of those that have one."""
    for row in rows:
        bar = ROW_BARS.get((row.name, row.variant))
        print(_line(f"{row.name}: {row.variant}", row.value, row.unit, bar))
    print()
    for name, value in ratios.items():
        print(_line(name.replace("_", " "), value, "", RATIO_BARS.get(name)))


def _line(label: str, value: float, unit: str, bar: Bar | None) -> str:
    mark = "" if bar is None else f"{bar!s:8} {_mark(bar, value)}"
    return f"{label:50} {value:>10.4g} {unit:12} {mark}".rstrip()


def _line_with_goals(shape: str, row: Row) -> str:
    value = NOT_MEASURED if row.value is None else f"{row.value:.4g}"
    line = f"{f'{row.name}: {row.variant}':68} {value:>12} {row.unit:8}"
    for goal in goals_of(shape, row):
        line += f" {goal.least!s:7} aim {goal.aim!s:7}"
        if row.value is not None:
            line += f" {_mark(goal.least, row.value)}"
    return line.rstrip()


def _mark(bar: Bar, value: float) -> str:
    return "pass" if bar.reached(value) else "BELOW"


def _as_json(device: str, model: str, found: Measured) -> dict[str, Any]:
    rows = [asdict(row) for row in found.rows]
    return {**origin(device), "model": model, "rows": rows, "ratios": found.ratios}


def _tell(event: str | Progress) -> None:
    if isinstance(event, str):
        log(event)
    else:
        log_progress(event)

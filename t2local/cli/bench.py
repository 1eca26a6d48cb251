"""`bench`: this machine's figures beside the bars they should reach. It reports, never asserts."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from t2local import paths
from t2local.bench.shape import SHAPES, goals_of, measuring_shape
from t2local.bench.suite import FULL, QUICK, measuring
from t2local.bench.table import RATIO_BARS, ROW_BARS, Bar, Measured, Row, device_name
from t2local.cli import add_model_arguments, log, log_progress
from t2local.engine.requests import EngineStatus
from t2local.errors import T2LocalError
from t2local.models.storage import NF4
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
    parser.add_argument(
        "--out", type=Path, metavar="FILE.jsonl", help="add each figure here as it comes"
    )
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="parts with this in their names, such as habits"
    )
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Measure, and report DESIGN's `bench --json` object or lines of a table as they come."""
    source = arguments.model or paths.default_model()
    told = _Told(arguments.shape or "", _place(arguments.out), print_lines=not arguments.json)
    if arguments.shape:
        told.begin(
            f"random-{arguments.shape}",
            NF4,
            device_name("cuda" if torch.cuda.is_available() else "cpu"),
        )
        work = measuring_shape(arguments.shape, arguments.vram, arguments.quick)
    else:
        opening = (source, arguments.quantize, arguments.basis)
        work = measuring(opening, QUICK if arguments.quick else FULL, arguments.only)
    drain(work, told.take)
    if arguments.json:
        report(told.as_json())


def _place(out: Path | None) -> Path | None:
    """`out`, where lines can be added to it. Raises `T2LocalError`."""
    if out is None:
        return None
    if out.is_dir() or not out.parent.is_dir():
        found = "is a folder" if out.is_dir() else "is in a folder that is not there"
        raise T2LocalError(f"'{out}' {found}; give --out a file in a folder that is there.")
    try:
        paths.appending(out).close()
    except OSError as error:
        text = f"'{out}' cannot be written ({error.strerror}); choose another --out."
        raise T2LocalError(text) from error
    return out


@dataclass
class _Told:
    """What was measured until now: printed as it comes, and a line of JSON each in `out`.

    `shape`: whose goals are printed, "" for those of a model.
    """

    shape: str
    out: Path | None
    print_lines: bool
    origin: dict[str, Any] = field(default_factory=dict)
    found: list[Measured] = field(default_factory=list)

    def begin(self, model: str, storage: str, device: str) -> None:
        self.origin = {**origin(device), "model": model}
        self._write([self.origin])
        self._print(f"{model}, {storage} on {device}\n")

    def take(self, event: str | Progress | EngineStatus | Measured) -> None:
        match event:
            case EngineStatus():
                device = device_name(event.device)
                self.begin(event.model_name, f"{event.quantization}, {event.dtype}", device)
            case Measured():
                self.found.append(event)
                ratios = [{"ratio": name, "value": v} for name, v in event.ratios.items()]
                self._write([*map(asdict, event.rows), *ratios])
                self._print("\n".join(lines_of(event, self.shape)))
            case Progress():
                log_progress(event)
            case line:
                log(line)
                if self.origin:  # what could not be measured, and why
                    self._write([{"said": line}])

    def as_json(self) -> dict[str, Any]:
        rows = [asdict(row) for part in self.found for row in part.rows]
        ratios = {name: value for part in self.found for name, value in part.ratios.items()}
        return {**self.origin, "rows": rows, "ratios": ratios}

    def _print(self, text: str) -> None:
        if self.print_lines and text:
            print(text, flush=True)

    def _write(self, values: Sequence[Mapping[str, Any]]) -> None:
        if self.out is None:
            return
        text = "".join(json.dumps(value) + "\n" for value in values)
        try:
            paths.append(self.out, text.encode())
        except OSError as error:
            log(f"'{self.out}' takes no more ({error.strerror}); what follows is only printed.")
            self.out = None


def lines_of(found: Measured, shape: str = "") -> Iterator[str]:
    """Rows, then ratios; the bar and its mark at the end of those that have one."""
    for row in found.rows:
        bar = ROW_BARS.get((row.name, row.variant))
        if shape:
            yield _line_with_goals(shape, row)
        else:
            yield _line(f"{row.name}: {row.variant}", row.value, row.unit, bar)
    if not shape:
        for name, value in found.ratios.items():
            yield _line(name.replace("_", " "), value, "", RATIO_BARS.get(name))


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

"""`prove`: the method's claims measured on one model, as the paper's Tables 1 to 5."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from t2local import paths
from t2local.cli.common import add_model_arguments, log, log_progress
from t2local.experiments.proof import SECTIONS, ProofPlan, as_markdown, prove
from t2local.models.load.loader import LoadedModel, load_model
from t2local.progress import Progress, drain

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("prove", help="measure the method's claims (hours)")
    parser.add_argument(
        "--sections", default=",".join(SECTIONS), metavar="A,B", help=f"of {', '.join(SECTIONS)}"
    )
    parser.add_argument("--steps", type=int, default=ProofPlan.steps, help="of each training")
    parser.add_argument("--limit", type=int, default=ProofPlan.limit, help="rows of each set")
    parser.add_argument("--max-new-tokens", type=int, default=ProofPlan.max_new_tokens)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="bfloat16",
        help="of a float model",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the result here")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="write its pictures here")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Measure, and report the JSON object or its tables."""
    plan = ProofPlan(
        tuple(arguments.sections.split(",")),
        arguments.steps,
        arguments.limit,
        arguments.max_new_tokens,
    )
    source = arguments.model or paths.default_model()
    loaded = drain(load_model(source, arguments.quantize), log_progress)
    found = prove(_as_dtype(loaded, arguments.dtype), plan, _log)
    for path, text in (
        (arguments.out, lambda: json.dumps(found, indent=1) + "\n"),
        (arguments.page, lambda: _page(found)),
    ):
        if path:
            with paths.atomic_write(path) as temporary:
                temporary.write_text(text(), encoding="utf-8")
            log(f"saved {path}")
    if arguments.json:
        report(found)
    else:
        print(as_markdown(found), end="")


def _page(found: dict[str, Any]) -> str:
    from t2local.plots.accuracies import page

    return page(found)


def _as_dtype(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """A float model in another dtype; a quantised one as it is."""
    if loaded.quantization != "none":
        return loaded
    return replace(loaded, model=loaded.model.to(DTYPES[dtype]), dtype=dtype)


def _log(event: Progress) -> None:
    log(f"{event.stage} {event.done}/{event.total} {event.unit}")

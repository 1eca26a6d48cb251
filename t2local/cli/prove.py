"""`prove` and `prove-pictures`: the method's claims measured, with words and with pictures.

`prove` measures one model as the paper's Tables 1 to 5; `prove-pictures` trains experts on a small
vision-language model and measures them on easy-VQA.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from t2local import paths
from t2local.cli import add_model_arguments, log, log_progress
from t2local.experiments.proof import SECTIONS, ProofPlan, as_markdown, prove
from t2local.experiments.vision_proof import PicturePlan, prove_pictures
from t2local.models.load.loader import LoadedModel, load_model
from t2local.progress import Progress, drain
from t2local.tasks.sandbox import add_consent_argument

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
PICTURE_NUMBERS = [field for field in fields(PicturePlan) if field.name != "tower"]


def add_parser(subparsers) -> None:
    _add_prove(subparsers.add_parser("prove", help="measure the method's claims (hours)"))
    _add_prove_pictures(
        subparsers.add_parser(
            "prove-pictures", help="experts on a small vision-language model (minutes)"
        )
    )


def _add_prove(parser: argparse.ArgumentParser) -> None:
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
    add_consent_argument(parser)
    parser.set_defaults(run=run)


def _add_prove_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="embedded", help="the language model inside")
    for field in PICTURE_NUMBERS:
        flag = "--" + field.name.replace("_", "-")
        shown = f"default: {field.default}"
        parser.add_argument(flag, type=field.type, default=field.default, help=shown)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the result here")
    parser.set_defaults(run=run_pictures)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """`prove`: measure, and report the JSON object or its tables."""
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
        (arguments.out, lambda: _as_json(found)),
        (arguments.page, lambda: _page(found)),
    ):
        if path:
            _write(path, text())
            log(f"saved {path}")
    if arguments.json:
        report(found)
    else:
        print(as_markdown(found), end="")


def run_pictures(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """`prove-pictures`: what is known is on disk after each part, and all of it is reported."""
    plan = PicturePlan(**{field.name: getattr(arguments, field.name) for field in PICTURE_NUMBERS})
    text = drain(load_model(arguments.model, "none"), log_progress)

    def tell(found: dict[str, Any]) -> None:
        log(json.dumps({name: part["all"] for name, part in found["measured"].items()}))
        if arguments.out:
            _write(arguments.out, _as_json(found))

    report(prove_pictures(text, plan, tell))


def _as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    with paths.atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _page(found: dict[str, Any]) -> str:
    from t2local.plots.bars import page

    return page(found)


def _as_dtype(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """A float model in another dtype; a quantised one as it is."""
    if loaded.quantization != "none":
        return loaded
    return replace(loaded, model=loaded.model.to(DTYPES[dtype]), dtype=dtype)


def _log(event: Progress) -> None:
    log(f"{event.stage} {event.done}/{event.total} {event.unit}")

"""`prove-pictures`: experts on a small vision-language model, measured on easy-VQA."""

import argparse
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.cli.common import log, log_progress
from t2local.experiments.vision_proof import PicturePlan, prove_pictures
from t2local.models.load.loader import load_model
from t2local.progress import drain

NUMBERS = [field for field in fields(PicturePlan) if field.name != "tower"]


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "prove-pictures", help="experts on a small vision-language model (minutes)"
    )
    parser.add_argument("--model", default="embedded", help="the language model inside")
    for field in NUMBERS:
        flag = "--" + field.name.replace("_", "-")
        shown = f"default: {field.default}"
        parser.add_argument(flag, type=field.type, default=field.default, help=shown)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the result here")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Measure; what is known is on disk after each part, and all of it is reported."""
    plan = PicturePlan(**{field.name: getattr(arguments, field.name) for field in NUMBERS})
    text = drain(load_model(arguments.model, "none"), log_progress)

    def tell(found: dict[str, Any]) -> None:
        log(json.dumps({name: part["all"] for name, part in found["measured"].items()}))
        if arguments.out:
            with paths.atomic_write(arguments.out) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    report(prove_pictures(text, plan, tell))

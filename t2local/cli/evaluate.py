"""`evaluate`, `prove` and `prove-pictures`: what is measured of a model's answers.

`evaluate`: strategies side by side on benchmark tasks or files, with intervals. `prove` measures
one model as the paper's Tables 1 to 5; `prove-pictures` trains experts on a small vision-language
model and measures them on easy-VQA.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from t2local import paths
from t2local.adapt.dispatch import asking_strategies
from t2local.cli import add_model_arguments, add_reward_argument, log, log_progress
from t2local.cli.look import add_rows_arguments, refuse_flags, source_in
from t2local.engine.engine import Engine
from t2local.engine.evaluations import EvaluationPlan
from t2local.errors import T2LocalError
from t2local.evaluation.benchmark_tasks import BENCHMARKS, available_offline, question_set
from t2local.evaluation.measure import RowFailed, Scored
from t2local.evaluation.report import in_words, markdown_text, write_report
from t2local.evaluation.tally import Evaluation
from t2local.experiments.proof import SECTIONS, ProofPlan, as_markdown, prove
from t2local.experiments.vision_proof import PicturePlan, prove_pictures
from t2local.models.load.loader import LoadedModel, load_model
from t2local.progress import Progress, drain
from t2local.provenance import origin
from t2local.statistics import wilson
from t2local.tasks.sandbox import add_consent_argument


def add_parser(subparsers) -> None:
    _add_evaluate(subparsers)
    _add_proofs(subparsers)


def _add_evaluate(subparsers) -> None:
    parser = subparsers.add_parser("evaluate", help="measure strategies on benchmark tasks")
    parser.add_argument(
        "--task", action="append", metavar="NAME|FILE", help=", ".join(BENCHMARKS) + "; or a file"
    )
    asking = ", ".join(strategy.name for strategy in asking_strategies())
    parser.add_argument(
        "--strategies", default="base", metavar="base,math,prompt,few-shot:mixture.json",
        help=f"base, experts by name, {asking} (each also with :hard), "
        "few-shot:FILE, lora:FOLDER, oracle",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="questions of each task")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    add_reward_argument(parser, "of answers to a file: ")
    add_rows_arguments(parser)
    parser.add_argument(
        "--written", action="store_true", help="choices answered in words, as the paper's code does"
    )
    parser.add_argument("--max-new-tokens", type=int, help="default: what the paper's code allows")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write JSON, CSV, MD and HTML")
    parser.add_argument("--list", action="store_true", help="list the tasks and end")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Evaluate, and report DESIGN's `evaluate --json` object or a table."""
    if arguments.list:
        report(_listed())
        return
    plan = _plan(arguments)
    for task in plan.tasks:  # a mistake is told before the model is loaded
        question_set(task, plan.limit, plan.seed, plan.written, plan.reward)
    engine = Engine(arguments.model, arguments.quantize, arguments.basis).load(log_progress)
    found = drain(engine.evaluations.run(plan), _log_event)
    about = _about(engine, plan)
    if arguments.out:
        for path in write_report(found, about, arguments.out):
            log(f"saved {path}")
    if arguments.json:
        report({**found.as_dict(), "about": about})
    else:
        _print_table(found, about)


def _plan(arguments: argparse.Namespace) -> EvaluationPlan:
    if not arguments.task:
        here = ", ".join(available_offline()) or "none"
        raise T2LocalError(
            f"Name a task with --task: {', '.join(BENCHMARKS)}, or a file (without a network "
            f"available: {here})."
        )
    named = [name for given in arguments.task for name in given.split(",")]
    files = [name for name in named if paths.named(name).is_file()]
    if not files:
        refuse_flags(named[0], arguments)
    return EvaluationPlan(
        tuple(source_in(name, arguments) if name in files else name for name in named),
        tuple(arguments.strategies.split(",")),
        arguments.limit,
        arguments.seed,
        arguments.written,
        arguments.reward or "",
        arguments.max_new_tokens,
    )


def _listed() -> dict[str, Any]:
    here = available_offline()
    return {
        name: {"about": task.__doc__.splitlines()[0], "offline": name in here}
        for name, task in BENCHMARKS.items()
    }


def _about(engine: Engine, plan: EvaluationPlan) -> dict[str, Any]:
    status = engine.status
    return {
        **origin(status.device),
        "limit": plan.limit,
        "seed": plan.seed,
        "model": f"{status.model_name}, {status.dtype}, {status.quantization}",
        "torch": torch.__version__,
    }


def _log_event(event: Scored | RowFailed) -> None:
    if isinstance(event, RowFailed):
        log(f"{event.task} {event.strategy} failed: {event.reason}")
        return
    if event.done:
        low, high = wilson(event.correct, event.done)
        log(
            f"{event.task} {event.strategy} {event.done}/{event.total} "
            f"right {event.correct / event.done:.3f} [{low:.3f}, {high:.3f}]"
        )


def _print_table(found: Evaluation, about: dict[str, Any]) -> None:
    """Columns in line on a terminal, Markdown where the output goes into a file."""
    if not sys.stdout.isatty():
        print(markdown_text(found, about), end="")
        return
    heads = ["task", "strategy", "n", "right", "95 %", "− base", "95 %", "pass 1", "pass 2"]
    rows = [heads, *(in_words(result)[: len(heads)] for result in found.results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


# --- `prove` and `prove-pictures`: the method's claims measured, with words and with pictures.

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
PICTURE_NUMBERS = [field for field in fields(PicturePlan) if field.name != "tower"]


def _add_proofs(subparsers) -> None:
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
    parser.set_defaults(run=run_proof)


def _add_prove_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="embedded", help="the language model inside")
    for field in PICTURE_NUMBERS:
        flag = "--" + field.name.replace("_", "-")
        shown = f"default: {field.default}"
        parser.add_argument(flag, type=field.type, default=field.default, help=shown)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the result here")
    parser.set_defaults(run=run_pictures)


def run_proof(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
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

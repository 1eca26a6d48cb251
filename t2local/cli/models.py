"""`models ACTION`: which models there are, how much memory each takes, and fetching them.

Nothing is loaded: sizes come from configurations. The tables are in `models_table`.
"""

import argparse
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

from t2local.cli import models_table
from t2local.cli.common import BASIS_DTYPES, QUANTIZATIONS, log
from t2local.models.fit.anatomy import TARGETS, anatomy_of
from t2local.models.fit.automatic import best_fit, compute_dtype, offers
from t2local.models.fit.estimate import BASES, Plan, estimate
from t2local.models.fit.memory import named_card, this_machine
from t2local.models.load.hub import FetchProgress, fetching, half_fetched, local_models
from t2local.paths import folder_bytes
from t2local.progress import Progress, drain

Report = Callable[[dict[str, Any]], None]
KINDS = ("none", "int8", "nf4")


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("models", help="list, fetch, estimate the memory of models")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add(actions, "list", list_models, "the catalogue, and what is on this machine")
    asking = _add(actions, "estimate", estimate_model, "the memory of a model, before loading it")
    asking.add_argument("model", metavar="ID|FOLDER|FILE.gguf|embedded")
    asking.add_argument("--vram", type=float, metavar="GB", help="of a card (default: as here)")
    asking.add_argument("--context", type=_tokens, metavar="N", help="tokens of a chat")
    asking.add_argument("--quantize", default="auto", choices=QUANTIZATIONS)
    asking.add_argument("--basis", default="auto", choices=BASIS_DTYPES)
    getting = _add(actions, "fetch", fetch, "download a model from the Hub")
    getting.add_argument("model", metavar="ID")
    for action in actions.choices.values():
        suppressed = {"default": argparse.SUPPRESS}  # or it would undo what stood before ACTION
        action.add_argument("--json", action="store_true", help="one JSON object", **suppressed)
        action.add_argument("--data-dir", metavar="DIR", **suppressed)


def run(arguments: argparse.Namespace, report: Report) -> None:
    arguments.act(arguments, report)


def list_models(arguments: argparse.Namespace, report: Report) -> None:
    machine, known = this_machine(), offers(this_machine())
    ids = {offer.entry.id for offer in known}
    others = [model for model in local_models() if model.source not in ids]
    if arguments.json:
        report(
            {
                "machine": models_table.machine_json(machine),
                "models": [models_table.offer_json(offer) for offer in known],
                "others": [{"source": m.source, "size_bytes": m.size_bytes} for m in others],
                "half_fetched": list(half_fetched()),
            }
        )
        return
    print("\n".join(models_table.list_lines(machine, known, others, half_fetched())))


def estimate_model(arguments: argparse.Namespace, report: Report) -> None:
    machine = this_machine() if arguments.vram is None else named_card(arguments.vram)
    parts = anatomy_of(arguments.model)
    dtype = compute_dtype(machine.device, parts.parameters)
    kinds = KINDS if arguments.quantize == "auto" else (arguments.quantize,)
    bases = BASES if arguments.basis == "auto" else (arguments.basis,)
    rows = [
        estimate(parts, Plan(kind, basis, targets, dtype, machine.device), arguments.context)
        for kind, basis, targets in product(kinds, bases, TARGETS)
    ]
    best = best_fit(
        parts, machine.memory_bytes, machine.device,
        arguments.context, arguments.quantize, arguments.basis,
    )  # fmt: skip
    if arguments.json:
        report(
            {
                "model": arguments.model,
                "parameters": parts.parameters,
                "machine": models_table.machine_json(machine),
                "rows": [models_table.row_json(row, machine) for row in rows],
                "best": models_table.fit_json(best),
            }
        )
        return
    print("\n".join(models_table.estimate_lines(arguments.model, parts, machine, rows, best)))


def fetch(arguments: argparse.Namespace, report: Report) -> None:
    folder = drain(fetching(arguments.model), _log_fetching)
    report({"model": arguments.model, "folder": str(folder), "size_bytes": folder_bytes(folder)})


def _log_fetching(event: Progress) -> None:
    """One line that redraws on a terminal; elsewhere the beginning and the end."""
    line = models_table.fetching_line(event)
    if event.done in (0, event.total) or not isinstance(event, FetchProgress):
        log(line)
    elif sys.stderr.isatty():
        print(f"\r{line:<78}", end="\r", file=sys.stderr, flush=True)


def _add(actions, name: str, act: Callable, words: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=words, description=words)
    parser.set_defaults(act=act)
    return parser


def _tokens(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 10_000_000:
        raise argparse.ArgumentTypeError("a context is 1 to 10,000,000 tokens")
    return number

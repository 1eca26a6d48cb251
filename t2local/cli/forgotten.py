"""`experts forgotten NAME`: measure what one of your experts does to the tasks of others."""

import argparse
from collections.abc import Callable
from typing import Any

from t2local import paths
from t2local.cli import add_storage_arguments, log, log_progress, open_model
from t2local.experts import Library
from t2local.models.load.loader import model_slug
from t2local.progress import drain
from t2local.training.runner import measured_forgetting
from t2local.training.validation import as_card, in_words


def add_forgotten(subparsers) -> None:
    words = "measure what an expert does to the tasks of others, and write it on its card"
    parser = subparsers.add_parser("forgotten", help=words, description=words)
    parser.add_argument("name", metavar="NAME")
    add_storage_arguments(parser)
    parser.set_defaults(act=measure)


def measure(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    source = arguments.model or paths.default_model()
    library = Library(model_slug(source))
    library.check_own(arguments.name, "measured")
    expert = library.load(arguments.name)
    loaded, svf = open_model(source, arguments.quantize, arguments.basis)
    found = drain(measured_forgetting(loaded, svf, expert), log_progress)
    library.give_forgetting(expert, as_card(found))
    for task in found:
        log(in_words(task))
    report({"expert": expert.name, "forgetting": as_card(found)})

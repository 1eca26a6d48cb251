"""`experts print NAME`: take an expert's prompt print, so that the strategy similarity finds it.

A run takes its expert's at its end. This is for experts that are older or came from elsewhere, and
for those that ship. The model is read without bases: only the unadapted model is asked.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.adapt.dispatch import OTHER
from t2local.adapt.similarity import Discriminant
from t2local.cli import add_storage_arguments, log, log_progress
from t2local.cli.look import add_rows_arguments, refuse_flags, source_in, wanted_in
from t2local.errors import T2LocalError
from t2local.experts import Expert, Library
from t2local.experts.expert import SKILL
from t2local.experts.prompt_print import (
    FEWEST_PROMPTS,
    MOST_PROMPTS,
    PromptPrint,
    print_of,
    sampled,
)
from t2local.experts.store import write_expert
from t2local.models.load.loader import LoadedModel, load_model, model_slug
from t2local.progress import drain
from t2local.tasks.datasets import DATASETS, dataset
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example
from t2local.tasks.unlabelled import read_unlabelled
from t2local.training.finding import printed_rows
from t2local.training.runner import rows_behind


def add_print(subparsers) -> None:
    words = "note which prompts an expert is for, so that the strategy similarity finds it"
    parser = subparsers.add_parser("print", help=words, description=words)
    parser.add_argument("name", metavar="NAME")
    named = ", ".join(DATASETS)
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FILE",
        help=f"prompts that it is for: a file, or {named}; may be repeated (default: the rows of "
        "its training run)",
    )
    add_rows_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the expert there instead")
    add_storage_arguments(parser)
    parser.set_defaults(act=take_print)


def take_print(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Take the print of one expert, and of everyday messages where this model has none."""
    source = arguments.model or paths.default_model()
    library = Library(model_slug(source))
    expert = library.load(arguments.name)
    if expert.kind != SKILL:
        raise T2LocalError(f"'{expert.name}' only decides who answers; nothing is given to it.")
    if arguments.out is None:
        library.check_own(expert.name, "given a print")
    rows = _rows(arguments, expert)
    loaded = drain(load_model(source, arguments.quantize), log_progress)
    log(f"reading {len(rows)} prompts")
    expert = replace(expert, prompt_print=print_of(loaded, [row.turns for row in rows]))
    log("reading everyday messages, from which experts are told apart")
    others = library.know_others(loaded)
    if arguments.out is None:
        library.give_print(expert.name, expert.prompt_print)
    else:
        write_expert(expert, arguments.out.expanduser())
    overlaps = _told_apart(library, loaded, expert, others).overlaps()
    report(
        {
            "expert": expert.name,
            "prompts": len(rows),
            "overlaps": [f"{o.share:.0%} of {o.expert} is near {o.other}" for o in overlaps],
        }
    )


def _rows(arguments: argparse.Namespace, expert: Expert) -> list[Example]:
    """The prompts of the print, as many of each source. Raises `T2LocalError` for too few."""
    if not arguments.data:
        return printed_rows(rows_behind(expert))
    each = MOST_PROMPTS // len(arguments.data)
    found = [row for name in arguments.data for row in sampled(_of(name, arguments), most=each)]
    if len(found) < FEWEST_PROMPTS:
        raise T2LocalError(
            f"--data has {len(found)} different prompts; {FEWEST_PROMPTS} are needed to know what "
            f"'{expert.name}' is for."
        )
    return found


def _of(name: str, arguments: argparse.Namespace) -> Sequence[Example]:
    """The rows of one `--data`, each prompt once; of a dataset those that it trains on."""
    if name in DATASETS:
        refuse_flags(name, arguments)
        return _once(dataset(name).train)
    path = paths.named(name)
    try:
        read_examples(path, wanted_in(arguments))
    except T2LocalError:  # prompts alone are enough
        asked = read_unlabelled(path, arguments.prompt_column, arguments.no_header)
        return _once([row.example for row in asked.rows if row.example is not None])
    return _once(read_examples(Path(source_in(name, arguments))).examples)


def _once(rows: Sequence[Example]) -> list[Example]:
    return list({row.group: row for row in rows}.values())


def _told_apart(
    library: Library, loaded: LoadedModel, expert: Expert, others: PromptPrint
) -> Discriminant:
    """All printed experts of this model beside `expert`."""
    known = (file.expert for file in library.files() if file.expert is not None)
    prints = {e.name: e.prompt_print for e in (*known, expert)}
    fitting = {n: p.embeddings for n, p in prints.items() if p is not None and p.fits(loaded)}
    return Discriminant({**fitting, OTHER: others.embeddings})

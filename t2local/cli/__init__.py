"""The command line: arguments in, one engine or library call, one answer out.

What the commands share stands here: opening a model, logging on stderr.
"""

import argparse
import sys

from t2local.adapt.applier import adapting
from t2local.models.load.loader import LoadedModel, basis_for, load_model
from t2local.models.storage import AUTO, BASES, QUANTIZATIONS, asked_for
from t2local.progress import Progress, drain
from t2local.svf import SVFModel
from t2local.tasks.rewards import REWARDS
from t2local.tasks.sandbox import add_consent_argument


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """`--model`, `--quantize` and `--basis`, the same for every command."""
    parser.add_argument("--model", default=None, metavar="ID|FOLDER|FILE.gguf|embedded")
    add_storage_arguments(parser)


def add_storage_arguments(parser: argparse.ArgumentParser) -> None:
    """`--quantize` and `--basis`: how the weights and the bases are held."""
    parser.add_argument("--quantize", default=AUTO, choices=asked_for(QUANTIZATIONS))
    parser.add_argument("--basis", default=AUTO, choices=asked_for(BASES))


def add_flags_of_all(actions) -> None:
    """`--json` and `--data-dir` behind each ACTION of a command as well as before it."""
    for action in actions.choices.values():
        suppressed = {"default": argparse.SUPPRESS}  # or it would undo what stood before ACTION
        action.add_argument("--json", action="store_true", help="one JSON object", **suppressed)
        action.add_argument("--data-dir", metavar="DIR", **suppressed)


def add_reward_argument(
    parser: argparse.ArgumentParser, of: str = "", needed: bool = False
) -> None:
    """`--reward`: what answers earn; `--allow-unsafe-code`, since some run programs.

    `of`: which answers. `needed`: there is no default.
    """
    known = f"{of}one of {', '.join(sorted(REWARDS))}, or a sum such as numeric+0.2*length"
    default = "" if needed else "; default: what fits the answers"
    parser.add_argument("--reward", metavar="NAME", help=known + default)
    add_consent_argument(parser)


def open_model(
    source: str, quantization: str = "auto", basis: str = "auto", targets: str = "all"
) -> tuple[LoadedModel, SVFModel]:
    """Load the model and attach SVF, with progress on stderr."""
    loaded = drain(load_model(source, quantization), log_progress)
    stored = basis_for(loaded, basis, targets)
    return drain(adapting(loaded, targets, stored), log_progress)


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def log_progress(event: Progress) -> None:
    """A line when a stage begins and ends, and one that redraws in between on a terminal."""
    if event.done in (0, event.total):
        log(f"{event.stage} {event.done}/{event.total} {event.unit}".rstrip())
    elif sys.stderr.isatty():
        print(f"\r{event.stage} {event.fraction:.0%}", end="\r", file=sys.stderr, flush=True)

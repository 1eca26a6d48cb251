"""`adapt`: a mixture of experts for a task, from 3 to 20 of its examples (CEM)."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.adapt.answering import CHOICE
from t2local.adapt.cem import LAYERS, LEAST_SHOTS, LIGHT, MATRIX, MOST_SHOTS, OBJECTIVES, CEMConfig
from t2local.adapt.few_shot import Generation
from t2local.cli import add_model_arguments, add_reward_argument, log, log_progress
from t2local.cli.look import add_rows_arguments, source_in
from t2local.engine.engine import Engine
from t2local.errors import T2LocalError
from t2local.experts.library import write_mixture
from t2local.progress import drain
from t2local.tasks.files import read_examples
from t2local.tasks.rewards import parts_of
from t2local.tasks.uploads import suggest_reward, with_choices

NUMBERS = ("population", "elite_share", "generations", "low", "high", "max_new_tokens", "seed")


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("adapt", help="find a mixture of experts from a few examples")
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="rows of the task")
    add_reward_argument(parser)
    add_rows_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="mixture.json")
    parser.add_argument("--name", help="also keep it under this name, for the chat")
    sharing = parser.add_mutually_exclusive_group()
    sharing.add_argument("--per-layer", action="store_true", help="an α for each expert and matrix")
    sharing.add_argument(
        "--per-layer-group",
        action="store_true",
        help="an α for each expert and third of the layers",
    )
    parser.add_argument("--normalised", action="store_true", help="let the α sum to one")
    parser.add_argument("--objective", choices=OBJECTIVES, default=CEMConfig.objective)
    parser.add_argument("--light", action="store_true", help="3 %% of the evaluations")
    parser.add_argument(
        "--shots",
        type=int,
        help=f"rows to draw, {LEAST_SHOTS} to {MOST_SHOTS}; default: {CEMConfig.shots}",
    )
    for name in NUMBERS:
        default = getattr(CEMConfig, name)
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(default), help=f"default: {default}")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Search, write the mixture file and report what was found."""
    config = _config(arguments)
    examples = read_examples(Path(source_in(arguments.data, arguments))).examples
    reward = arguments.reward
    if reward is None:
        reward, reason = suggest_reward(examples)
        log(f"reward {reward}: {reason}")
    listed = CHOICE in {name for _, name in parts_of(reward)}
    rows = with_choices(examples) if listed else examples
    engine = Engine(arguments.model or paths.default_model(), arguments.quantize, arguments.basis)
    searches = engine.load(log_progress).searches
    found = drain(searches.search(rows, reward, config), _log_generation)
    if not math.isfinite(found.accuracy):
        raise T2LocalError("Every candidate gave NaN; check the experts with `experts list`.")
    mixture = searches.file_of(found, reward, config)
    write_mixture(mixture, arguments.out)
    if arguments.name:
        searches.keep(arguments.name, mixture)
    log(f"saved {arguments.out}")
    report(
        {
            "mixture": str(arguments.out),
            "alpha": dict(found.mixture.alpha),
            "sharing": config.sharing,
            "reward": reward,
            "shots": found.shots,
            "accuracy": found.accuracy,
            "log_likelihood": found.log_likelihood,
            "generations": len(found.generations),
            "evaluations": found.evaluations,
            "model": engine.status.model_name,
            "seed": config.seed,
        }
    )


def _config(arguments: argparse.Namespace) -> CEMConfig:
    """What was given over the light mode's numbers over the defaults."""
    given = {n: getattr(arguments, n) for n in (*NUMBERS, "shots")}
    given = {name: value for name, value in given.items() if value is not None}
    sharing = {"sharing": MATRIX} if arguments.per_layer else {}
    if arguments.per_layer_group:
        sharing = {"sharing": LAYERS}
    return CEMConfig(
        **{**(LIGHT if arguments.light else {}), **given, **sharing},
        normalised=arguments.normalised,
        objective=arguments.objective,
    )


def _log_generation(event: Generation) -> None:
    alpha = " ".join(f"{n} {a:.2f}" for n, a in zip(event.experts, event.best, strict=True))
    log(
        f"generation {event.number}/{event.total} best {event.best_accuracy:.3f} "
        f"log-likelihood {event.best_log_likelihood:.3f} {alpha}"
    )

"""`train`: one expert from a file or a curriculum, headless."""

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from t2local import paths
from t2local.adapt.dispatch import LABEL_TEMPERATURE
from t2local.cli.common import add_model_arguments, log, open_model
from t2local.experts import Expert, ExpertStore
from t2local.progress import Progress, drain
from t2local.tasks.curricula import CURRICULA
from t2local.tasks.rewards import REWARDS
from t2local.training.config import TrainConfig
from t2local.training.recipe import lessons, train_expert
from t2local.training.reports import DryRun, StepReport, TrainOutcome, Validation
from t2local.training.runs import Plan, Run


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("train", help="train an expert by SVF reinforcement learning")
    parser.add_argument("--data", metavar="FILE", help=f"a file, or one of {', '.join(CURRICULA)}")
    parser.add_argument("--reward", choices=sorted(REWARDS))
    parser.add_argument("--name", help="the new expert's name")
    parser.add_argument("--resume", metavar="RUN", help='go on with a run cut off; "last" works')
    parser.add_argument("--description", default="", help="one line for its card")
    parser.add_argument(
        "--classifier", action="store_true", help="train the expert that decides in pass 1"
    )
    parser.add_argument("--paper", action="store_true", help="the paper's own hyper-parameters")
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        if field.type is bool:
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=field.type, default=field.default)
    add_model_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Train, save among the user's experts and report DESIGN's `train --json` object."""
    training = Run.open(arguments.resume) if arguments.resume else Run.create(_plan(arguments))
    plan, state = training.plan(), training.state()
    log(f"run {training.name}" + (f" goes on after step {state.step}" if state else ""))
    training.rewind(state)
    source, labels = lessons(plan)
    loaded, svf = open_model(plan.model, plan.quantization, plan.basis, plan.config.targets)

    def listen(event) -> None:
        log_event(event)
        if not isinstance(event, Progress):
            training.record(event)

    work = train_expert(
        loaded,
        svf,
        source,
        plan.name,
        plan.reward,
        plan.config,
        plan.description,
        labels,
        plan.command,
        state=state,
    )
    expert, outcome = drain(work, listen)
    path = ExpertStore(loaded.slug).save(expert)
    log(f"saved {path}")
    result = _result(expert, outcome) | {"expert": str(path), "run": training.name}
    training.finish(result)
    report(result)


def _plan(arguments: argparse.Namespace) -> Plan:
    for option in ("data", "reward", "name"):
        if not getattr(arguments, option):
            arguments.parser.error(
                f"--{option} is missing; a new run needs --data, --reward and --name "
                "(or --resume RUN for an old one)"
            )
    config = TrainConfig(**{f.name: getattr(arguments, f.name) for f in fields(TrainConfig)})
    config = config.paper() if arguments.paper else config
    if arguments.classifier:
        config = replace(config, temperature=LABEL_TEMPERATURE)
    return Plan(
        arguments.name,
        arguments.data,
        arguments.reward,
        config,
        arguments.description,
        arguments.classifier,
        arguments.model or paths.default_model(),
        arguments.quantize,
        arguments.basis,
        "python -m t2local " + shlex.join(sys.argv[1:]),
    )


def _result(expert: Expert, outcome: TrainOutcome) -> dict[str, Any]:
    held_out = expert.held_out
    return {
        "steps": outcome.steps,
        "held_out": {
            "n": held_out.n,
            "base": held_out.base,
            "trained": held_out.trained,
            "ci95_difference": list(held_out.ci95_difference),
        },
        "reward_curve": list(outcome.curve),
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "seconds": dict(outcome.seconds),
        "tokens_per_s": outcome.tokens / max(sum(outcome.seconds.values()), 1e-9),
    }


def log_event(event) -> None:
    """One line on stderr for each event of a run."""
    match event:
        case DryRun():
            log(f"dry run: {event.equal_groups:.0%} of prompts earn the same for every answer")
        case StepReport():
            batch = event.batch
            seconds = " ".join(f"{k} {v:.1f}s" for k, v in batch.seconds.items())
            log(
                f"step {event.step}/{event.steps} reward {batch.reward_mean:+.3f} "
                f"kl {batch.kl_policy_from_base:.4f} entropy {batch.entropy:.3f} "
                f"equal {batch.equal_groups:.2f} |z-1| {event.z_rms:.4f} {seconds}"
            )
        case Validation():
            mark = " best" if event.best else ""
            log(
                f"validation at {event.step}: accuracy {event.accuracy:.3f} "
                f"reward {event.reward:+.3f} of {event.n}{mark}"
            )
        case Progress():
            log(f"{event.stage} {event.done}/{event.total}")

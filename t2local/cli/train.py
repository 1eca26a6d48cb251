"""`train`: one expert from a file or a dataset, headless."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from t2local import paths
from t2local.cli import add_model_arguments, add_reward_argument, log, open_model
from t2local.cli.look import add_rows_arguments, refuse_flags, source_in
from t2local.engine.lessons import lessons_of
from t2local.engine.overnight import NAME
from t2local.engine.verdicts import Verdicts
from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore, Library
from t2local.models.load.loader import model_slug
from t2local.progress import Progress, drain
from t2local.tasks.datasets import DATASETS, Dataset, dataset
from t2local.tasks.rows import Example
from t2local.tasks.uploads import suggest_reward, try_reward, write_rows
from t2local.training.config import TrainConfig
from t2local.training.dry_run import with_fitting
from t2local.training.processes import Processes
from t2local.training.reports import DryRun, Gain, Held, Notice, StepReport, Validation
from t2local.training.runner import ADAPTER_FOLDER, GoingOn, going_on, running, summary
from t2local.training.runs import Plan, Run
from t2local.training.validation import in_words

CHATS = "chats"  # as --data


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("train", help="train an expert by SVF reinforcement learning")
    known = f"a file, or one of {', '.join(DATASETS)}, or '{CHATS}': rows from your chats"
    parser.add_argument("--data", metavar="FILE", help=known)
    add_reward_argument(parser)
    add_rows_arguments(parser)
    parser.add_argument("--name", help="the new expert's name")
    parser.add_argument("--resume", metavar="RUN", help='go on with a run cut off; "last" works')
    parser.add_argument(
        "--from", dest="start", default="", metavar="EXPERT",
        help="go on from this expert of yours, its own rows learnt again beside these; under its "
        "name the result is its new version",
    )  # fmt: skip
    parser.add_argument("--description", default="", help="one line for its card")
    parser.add_argument(
        "--classifier", action="store_true", help="train the expert that decides in pass 1"
    )
    parser.add_argument(
        "--accept-gold",
        action="store_true",
        help="train also where the rows' own answers do not earn +1, or wrong ones do",
    )
    parser.add_argument(
        "--no-forgetting",
        action="store_true",
        help="do not measure what it does to other experts' tasks; "
        "`experts forgotten NAME` does it later",
    )
    parser.add_argument("--paper", action="store_true", help="the paper's own hyper-parameters")
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        if field.type is bool:
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=field.type, help=f"default: {field.default}")
    add_model_arguments(parser)
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Train, save among the user's experts and report DESIGN's `train --json` object."""
    processes = Processes.launched()
    training = _run_of(arguments, processes)
    plan, state = training.plan(), training.state()
    log(f"run {training.name}" + (f" goes on after step {state.step}" if state else ""))
    loaded, svf = open_model(plan.model, plan.quantization, plan.basis, plan.config.targets)
    saved = []

    def adopt(expert: Expert) -> None:
        saved.append(ExpertStore(loaded.slug).save(expert))

    work = running(training, loaded, svf, adopt, processes=processes)
    trained = drain(work, log_event if processes.is_main else None)
    if not processes.is_main:
        return
    path = saved[0] if saved else training.folder / ADAPTER_FOLDER
    log(f"saved {path}")
    report(summary(trained) | {"expert": str(path), "run": training.name})


def _run_of(arguments: argparse.Namespace, processes: Processes) -> Run:
    """The run to go on with, or a new one; with several processes the main one makes it."""
    if arguments.resume:
        return Run.open(arguments.resume)
    name = Run.create(_plan(arguments)).name if processes.is_main else ""
    return Run.open(processes.from_main(name))


def _plan(arguments: argparse.Namespace) -> Plan:
    for option in ("data", "name"):
        if not getattr(arguments, option):
            arguments.parser.error(
                f"--{option} is missing; a new run needs --data and --name "
                "(or --resume RUN for an old one)"
            )
    given = {f.name: getattr(arguments, f.name) for f in fields(TrainConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    data = _data(arguments)
    source = dataset(data, given.get("seed", TrainConfig.seed))
    rows = source.rows
    reward = arguments.reward
    if reward is None:
        reward, reason = suggest_reward(rows)
        log(f"reward {reward}: {reason}")
    if arguments.data not in DATASETS:
        _check_gold(reward, rows, arguments.accept_gold)
    config, before = with_fitting(given, reward, rows), _going_on(arguments, source, reward)
    return Plan(
        arguments.name,
        data,
        reward,
        config.paper() if arguments.paper else config,
        arguments.description,
        arguments.classifier,
        arguments.model or paths.default_model(),
        arguments.quantize,
        arguments.basis,
        "python -m t2local " + shlex.join(sys.argv[1:]),
        start=arguments.start,
        start_run=before.run,
        replays=before.replays,
        forgetting=not arguments.no_forgetting,
    )


def _going_on(arguments: argparse.Namespace, source: Dataset, reward: str) -> GoingOn:
    """What it means for the rows of the expert that is gone on from, if any. `T2LocalError`."""
    if not arguments.start:
        return GoingOn()
    slug = model_slug(arguments.model or paths.default_model())
    found = going_on(Library(slug).load(arguments.start), arguments.name, source, reward)
    log(found.words)
    return found


def _check_gold(reward: str, rows: Sequence[Example], accepted: bool) -> None:
    """Raise `T2LocalError` where a person's answers would teach the wrong thing, unless accepted,
    and where the reward does not fit the rows at all.
    """
    problem = try_reward(reward, rows).problem
    if problem and not accepted:
        raise T2LocalError(f"{problem} To train all the same, give --accept-gold.")
    if problem:
        log(problem)


def _data(arguments: argparse.Namespace) -> str:
    """A dataset's name, or the file to train on: it gives the same rows when a run goes on."""
    if arguments.data == CHATS and not paths.named(CHATS).is_file():
        refuse_flags(CHATS, arguments)
        return _rows_from_chats()
    if arguments.data in DATASETS or not paths.named(arguments.data).is_file():
        refuse_flags(arguments.data, arguments)
        return arguments.data
    return source_in(arguments.data, arguments)


def _rows_from_chats() -> str:
    """A file of what was judged in the chats of this home. `T2LocalError` where that is nothing."""
    lessons = lessons_of(Verdicts(paths.chats_dir()).all())
    if not lessons.choices:
        raise T2LocalError(
            "There are no rows from chats yet; in the page, write what you wanted under an answer, "
            "or say which of two is better."
        )
    log(
        f"{len(lessons.choices)} choices: {lessons.rewritten} written, {lessons.preferred} "
        f"preferred, {lessons.thumbs} from thumbs"
    )
    return str(write_rows(lessons.choices, NAME))


def log_event(event) -> None:
    """One line on stderr for each event of a run; nobody is there to free a full disk."""
    match event:
        case DryRun():
            log(f"dry run: {event.equal_groups:.0%} of prompts earn the same for every answer")
        case StepReport():
            batch = event.batch
            seconds = " ".join(f"{k} {v:.1f}s" for k, v in batch.seconds.items())
            log(
                f"step {event.step}/{event.steps} reward {batch.reward_mean:+.3f} "
                f"kl {batch.kl_policy_from_base:.4f} entropy {batch.entropy:.3f} "
                f"equal {batch.equal_groups:.2f} again {batch.drawn_again} "
                f"gap {batch.sampler_gap:.4f} change {event.change:.4f} {seconds}"
            )
        case Validation():
            mark = " best" if event.best else ""
            log(
                f"validation at {event.step}: accuracy {event.accuracy:.3f} "
                f"reward {event.reward:+.3f} of {event.n}{mark}"
            )
        case Gain():
            log(f"held out: {in_words(event.held_out)}")
        case Notice():
            log(event.text)
        case Held():
            raise T2LocalError(f"{event.reason} Then go on with `train --resume last`.")
        case Progress():
            log(f"{event.stage} {event.done}/{event.total}")

"""Conducting a run from its folder: from where it stands to an expert, every event written down.

The command line and the page's job queue both listen to this one generator. When the disk is full
the run is `Held` and tries to write the same event again as soon as it is asked to go on. With
several processes only the main one writes.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from t2local.errors import DiskFull
from t2local.experts import Expert
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken, Progress, drain
from t2local.svf import SVFModel
from t2local.training.adoption import to_keep
from t2local.training.config import LORA
from t2local.training.forecast import Agenda, other_seconds
from t2local.training.loop import Event
from t2local.training.methods import method_for
from t2local.training.other_tasks import other_tasks
from t2local.training.processes import Processes
from t2local.training.recipe import Trained, lessons, train_expert
from t2local.training.reports import Held, Notice
from t2local.training.runs import Run

ADAPTER_FOLDER = "adapter"


def conduct(
    run: Run,
    loaded: LoadedModel,
    svf: SVFModel,
    adopt: Callable[[Expert], Any],
    cancel: CancelToken | None = None,
    processes: Processes | None = None,
) -> Generator[Agenda | Event | Progress | Held, None, Trained]:
    """Start or go on with `run`; `adopt` is called with the expert before the run is finished.

    It is kept under a free name where another expert has taken its own meanwhile. A LoRA run leaves
    a PEFT adapter in its folder instead. Raises `T2LocalError`.
    """
    processes = processes or Processes()
    plan, state = run.plan(), run.state()
    source, labels = lessons(plan)
    method = method_for(loaded, svf, plan.config)
    others = processes.from_main(other_tasks(plan.name, source, loaded.slug))
    work = train_expert(loaded, svf, source, plan, labels, cancel, state, method, processes, others)
    if not processes.is_main:
        return drain(work)
    yield from _kept_trying(lambda: run.rewind(state))
    seconds = other_seconds(loaded, svf, others)
    rows = len(source.validation), len(source.held_out)
    yield Agenda(plan.config, *rows, source.leave_one_out, seconds)
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            trained: Trained = end.value
            break
        if not isinstance(event, Progress):
            yield from _kept_trying(lambda event=event: run.record(event))
        yield event
    if plan.config.method == LORA:
        folder = run.folder / ADAPTER_FOLDER
        yield from _kept_trying(lambda: method.save(trained.outcome.flat, folder))
    else:
        trained = replace(trained, expert=to_keep(trained.expert, run.name, loaded.slug))
        if trained.expert.name != plan.name:
            notice = _renamed(plan.name, trained)
            yield from _kept_trying(lambda: run.record(notice))
            yield notice
        yield from _kept_trying(lambda: adopt(trained.expert))
    yield from _kept_trying(lambda: run.finish(summary(trained)))
    return trained


def _renamed(wanted: str, trained: Trained) -> Notice:
    text = f"Another expert is called '{wanted}' by now: this one is kept as "
    return Notice(trained.outcome.steps, f"{text}'{trained.expert.name}'.")


def _kept_trying(write: Callable[[], Any]) -> Generator[Held, None, None]:
    while True:
        try:
            write()
            return
        except DiskFull as error:
            yield Held(str(error))


def summary(trained: Trained) -> dict[str, Any]:
    """What `train --json` and a finished run's file say."""
    outcome, card = trained.outcome, trained.card
    measured = {name: value for name, value in card["held_out"].items() if name != "task"}
    return {
        "expert": trained.expert.name if trained.expert else None,
        "method": card["config"]["method"],
        "objective": card["config"]["objective"],
        "numbers": card["numbers"],
        "steps": outcome.steps,
        "stopped": outcome.stopped,
        "train_s": card["train_s"],
        "held_out": measured,
        "forgetting": card["forgetting"],
        "reward_curve": list(outcome.curve),
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "seconds": dict(outcome.seconds),
        "tokens_per_s": outcome.tokens / max(sum(outcome.seconds.values()), 1e-9),
    }

"""The runner: from a run's folder to an expert, every event written down.

The command line and the page's jobs both listen to this one generator. When the disk is full the
run is `Held` and writes the same event again when it is asked to go on. With several processes only
the main one writes.
"""

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from t2local import locks, paths
from t2local.adapt.answering import CHOICE, action_of, are_preferences
from t2local.adapt.applier import holding
from t2local.adapt.dispatch import classification_prompt
from t2local.errors import DiskFull, T2LocalError
from t2local.experts import Expert, ExpertStore
from t2local.experts.expert import CLASSIFIER, free_name, is_taken
from t2local.experts.library import Library
from t2local.experts.store import check_fits, read_expert, write_expert
from t2local.experts.versions import Versions
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken, Progress, drain
from t2local.svf import SVFModel
from t2local.tasks.datasets import DECIDING, Dataset, probes
from t2local.tasks.rows import Example
from t2local.training.config import LORA, method_for
from t2local.training.finding import found_by_similarity, print_seconds
from t2local.training.forecast import Agenda, other_seconds
from t2local.training.loop import Event
from t2local.training.processes import Processes
from t2local.training.recipe import (
    Trained,
    dataset_of,
    labels_of,
    replayed_rows,
    train_expert,
)
from t2local.training.reports import TAKING_PRINT, Held, Notice
from t2local.training.runs import Run
from t2local.training.validation import Forgetting, OtherTask, forgetting

ADAPTER_FOLDER = "adapter"
RUN = "run"  # on the card: the run's folder
ADOPTED, DROPPED = "adopted", "dropped"  # what became of an expert that a run offered
MOST_CHOICES, MOST_TEXTS = 60, 16  # rows of an earlier expert; writing is slow
FEWEST_ROWS = 4  # fewer say nothing
Kept = TypeVar("Kept")
MOST_EXPERTS = 4  # of the user's own, the newest ones


def running(
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
    if not processes.is_main:
        return (yield from _running(run, loaded, svf, adopt, cancel, processes))
    words = f"Run '{run.name}' is at work in another t2local; wait until it is done, or stop it."
    with locks.holding(run.lock, words):
        return (yield from _running(run, loaded, svf, adopt, cancel, processes))


def _running(
    run: Run,
    loaded: LoadedModel,
    svf: SVFModel,
    adopt: Callable[[Expert], Any],
    cancel: CancelToken | None,
    processes: Processes,
) -> Generator[Agenda | Event | Progress | Held, None, Trained]:
    plan, state = run.plan(), run.state()
    source, labels = dataset_of(plan)
    method = method_for(loaded, svf, plan.config)
    own = "" if plan.start and not plan.replays else plan.name  # else it may forget its own rows
    others = processes.from_main(other_tasks(own, source, loaded.slug))
    measured = others if plan.forgetting else ()
    start = started_from(run, loaded, svf)
    work = train_expert(
        loaded, svf, source, plan, labels, cancel, state, method, processes, measured, start
    )
    if not processes.is_main:
        return drain(work)
    yield from _kept_trying(lambda: run.rewind(state))
    rows = len(source.validation), len(source.held_out)
    others_s = other_seconds(loaded, svf, measured)
    printed = plan.config.method != LORA and not plan.classifier
    print_s = print_seconds(loaded, svf, source) if printed else 0.0
    yield Agenda(plan.config, *rows, source.leave_one_out, others_s, print_s)
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            trained: Trained = end.value
            break
        if not isinstance(event, Progress):
            yield from _kept_trying(lambda event=event: run.record(event))
        yield event
    if trained.expert is not None and trained.expert.prompt_print is not None:
        trained = yield from _looked_for(trained, loaded, svf, source, others)
    if plan.config.method == LORA:
        folder = run.folder / ADAPTER_FOLDER
        yield from _kept_trying(lambda: method.save(trained.outcome.flat, folder))
    elif plan.offered:
        expert = replace(trained.expert, training={**trained.expert.training, RUN: run.name})
        yield from _kept_trying(lambda: write_expert(expert, run.offered))
        trained = replace(trained, expert=expert)
    else:
        expert = yield from _kept_trying(
            lambda: adopted(trained.expert, run.name, loaded.slug, adopt, plan.start)
        )
        trained = replace(trained, expert=expert)
        if expert.name != plan.name:
            notice = _renamed(plan.name, trained)
            yield from _kept_trying(lambda: run.record(notice))
            yield notice
    yield from _kept_trying(lambda: run.finish(summary(trained)))
    return trained


def _looked_for(
    trained: Trained,
    loaded: LoadedModel,
    svf: SVFModel,
    source: Dataset,
    others: Sequence[OtherTask],
) -> Generator[Progress | Held, None, Trained]:
    """The same with whether similarity finds the expert on its card."""
    yield Progress(TAKING_PRINT, 0, 1, "prints")
    store, expert = ExpertStore(loaded.slug), trained.expert

    def base() -> AbstractContextManager:
        return svf.using({})

    everyday = yield from _kept_trying(lambda: store.know_others(loaded, base))
    found = found_by_similarity(loaded, expert, everyday, source, others, base)
    card = {**trained.card, "found": found.as_dict() if found else None}
    return replace(trained, card=card, expert=replace(expert, training=card))


def _renamed(wanted: str, trained: Trained) -> Notice:
    text = f"Another expert is called '{wanted}' by now: this one is kept as "
    return Notice(trained.outcome.steps, f"{text}'{trained.expert.name}'.")


def _kept_trying(write: Callable[[], Kept]) -> Generator[Held, None, Kept]:
    while True:
        try:
            return write()
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
        "prefers": bool(card.get("prefers")),
        "since_start": card.get("since_start"),
        "forgetting": card["forgetting"],
        "found": card.get("found"),
        "reward_curve": list(outcome.curve),
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "seconds": dict(outcome.seconds),
        "tokens_per_s": outcome.tokens / max(sum(outcome.seconds.values()), 1e-9),
    }


# --- The name under which a finished expert is kept.
#
# A run may be cut off and resumed days later, and the user may have given its name to another
# expert since: both are kept. An expert that this very run left (killed before it was over) is
# replaced. A shipped expert's name is free: the user's own stands before it.


def adopted(
    expert: Expert, run: str, model_slug: str, adopt: Callable[[Expert], Any], start: str = ""
) -> Expert:
    """Adopt it; between the look at which names are free and its file nobody takes one.

    `start`: the expert it went on from. Under that one's name it is its new version.
    """
    store = ExpertStore(model_slug)
    with store.changing():
        expert = to_keep(expert, run, model_slug, start)
        own = (f.expert for f in store.files() if f.path.stem == expert.name and not f.shipped)
        there = next(own, None)
        if start == expert.name and not _left_by(run, there):
            Versions(store).keep(expert.name)
        elif there is None:
            Versions(store).drop(expert.name)  # of another that had the name
        adopt(expert)
    return expert


def adopt_offered(run: Run, model_slug: str, adopt: Callable[[Expert], Any]) -> Expert:
    """Adopt what a run offered. Raises `T2LocalError` where it was adopted or dropped already."""
    if not run.offered.is_file():
        raise T2LocalError(f"Run '{run.name}' offers nothing any more; look in the tab Experts.")
    expert = adopted(read_expert(run.offered), run.name, model_slug, adopt, run.plan().start)
    run.finish({**run.result(), "expert": expert.name, "offer": ADOPTED})
    run.offered.unlink(missing_ok=True)
    return expert


def drop_offered(run: Run) -> None:
    """Delete what a run offered; nothing happens where that is gone."""
    if run.offered.is_file():
        run.finish({**run.result(), "offer": DROPPED})
        run.offered.unlink(missing_ok=True)


def to_keep(expert: Expert, run: str, model_slug: str, start: str = "") -> Expert:
    """The expert with its run on its card, under its own name or a free one."""
    expert = replace(expert, training={**expert.training, RUN: run})
    files = ExpertStore(model_slug).files()
    others = [f.path.stem for f in files if not f.shipped and not _left_by(run, f.expert)]
    if expert.name == start or not is_taken(expert.name, others):
        return expert
    shipped = [f.path.stem for f in files if f.shipped]
    return replace(expert, name=free_name(expert.name, [*others, *shipped]))


def _left_by(run: str, expert: Expert | None) -> bool:
    return expert is not None and expert.training.get(RUN) == run


# --- Going on from an expert: its `z`, and its own rows again beside the new ones.


def started_from(run: Run, loaded: LoadedModel, svf: SVFModel) -> Expert | None:
    """The expert that a run goes on from. Raises `T2LocalError` where it is gone or unfit."""
    plan, library = run.plan(), Library(loaded.slug)
    if not plan.start:
        return None
    start = library.load(plan.start)
    if _left_by(run.name, start):  # killed between its new version and its end
        start = read_expert(Versions(library).of(plan.start)[0].path)
    check_fits(start, svf, loaded.name, loaded.quantization)
    if (start.kind == CLASSIFIER) != plan.classifier:
        raise T2LocalError(
            f"'{plan.start}' is a {start.kind}; go on from an expert of the kind that you train."
        )
    return start


class GoingOn(NamedTuple):
    """`run`: that made the start, "" where its rows are gone. `replays`: whether they are learnt
    again beside the new ones. `words`: a sentence about it.
    """

    run: str = ""
    replays: bool = False
    words: str = ""


def going_on(expert: Expert, name: str, source: Dataset, reward: str) -> GoingOn:
    """What going on from `expert` with these rows, as `name`, means for its own ones.

    Raises `T2LocalError` where a new version would choose among other labels than the one before.
    """
    labels = labels_of(source.rows)
    if expert.labels and name == expert.name and set(labels) != set(expert.labels):
        raise T2LocalError(
            f"'{expert.name}' chooses among {', '.join(expert.labels)}, and these rows among "
            f"{', '.join(labels) or 'nothing in common'}; list the same choices in every row, or "
            "give what comes of it another name."
        )
    try:
        run, rows = run_of(expert), rows_behind(expert)
    except T2LocalError as error:
        return GoingOn(words=f"Its own rows are not learnt again. {error}")
    plan = run.plan()
    if plan.reward != reward:
        told = f"they are rewarded by '{plan.reward}', these by '{reward}'"
    elif action_of(rows.rows) != action_of(source.rows) or (
        are_preferences(rows.rows) != are_preferences(source.rows)
    ):
        told = "these are asked in another way"
    else:
        if count := len(replayed_rows(source, run.name)):
            return GoingOn(
                run.name, True, f"{count} of its own rows are learnt again beside these."
            )
        return GoingOn(run.name, False, "Its own rows are among these.")
    words = (
        f"Its own rows are not learnt again: {told}. Beside the base model it is measured on them."
    )
    return GoingOn(run.name, False, words)


# --- The tasks on which forgetting is measured.
#
# For shipped experts our own questions (`tasks.datasets.probes`); for the user's earlier experts
# the held-out rows of the run that made them, as long as its data is still on disk and unchanged.


def other_tasks(own: str, source: Dataset, model_slug: str) -> tuple[OtherTask, ...]:
    """The tasks of all experts but `own`, without rows that `source` holds.

    A user's expert of a shipped one's name stands in its place. Raises `T2LocalError` where the
    project's own questions are damaged; a run that cannot be read is passed over.
    """
    tasks = {name: OtherTask(name, rows) for name, rows in _shipped().items()}
    tasks |= {task.name: task for task in _earlier(own, source, model_slug)}
    return tuple(task for name, task in tasks.items() if name != own)


def measured_forgetting(
    loaded: LoadedModel, svf: SVFModel, expert: Expert, cancel: CancelToken | None = None
) -> Generator[Progress, None, tuple[Forgetting, ...]]:
    """What an expert does to the tasks of all others now, as `recipe.train_expert` measures it."""
    try:
        own = rows_behind(expert)
    except T2LocalError:
        own = Dataset("", [], [], [])
    tasks = other_tasks(expert.name, own, loaded.slug)
    return (yield from forgetting(loaded, svf, holding(loaded, svf, expert.z), tasks, cancel))


def _shipped() -> dict[str, tuple[Example, ...]]:
    """The probes as the model is asked them: the classifier's in the question of pass 1."""
    sets = probes()
    asked = [replace(e, prompt=classification_prompt(e.prompt)) for e in sets[DECIDING]]
    return sets | {DECIDING: tuple(asked)}


def _earlier(own: str, source: Dataset, model_slug: str) -> list[OtherTask]:
    """Tasks of the user's newest experts for this model, oldest first."""
    files = ExpertStore(model_slug).files()
    mine = {f.expert.name: f.expert for f in files if f.expert and not f.shipped}
    mine.pop(own, None)
    taken = {e.key for e in (*source.train, *source.validation, *source.held_out)}
    found: dict[str, OtherTask] = {}
    for run in _newest_first():
        if len(found) == MOST_EXPERTS:
            break
        try:
            plan = run.plan()
            if plan.name in found or plan.name not in mine:
                continue
            rows, _ = dataset_of(plan)
        except T2LocalError:
            continue  # its data was moved or spoilt since
        if rows.sha256 != mine[plan.name].training.get("data_sha256"):
            continue  # other rows than it was trained on: what was held out then is not known
        fresh = [e for e in rows.held_out if e.key not in taken]
        most = MOST_CHOICES if action_of(fresh) == CHOICE else MOST_TEXTS
        chosen = random.Random(0).sample(fresh, min(most, len(fresh)))
        if len(chosen) >= FEWEST_ROWS and not are_preferences(chosen):
            budget = plan.config.max_new_tokens
            found[plan.name] = OtherTask(plan.name, tuple(chosen), plan.reward, budget)
    return list(found.values())[::-1]


def run_of(expert: Expert) -> Run:
    """The run that its card names. Raises `T2LocalError` where that is not on this machine."""
    run = Run(paths.runs_dir() / paths.slug(str(expert.training.get(RUN, ""))))
    if not (run.folder / "run.json").is_file():
        raise T2LocalError(
            f"No training run of '{expert.name}' is on this machine; name a file with prompts that "
            "it is for."
        )
    return run


def rows_behind(expert: Expert) -> Dataset:
    """The rows that an expert of the user's was trained on, while they are here as they were.

    Raises `T2LocalError` where its run or its data is gone or has changed since.
    """
    rows, _ = dataset_of(run_of(expert).plan())
    if rows.sha256 != expert.training.get("data_sha256"):
        raise T2LocalError(
            f"The data of '{expert.name}' has changed since it was trained; name a file with "
            "prompts that it is for."
        )
    return rows


def _newest_first() -> Iterator[Run]:
    for path in sorted(paths.runs_dir().glob("*/run.json"), reverse=True):
        run = Run(path.parent)
        if run.finished:
            yield run

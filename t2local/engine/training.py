"""What the Train page asks for: rows as the model reads them, a dry run, runs and their reports.

Everything that lasts is on disk (`tasks.uploads`, `training.runs`), so any page, also after a
restart, gets the same answers. Experts still in training can be offered to the chat as drafts.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2local import paths
from t2local.adapt.answering import prompt_ids
from t2local.engine.jobs import BUSY, FINISHED, Jobs, JobStatus
from t2local.engine.loading import Choice
from t2local.engine.model_slot import Uses
from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore
from t2local.models.load.loader import LoadedModel, model_slug
from t2local.svf import SVFModel
from t2local.tasks.datasets import dataset
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.dry_run import DryRunReport, dry_run_report, lasting
from t2local.training.reports import Curves, curves, warnings
from t2local.training.runner import other_tasks
from t2local.training.runs import Plan, Run

MOST_LISTED = 30


@dataclass(frozen=True)
class RunReport:
    """A run as a page shows it. `result`: what `training.running.summary` says, once finished."""

    status: JobStatus
    plan: Plan
    curves: Curves
    warnings: tuple[str, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        return self.status.stage in BUSY

    @property
    def held_out(self) -> Mapping[str, Any] | None:
        """As on an expert's card, None until finished."""
        return self.result.get("held_out")

    @property
    def forgetting(self) -> Sequence[Mapping[str, Any]]:
        """As on an expert's card, empty until finished."""
        return self.result.get("forgetting", ())


@dataclass
class TrainingDesk:
    """`loading`: the `Plan` fields that say which model is loaded, and how."""

    jobs: Jobs
    model: Callable[[], tuple[LoadedModel, SVFModel]]
    uses: Uses = field(default_factory=Uses)
    loading: Mapping[str, str] = field(default_factory=dict)
    _tried: dict[tuple[str, str, TrainConfig], DryRunReport] = field(default_factory=dict)

    def begin_with(self, choice: Choice) -> None:
        """Another model: later runs train on it, and what was tried on the old one is forgotten."""
        self.loading = {
            "model": choice.source,
            "quantization": choice.quantize,
            "basis": choice.basis,
        }
        self._tried.clear()

    def resume(self, name: str) -> None:
        """As `Jobs.resume`; raises `T2LocalError` for a run that was begun on another model."""
        model = Run.open(name).plan().model
        loaded, _ = self.model()
        if model_slug(model) != loaded.slug:
            raise T2LocalError(
                f"This run trains '{model}', and '{loaded.name}' is loaded; load that model in the "
                "tab Models, then resume the run."
            )
        self.jobs.resume(name)

    def as_read(self, example: Example) -> str:
        """The prompt with the model's chat template around it."""
        loaded, _ = self.model()
        return loaded.tokenizer.decode(prompt_ids(loaded, example))

    def dry_run_report(self, source: str, reward: str, config: TrainConfig) -> DryRunReport:
        """The base model's answers and rewards on a file's rows; remembered. `T2LocalError`."""
        key = source, reward, config
        tried = self._tried.get(key)  # another model may empty it at any time
        if tried is None:
            lessons = dataset(source, config.seed, config.held_out_share)
            with self.uses.of("A dry run of the base model"):
                loaded, svf = self.model()
                others = other_tasks("", lessons, loaded.slug)
                tried = dry_run_report(loaded, svf, lessons, reward, config, others)
                self._tried[key] = tried
        return tried

    def start(self, name: str, source: str, reward: str, length: str, config: TrainConfig) -> str:
        """Queue a run of about `length` and give its name.

        Raises `T2LocalError`: a name that is taken or cannot be one, nothing to learn from.
        """
        self.check_name(name)
        tried = self.dry_run_report(source, reward, config)
        if tried.problem:
            raise T2LocalError(tried.problem)
        plan = Plan(name, source, reward, lasting(length, tried, config), **self.loading)
        return self.jobs.start(plan)

    def runs(self) -> list[tuple[str, str]]:
        """(expert, run) of the newest runs on disk, the newest first; unreadable ones left out."""
        found = sorted(paths.runs_dir().glob("*/run.json"), reverse=True)[:MOST_LISTED]
        listed = []
        for path in found:
            try:
                listed.append((Run(path.parent).plan().name, path.parent.name))
            except T2LocalError:
                continue
        return listed

    def current(self) -> str | None:
        """The run to show first: one in progress, else the newest."""
        names = [run for _, run in self.runs()]
        live = (name for name in names if self._is_live(name))
        return next(live, names[0] if names else None)

    def report(self, name: str) -> RunReport:
        """All there is to show of a run. Raises `T2LocalError` for an unknown or damaged one."""
        run, status = Run.open(name), self.jobs.status(name)
        so_far = curves(run.metrics())
        result = run.result() if status.stage == FINISHED else {}
        return RunReport(status, run.plan(), so_far, tuple(warnings(so_far)), result)

    def reports(self, names: Sequence[str]) -> list[RunReport]:
        """Several runs, to be laid over each other; those that cannot be read are left out."""
        found = []
        for name in names:
            try:
                found.append(self.report(name))
            except T2LocalError:
                continue
        return found

    def names_in_training(self) -> set[str]:
        """Experts to be: those of runs that are not over yet."""
        return {expert for expert, run in self.runs() if self._is_live(run)}

    def _is_live(self, name: str) -> bool:
        try:
            return self.jobs.status(name).stage in BUSY
        except T2LocalError:  # damaged, which its report says
            return False

    def check_name(self, name: str) -> None:
        """Raise `T2LocalError` for a name that is taken or cannot be one."""
        Plan(name, "", "")  # refuses what cannot be a name
        loaded, _ = self.model()
        taken = {stored.path.stem for stored in ExpertStore(loaded.slug).files()}
        if name in taken | self.names_in_training():
            raise T2LocalError(f"There is an expert '{name}' already; choose another name.")


# --- Experts still in training, offered to the chat as they were after some step. Never on disk.


class Drafts:
    """At most one a run: the newest that somebody asked for. From any thread."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()  # around `_by_run`; runs are asked without it
        self._by_run: dict[str, Expert] = {}

    def take(self, run: str) -> Expert:
        """What a run in progress is now. Raises `T2LocalError` where there is no such `z`."""
        draft = self._jobs.snapshot(run)
        with self._lock:
            self._by_run[run] = draft
        return draft

    def clear(self) -> None:
        """Forget all: another model is loaded."""
        with self._lock:
            self._by_run.clear()

    def drop(self, expert: str) -> None:
        """The finished expert takes its drafts' place."""
        self._keep(lambda run: self._jobs.status(run).expert != expert)

    def besides(self, names: Collection[str]) -> list[Expert]:
        """Drafts of runs that go on; an expert of the same name comes first."""
        self._keep(lambda run: self._jobs.status(run).stage in BUSY)
        with self._lock:
            return [draft for draft in self._by_run.values() if draft.name not in names]

    def _keep(self, wanted: Callable[[str], bool]) -> None:
        with self._lock:
            runs = list(self._by_run)
        over = [run for run in runs if not wanted(run)]
        with self._lock:
            for run in over:
                self._by_run.pop(run, None)

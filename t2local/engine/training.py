"""What the Train page asks for: rows as the model reads them, a dry run, runs and their reports.

Everything that lasts is on disk (`tasks.uploads`, `training.runs`), so any page, also after a
restart, gets the same answers.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.adapt.answering import check_sees, prompt_ids
from t2local.engine.job_record import ELSEWHERE, TRAINING, JobStatus
from t2local.engine.jobs import Elsewhere, Job, Jobs, Work
from t2local.engine.loading import Choice
from t2local.engine.model_slot import Uses
from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore, HeldOut, Library
from t2local.experts.expert import SKILL
from t2local.experts.store import read_expert
from t2local.locks import Lock
from t2local.models.load.loader import LoadedModel, model_slug
from t2local.progress import BUSY, FINISHED, INTERRUPTED, Progress
from t2local.svf import SVFModel
from t2local.tasks.datasets import dataset
from t2local.tasks.rows import Example
from t2local.training.config import SVF, SVFMethod, TrainConfig
from t2local.training.dry_run import DryRunReport, check_lengths, dry_run_report
from t2local.training.finding import Found, printed_rows
from t2local.training.forecast import Forecast, lasting
from t2local.training.recipe import dataset_of, make_expert, rows_for
from t2local.training.reports import (
    Checkpoint,
    Curves,
    Held,
    StepReport,
    TrainState,
    curves,
    warnings,
)
from t2local.training.runner import (
    DROPPED,
    GoingOn,
    adopt_offered,
    drop_offered,
    going_on,
    other_tasks,
    rows_behind,
    run_of,
    running,
)
from t2local.training.runs import Plan, Run
from t2local.training.validation import in_words

MOST_LISTED = 30

Adopt = Callable[[Expert], Any]


@dataclass(frozen=True)
class RunReport:
    """A run as a page shows it. `result`: what `training.runner.summary` says, once finished."""

    status: JobStatus
    plan: Plan
    curves: Curves
    warnings: tuple[str, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    offered: bool = False  # its expert waits to be adopted

    @property
    def prefers(self) -> bool:
        """Whether it was measured by which of two answers it prefers; False until finished."""
        return bool(self.result.get("prefers"))

    @property
    def since_start(self) -> Mapping[str, Any] | None:
        """The held-out rows again, beside the expert that it went on from."""
        return self.result.get("since_start")

    @property
    def live(self) -> bool:
        return self.status.stage in BUSY

    @property
    def held_out(self) -> Mapping[str, Any] | None:
        """As on an expert's card, None until it is measured."""
        known = self.curves.held_out
        return self.result.get("held_out") or (known.as_dict() if known else None)

    @property
    def forgetting(self) -> Sequence[Mapping[str, Any]]:
        """As on an expert's card, empty until finished."""
        return self.result.get("forgetting", ())

    @property
    def found(self) -> Found | None:
        """Whether similarity finds the expert; None until finished, and where nobody could see."""
        return Found.from_card(self.result)


class RunWork(Work):
    """One run from where its folder stands to its expert. `state`: after its last step."""

    kind = TRAINING
    keeps_events = False  # the run's folder does
    stopping = "Stopping: the best checkpoint is kept."

    def __init__(
        self, run: Run, model: Callable[[], tuple[LoadedModel, SVFModel]], adopt: Adopt
    ) -> None:
        plan = run.plan()
        super().__init__(run.name, plan.name, plan.config.steps)
        self.training_run, self.plan = run, plan
        self._model, self._adopt = model, adopt
        self.forecast = Forecast()
        self.state: TrainState | None = None

    def run(self, job: Job) -> Generator[Any, None, str]:
        loaded, svf = self._model()
        self.state = self.training_run.state()
        job.tell(step=self.state.step if self.state else 0, message="Trying the base model")
        work = running(self.training_run, loaded, svf, self._adopt, job.cancel)
        while True:
            began = time.monotonic()
            try:
                event = next(work)
            except StopIteration as end:
                expert, self.state = end.value.expert, None  # nobody asks for its z any more
                break
            self.forecast.listen(event, time.monotonic() - began)
            if isinstance(event, Checkpoint):
                self.state = event.state
            elif isinstance(event, Held):
                job.pause(f"Paused. {event.reason}")
            yield event
        if self.plan.offered:
            return f"'{expert.name}' waits for you: adopt it, try it, or drop it."
        if expert is None:
            return f"'{job.status.name}' is measured; its adapter lies in the run's folder."
        job.tell(name=expert.name)
        return f"'{expert.name}' is ready."

    def stopped(self, status: JobStatus) -> str:
        return "Stopped before its first step: resume it to go on."

    def figures(self, event: Any, seconds: float) -> Mapping[str, Any]:
        figures = {"eta_s": self.forecast.remaining_s}
        if isinstance(event, StepReport):
            figures |= {"step": event.step, "message": ""}
        elif isinstance(event, Progress):
            figures["message"] = event.stage
        return figures


class Training:
    """Runs of the loaded model. `model`: it and its SVF; `adopt`: called with each new expert.

    `loading`: the `Plan` fields that say which model is loaded, and how.
    """

    def __init__(
        self,
        jobs: Jobs,
        model: Callable[[], tuple[LoadedModel, SVFModel]],
        adopt: Adopt,
        uses: Uses | None = None,
    ) -> None:
        self.jobs, self.model, self.adopt = jobs, model, adopt
        self.uses = uses or Uses()
        self.loading: Mapping[str, str] = {}
        self._tried: dict[tuple[str, str, TrainConfig], DryRunReport] = {}
        self._prompts: dict[tuple[str, int], tuple[str, ...]] = {}
        jobs.register(TRAINING, self._again, Elsewhere(self._recorded, self._all_recorded))

    def begin_with(self, choice: Choice) -> None:
        """Another model: later runs train on it, and what was tried on the old one is forgotten."""
        self.loading = {
            "model": choice.source,
            "quantization": choice.quantize,
            "basis": choice.basis,
        }
        self._tried.clear()

    def _again(self, name: str, settings: Mapping[str, Any]) -> RunWork:
        """A run to be taken up. Raises `T2LocalError` for one that was begun on another model."""
        run = Run.open(name)
        model = run.plan().model
        loaded, _ = self.model()
        if model_slug(model) != loaded.slug:
            raise T2LocalError(
                f"This run trains '{model}', and '{loaded.name}' is loaded; load that model in the "
                "tab Models, then resume the run."
            )
        if Lock(run.lock).taken:
            raise T2LocalError(f"Run '{run.name}' cannot be taken up: {ELSEWHERE}")
        return self._work(run)

    def _work(self, run: Run) -> RunWork:
        return RunWork(run, self.model, self.adopt)

    def as_read(self, example: Example) -> str:
        """The prompt with the model's chat template around it."""
        loaded, _ = self.model()
        return loaded.tokenizer.decode(prompt_ids(loaded, example))

    def dry_run_report(self, source: str, reward: str, config: TrainConfig) -> DryRunReport:
        """The base model's answers and rewards on a file's rows; remembered. `T2LocalError`."""
        key = _tried_as(source, reward, config)
        tried = self._tried.get(key)  # another model may empty it at any time
        if tried is None:
            source_rows = rows_for(source, reward, config)
            with self.uses.of("A dry run of the base model"):
                loaded, svf = self.model()
                others = other_tasks("", source_rows, loaded.slug)
                tried = dry_run_report(loaded, svf, source_rows, reward, config, others)
                self._tried[key] = tried
        return tried

    def is_tried(self, source: str, reward: str, config: TrainConfig) -> bool:
        """Whether `dry_run_report` knows these already and costs nothing."""
        return _tried_as(source, reward, config) in self._tried

    def prompts_behind(self, expert: Expert) -> tuple[str, ...]:
        """The prompts of an expert's print in its order; () where its run or data are gone.

        Also for a print that was taken of other prompts than the run's.
        """
        if expert.prompt_print is None or expert.prompt_print.data != _data_of(expert):
            return ()
        try:
            run = run_of(expert)
            key = run.name, Path(run.plan().source).stat().st_mtime_ns
            if key not in self._prompts:
                rows = printed_rows(rows_behind(expert))
                self._prompts[key] = tuple(row.prompt for row in rows)
        except (T2LocalError, OSError):
            return ()
        return self._prompts[key]

    def begins(self) -> list[str]:
        """The person's own experts, from which a run may go on; none before there is a model."""
        try:
            loaded, _ = self.model()
        except T2LocalError:
            return []
        own = [f.expert for f in ExpertStore(loaded.slug).files() if f.expert and not f.shipped]
        return [expert.name for expert in own if expert.kind == SKILL]

    def going_on(
        self, start: str, name: str, source: str, reward: str, config: TrainConfig
    ) -> GoingOn:
        """What it means for the rows of `start` that a run goes on from it. `T2LocalError`."""
        if not start:
            return GoingOn()
        loaded, _ = self.model()
        if config.method != SVF:
            raise T2LocalError(
                f"A LoRA adapter cannot go on from '{start}', which is a z; leave one of them out."
            )
        rows = dataset(source, config.seed, config.held_out_share)
        return going_on(Library(loaded.slug).load(start), name, rows, reward)

    def start(
        self,
        name: str,
        source: str,
        reward: str,
        length: str,
        config: TrainConfig,
        start: str = "",
        offered: bool = False,
        forgetting: bool = True,
    ) -> str:
        """Queue a run of about `length` and give its name.

        `start`: the expert whose `z` it goes on from. Under that one's name it will be its new
        version. `offered`: it is not adopted before `adopt_offered`. `forgetting`: what it does to
        other experts' tasks is measured too. Raises `T2LocalError`: a name that is taken or cannot
        be one, nothing to learn from.
        """
        self.check_name(name, start)
        tried = self.dry_run_report(source, reward, config)
        if tried.problem:
            raise T2LocalError(tried.problem)
        before = self.going_on(start, name, source, reward, config)
        config = lasting(length, tried, config, forgetting)
        plan = Plan(
            name,
            source,
            reward,
            config,
            start=start,
            start_run=before.run,
            replays=before.replays,
            offered=offered,
            forgetting=forgetting,
            **self.loading,
        )
        return self.queue(plan)

    def queue(self, plan: Plan) -> str:
        """Queue a new run and give its name. Raises `T2LocalError` for data that cannot serve."""
        source, _ = dataset_of(plan)  # bad rows are told now, not from the queue
        loaded, _ = self.model()
        check_sees(loaded, source.train)
        check_lengths(loaded, source, plan.config)
        return self.jobs.start(self._work(Run.create(plan)))

    def adopt_offered(self, name: str) -> str:
        """Take in what a finished run offers; the expert's name. Raises `T2LocalError`."""
        self._offered(name)
        loaded, _ = self.model()
        return adopt_offered(Run.open(name), loaded.slug, self.adopt).name

    def _offered(self, name: str) -> Expert:
        """Raises `T2LocalError` where it is gone, or another model's."""
        run = Run.open(name)
        if not run.offered.is_file():
            raise T2LocalError(f"Run '{name}' offers nothing any more; look in the tab Experts.")
        expert, (loaded, _) = read_expert(run.offered), self.model()
        if paths.slug(expert.base_model) != loaded.slug:
            raise T2LocalError(
                f"'{expert.name}' was trained on {expert.base_model}, and '{loaded.name}' is "
                "loaded; load that model in the tab Models first."
            )
        return expert

    def drop_offered(self, name: str) -> None:
        """Delete what a run offers; nothing happens where that is gone."""
        drop_offered(Run.open(name))

    def offers(self) -> list[str]:
        """Runs of the loaded model whose experts wait for an answer, the newest first."""
        loaded, _ = self.model()
        waiting = (run for _, run in self.runs() if Run.open(run).offered.is_file())
        return [name for name in waiting if model_slug(Run.open(name).plan().model) == loaded.slug]

    def has_learnt(self, run: Run) -> bool:
        """Whether a run of the loaded model made an expert that was not dropped, or is about to."""
        loaded, _ = self.model()
        if model_slug(run.plan().model) != loaded.slug:
            return False
        if run.finished:
            return run.result().get("offer") != DROPPED
        return self.jobs.status(run.name).stage in BUSY

    def offered_words(self, name: str) -> str:
        """What a run offers, in a sentence or two."""
        report = self.report(name)
        measured = report.since_start or report.held_out
        named = {**measured, "task": "Preferred on held-out rows"} if measured else {}
        gain = f" {in_words(HeldOut.from_dict(named))}." if named else ""
        fell = [f for f in report.forgetting if f["ci95_difference"][1] < 0]
        fallen = f" Worse elsewhere: {', '.join(f['task'] for f in fell)}." if fell else ""
        told = f"'{report.status.name}' was learnt while you were away.{gain}{fallen}"
        return f"{told} Adopt it, try it or drop it in the tab Train."

    def snapshot(self, name: str) -> Expert:
        """The `z` of a run in progress, as an expert called after its step, or what one offers.

        Raises `T2LocalError`: not running, before the first step, or no `z` at all (LoRA).
        """
        job, plan = self.jobs.find(name), Run.open(name).plan()
        if Run.open(name).offered.is_file():
            return replace(self._offered(name), name=f"{plan.name}-offered")
        if job is None:
            raise T2LocalError(f"Run '{name}' is not running; resume it first.")
        if plan.config.method != SVF:
            raise T2LocalError(
                f"'{plan.name}' trains a LoRA adapter, which is no z and cannot be mixed; "
                "its answers beside the base model's are shown with the run."
            )
        state = job.work.state
        if state is None or state.step == 0:
            raise T2LocalError(f"'{plan.name}' has taken no step yet; wait for the first one.")
        loaded, svf = self.model()
        z = SVFMethod(loaded, svf).z(state.flat)
        named = replace(plan, name=f"{plan.name}-step-{state.step}")
        labels = () if plan.classifier else dataset_of(plan)[1]
        return make_expert(loaded, svf, z, named, labels)

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
        """The run to show first: one in progress, else the newest that can be read."""
        names = [run for _, run in self.runs()]
        live = (name for name in names if self._is_live(name))
        return next(live, None) or next((n for n in names if self.reports([n])), None)

    def report(self, name: str) -> RunReport:
        """All there is to show of a run. Raises `T2LocalError` for an unknown or damaged one."""
        run, status = Run.open(name), self.jobs.status(name)
        so_far = curves(run.metrics())
        result = run.result() if status.stage == FINISHED else {}
        waits = run.offered.is_file()
        return RunReport(status, run.plan(), so_far, tuple(warnings(so_far)), result, waits)

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

    def _recorded(self, name: str) -> JobStatus | None:
        folder = paths.runs_dir() / name
        return status_on_disk(Run(folder)) if (folder / "run.json").is_file() else None

    def _all_recorded(self) -> list[JobStatus]:
        found = []
        for _, name in self.runs():
            try:
                found.append(status_on_disk(Run.open(name)))
            except T2LocalError:  # damaged, which its report says
                continue
        return found

    def _is_live(self, name: str) -> bool:
        try:
            return self.jobs.status(name).stage in BUSY
        except T2LocalError:  # damaged, which its report says
            return False

    def check_name(self, name: str, start: str = "") -> None:
        """Raise `T2LocalError` for a name that is taken or cannot be one.

        That of the expert that a run goes on from is free for it.
        """
        Plan(name, "", "")  # refuses what cannot be a name
        loaded, _ = self.model()
        taken = {stored.path.stem for stored in ExpertStore(loaded.slug).files()}
        taken -= {start} if start in self.begins() else set()
        if name in taken | self.names_in_training():
            raise T2LocalError(f"There is an expert '{name}' already; choose another name.")


def _data_of(expert: Expert) -> str:
    """The hash of the rows that it was trained on; one that no print has where it is unknown."""
    return str(expert.training.get("data_sha256", "unknown"))


def status_on_disk(run: Run) -> JobStatus:
    """What a run's folder says of it when no worker drives it."""
    plan, step = run.plan(), run.step()
    began = (run.folder / "run.json").stat().st_mtime
    about = run.name, TRAINING.name
    if run.finished:
        name = run.result().get("expert") or plan.name  # another one where that was taken
        return JobStatus(*about, name, FINISHED, step, plan.config.steps, started_s=began)
    message = f"Cut off after step {step}: resume it to go on."
    if Lock(run.lock).taken:
        message = ELSEWHERE
    steps = plan.config.steps
    return JobStatus(*about, plan.name, INTERRUPTED, step, steps, message, started_s=began)


def _tried_as(source: str, reward: str, config: TrainConfig) -> tuple[str, str, TrainConfig]:
    """What a dry run depends on: how many steps will follow says nothing to it."""
    return source, reward, replace(config, steps=1, validate_every=1)

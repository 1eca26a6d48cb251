"""What the Evaluate page and the command `evaluate` ask for: strategies by name on tasks.

The page's evaluations are jobs: they go on when it is closed, and any tab finds them with their
settings and results. The model is held for one forward at a time, so that chats go on beside them.
"""

import difflib
import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.adapt.dispatch import BASE, FEW_SHOT, STRATEGIES, asking_strategies
from t2local.engine.job_record import EVALUATION, JobStatus, Record, new_id
from t2local.engine.jobs import Job, Work
from t2local.engine.model_slot import OnModel, check_model
from t2local.errors import T2LocalError
from t2local.evaluation.benchmark_tasks import BENCHMARKS, question_set
from t2local.evaluation.measure import Event, RowFailed, Scored, evaluate
from t2local.evaluation.questions import QuestionSet
from t2local.evaluation.tally import (
    Cell,
    Evaluation,
    Result,
    evaluation_from_json,
    evaluation_json,
)
from t2local.evaluation.tally import (
    Record as ScoredPrompt,
)
from t2local.evaluation.variants import HARD, ORACLE, Held, Subject, Variant, asking, base, mixed
from t2local.experts.library import MixtureFile, MixtureStore, read_mixture
from t2local.models.decode.out_of_memory import Work as Worded
from t2local.models.decode.out_of_memory import out_of_memory_told
from t2local.progress import FINISHED, CancelToken
from t2local.svf import Mixture
from t2local.tasks.uploads import keep_file
from t2local.untrusted import read_document, typed

MEASUREMENT = Worded(
    "This measurement", "shorten the answers (`--max-new-tokens`) or measure shorter questions"
)
LORA = "lora"


@dataclass(frozen=True)
class EvaluationPlan:
    """`tasks`: names or files. `strategies`: as `Evaluations.names`, `few-shot:FILE`,
    `lora:FOLDER`. `limit`: questions of each task, drawn by `seed`; None is all of them.

    `written`: choices are answered in words. `reward`: how a file's answers are scored.
    """

    tasks: tuple[str, ...]
    strategies: tuple[str, ...]
    limit: int | None = None
    seed: int = 0
    written: bool = False
    reward: str = ""
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        for what, given in (("task", self.tasks), ("strategy", self.strategies)):
            if not any(name.strip() for name in given):
                raise T2LocalError(f"No {what} was given; choose one or more.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise T2LocalError(f"{self.max_new_tokens} new tokens cannot be; choose 1 or more.")

    @property
    def title(self) -> str:
        """The tasks in a few words."""
        names = [Path(task).stem for task in self.tasks if task.strip()]
        return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")

    @property
    def cells(self) -> int:
        """How many pairs of a task and a strategy are asked; the oracle asks nothing."""
        return len(self.tasks) * sum(name != ORACLE for name in self.strategies)


@dataclass
class Growing:
    """An evaluation as its events have told it so far. Cells are (task, strategy)."""

    results: dict[Cell, Result] = field(default_factory=dict)
    records: dict[Cell, list[ScoredPrompt]] = field(default_factory=dict)
    last: Scored | None = None

    def take(self, event: Event) -> None:
        cell = (event.task, event.strategy)
        if isinstance(event, RowFailed):
            self.results[cell] = Result(*cell, 0, 0, trained=None, failed=event.reason)
            return
        self.last = event
        self.records.setdefault(cell, []).extend(event.records)
        before = self.results.get(cell, Result(*cell, 0, 0))
        self.results[cell] = Result(
            *cell,
            event.done,
            event.correct,
            None,
            before.first_pass_s + sum(record.first_pass_s for record in event.records),
            before.second_pass_s + sum(record.second_pass_s for record in event.records),
            before.tokens + sum(record.tokens for record in event.records),
            None,
        )


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation as a page shows it. `evaluation`: its result, None before the end.

    `cells`: how many (task, strategy) there will be.
    """

    status: JobStatus
    plan: EvaluationPlan
    cells: int
    growing: Growing
    evaluation: Evaluation | None


class EvaluationWork(Work):
    """One evaluation, from its first question to its results in the job's folder."""

    kind = EVALUATION

    def __init__(self, id: str, plan: EvaluationPlan, evaluations: "Evaluations") -> None:
        super().__init__(id, plan.title)
        self.plan, self._evaluations = plan, evaluations
        self.settings = {"model": evaluations.model()[0].slug, "plan": asdict(plan)}
        self._done: dict[Cell, tuple[int, int]] = {}

    def run(self, job: Job) -> Generator[Event, None, str]:
        evaluation = yield from self._evaluations.run(self.plan, job.cancel)
        with paths.atomic_write(results_path(self.id)) as temporary:
            temporary.write_text(json.dumps(evaluation_json(evaluation)), encoding="utf-8")
        scored = sum(result.n for result in evaluation.results if result.strategy != ORACLE)
        return f"{scored} answers."

    def figures(self, event: Event, seconds: float) -> dict[str, Any]:
        if isinstance(event, RowFailed):
            return {}
        self._done[event.task, event.strategy] = (event.done, event.total)
        begun, cells = len(self._done), self.plan.cells
        done = sum(done for done, _ in self._done.values())
        total = sum(total for _, total in self._done.values())
        return {"step": done, "steps": total * max(cells, begun) // begun}

    def line(self, event: Event) -> dict[str, Any]:
        return {"event": type(event).__name__, **asdict(event)}

    def stopped(self, status: JobStatus) -> str:
        return "Stopped. What was scored is kept; Measure goes on from there."


@dataclass(frozen=True)
class Evaluations(OnModel):
    """Evaluations of the loaded model."""

    def __post_init__(self) -> None:
        self.jobs.register(EVALUATION, self._again)

    # --- in the background

    def start(self, plan: EvaluationPlan) -> str:
        """Begin an evaluation and give its id. Raises `T2LocalError` when it cannot be kept."""
        tasks = tuple(
            task if task in BENCHMARKS else str(keep_file(task)) if Path(task).is_file() else task
            for task in plan.tasks
        )
        plan = replace(plan, tasks=tasks)
        return self.jobs.start(self._work(plan, new_id(plan.title)))

    def _work(self, plan: EvaluationPlan, id: str) -> EvaluationWork:
        return EvaluationWork(id, plan, self)

    def _again(self, id: str, settings: Mapping[str, Any]) -> EvaluationWork:
        """An evaluation to be taken up. Raises `T2LocalError` for one of another model."""
        check_model("evaluation", settings, self.model()[0])
        return self._work(_plan(id, settings), id)

    def report(self, id: str) -> EvaluationReport:
        """All there is to show of an evaluation. Raises `T2LocalError` for an unknown one."""
        job, growing = self.jobs.find(id), Growing()
        if job is not None:
            status, plan, events = self.jobs.status(id), job.work.plan, list(job.events)
        else:
            record = Record.of(id)
            status, settings = record.read()
            plan, events = _plan(id, settings), _events(record)
        for event in events:
            growing.take(event)
        path, evaluation = results_path(id), None
        if status.stage == FINISHED and path.is_file():
            try:
                evaluation = evaluation_from_json(read_document(path), growing.records)
            except (OSError, ValueError) as error:
                raise Record.of(id).unreadable(error) from error
        return EvaluationReport(status, plan, plan.cells, growing, evaluation)

    # --- in the caller's thread

    def names(self) -> list[str]:
        """The strategies that can be named here, files and folders aside."""
        subject = self._subject()
        if not subject.skills:
            return [BASE]
        available = replace(subject.available, kept=self._store().names())
        asking = [name for s in asking_strategies() for name in s.names(available)]
        asked = [way for name in asking for way in (name, f"{name}:{HARD}")]
        kept = STRATEGIES[FEW_SHOT].names(available)
        return [BASE, *subject.skills, *asked, *kept, ORACLE]

    def run(
        self, plan: EvaluationPlan, cancel: CancelToken | None = None
    ) -> Generator[Event, None, Evaluation]:
        """All variants on all tasks. Raises `T2LocalError`, `Cancelled`."""
        with self.uses.of("A measurement on the page Evaluate"):
            loaded, _ = self.model()
            with out_of_memory_told(loaded, self.forget, MEASUREMENT):
                return (yield from self._run(plan, cancel))

    def _run(
        self, plan: EvaluationPlan, cancel: CancelToken | None
    ) -> Generator[Event, None, Evaluation]:
        subject = self._subject()
        names = list(dict.fromkeys(name.strip() for name in plan.strategies if name.strip()))
        oracle = ORACLE in names
        names = [name for name in names if name != ORACLE]
        if oracle and not set(names) & {*subject.skills}:
            names = list(dict.fromkeys([BASE, *names, *subject.skills]))
        variants = [self._variant(subject, name) for name in names]
        tasks = tuple(dict.fromkeys(name.strip() for name in plan.tasks if name.strip()))
        sets = [self._questions(name, plan) for name in tasks]
        return (yield from evaluate(subject, sets, variants, oracle, plan.max_new_tokens, cancel))

    def _questions(self, name: str, plan: EvaluationPlan) -> QuestionSet:
        return question_set(name, plan.limit, plan.seed, plan.written, plan.reward)

    def _variant(self, subject: Subject, name: str) -> Variant:
        """Raises `T2LocalError` for what is no strategy, naming the nearest."""
        kind, _, rest = name.partition(":")
        if name == BASE:
            return base(subject)
        if name in subject.skills:
            return mixed(subject, name, Mixture({name: 1.0}))
        if kind in STRATEGIES and STRATEGIES[kind].asks and rest in ("", HARD):
            return asking(subject, name)
        if kind == FEW_SHOT and rest:
            file = self._mixture(subject, rest)
            shots = tuple(map(str, file.task.get("shot_prompts", ())))
            return mixed(subject, name, file.mixture, shots)
        if kind == LORA and rest:
            return self._lora(subject, name, paths.named(rest))
        known = [*self.names(), f"{FEW_SHOT}:mixture.json", f"{LORA}:FOLDER"]
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose among {', '.join(known)}."
        raise T2LocalError(f"There is no strategy and no expert '{name}'; {hint}")

    def _mixture(self, subject: Subject, name: str) -> MixtureFile:
        """A file's, or the one kept under this name."""
        path = paths.named(name)
        file = read_mixture(path) if path.suffix == ".json" else self._store().load(name)
        file.check(subject.loaded.name, subject.skills)
        return file

    def _lora(self, subject: Subject, name: str, folder: Path) -> Variant:
        from t2local.training.lora import read_adapter

        adapter = read_adapter(subject.loaded, subject.svf, folder)
        return Held(name, [LORA, adapter.sha256], adapter.numbers, adapter.holding)

    def _subject(self) -> Subject:
        loaded, svf = self.model()
        shelf = self.shelf()
        return Subject(loaded, svf, shelf.usable, shelf.prints)

    def _store(self) -> MixtureStore:
        loaded, _ = self.model()
        return MixtureStore(loaded.slug)


def _plan(id: str, settings: Mapping[str, Any]) -> EvaluationPlan:
    try:
        return typed(EvaluationPlan, settings.get("plan"))
    except (ValueError, T2LocalError) as error:
        raise Record.of(id).unreadable(error) from error


def results_path(id: str) -> Path:
    """Where an evaluation leaves its results."""
    return Record.of(id).folder / "results.json"


def _events(record: Record) -> list[Event]:
    try:
        return [_event(values) for values in record.events()]
    except ValueError as error:
        raise record.unreadable(error) from error


def _event(values: Mapping[str, Any]) -> Event:
    """The inverse of `EvaluationWork.line`."""
    values = typed(dict, values)
    return typed(RowFailed if values.get("event") == RowFailed.__name__ else Scored, values)

"""What the Evaluate tab does: starts an evaluation, shows it grow, hands out its samples and files.

An evaluation is a job of the engine's: the page holds its id alone, and a timer asks how it stands.
So a reload, a second tab and a restarted server show the same one with its settings; stopped or cut
off, its scored prompts are kept, and the same request goes on from there.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import gradio as gr

from t2local import plots
from t2local.adapt.dispatch import BASE
from t2local.engine.engine import Engine
from t2local.engine.evaluations import EvaluationPlan, EvaluationReport
from t2local.engine.job_record import EVALUATION
from t2local.evaluation.benchmark_tasks import BENCHMARKS, RUN_PROGRAMS, questions_of
from t2local.evaluation.report import write_report
from t2local.evaluation.tally import Cell, Evaluation, Record, Result
from t2local.evaluation.variants import ORACLE
from t2local.plots.bars import Score
from t2local.tasks.files import ExampleFile, Look
from t2local.tasks.uploads import kept_as_read, look_at, suggest_reward
from t2local.ui.evaluate.layout import EvaluateTab, offered_tasks
from t2local.ui.evaluate.view import (
    ALL,
    confusion_html,
    done_html,
    samples_html,
    status_html,
    table_html,
)
from t2local.ui.forms import bind_consent
from t2local.ui.messages import moment, shown
from t2local.ui.own_rows import RowsEvents, trial_html
from t2local.ui.style import note_html, quiet_html

QUIET = {"show_progress": "hidden"}


class EvaluateEvents:
    """Binds an `EvaluateTab` to an engine. `shown_tab`: the tab's own, to see it being opened."""

    def __init__(self, engine: Engine, tab: EvaluateTab, shown_tab: gr.Tab) -> None:
        self.engine, self.tab, self.shown_tab = engine, tab, shown_tab
        as_read = engine.training.as_read
        self.rows = RowsEvents(tab.rows, as_read, _judged, self.followed, shows=[tab.judged])
        # What was written for the page to serve: an evaluation's id or an upload's path -> files.
        self._served: dict[str, list[str]] = {}

    def bind(self) -> None:
        tab = self.tab
        settings = [
            tab.tasks, tab.strategies, tab.limit, tab.seed, tab.written, tab.most_tokens,
        ]  # fmt: skip
        self.rows.bind()
        bind_consent(tab.consent, [tab.tasks, tab.rows.path], _may_run_programs)
        live = [
            tab.evaluation, tab.status, tab.table, tab.figure, tab.confusion, tab.start, tab.stop,
            tab.files, tab.browse, tab.cell, tab.samples, tab.timer,
        ]  # fmt: skip
        of_rows = [*tab.rows.shown, tab.rows.file, tab.judged]
        everything, known = [*live, *settings, *of_rows], {tab.evaluation}
        opening = {tab.evaluation, tab.strategies, tab.tasks}
        self.shown_tab.select(shown(self.opened), opening, everything, **QUIET)
        tab.start.click(shown(self.measured), {*settings, *tab.rows.given}, live, **QUIET)
        tab.stop.click(shown(self.stopped), known, live, **QUIET)
        ticking = tab.timer.tick(shown(self.ticked), known, live, **QUIET)
        ticking.failure(lambda: gr.Timer(active=False), None, tab.timer, **QUIET)
        tab.evaluation.input(shown(self.picked), known, everything, **QUIET)
        for choice in (tab.cell, tab.verdict):
            look = {tab.cell, tab.verdict, tab.evaluation}
            choice.input(shown(self.looked), look, [tab.samples], **QUIET)

    def opened(self, values: dict) -> dict:
        """Offer what there is now; what was ticked stays ticked. The newest evaluation is shown."""
        tab, names = self.tab, [BASE]
        if self.engine.status.ready:
            names = self.engine.evaluations.names()
        kept = [name for name in values[tab.strategies] if name in names]
        tasks = offered_tasks()
        ticked = [name for name in values[tab.tasks] if name in {name for _, name in tasks}]
        update = {
            tab.strategies: gr.CheckboxGroup(names, value=kept or [BASE]),
            tab.tasks: gr.CheckboxGroup(tasks, value=ticked),
        }
        if values[tab.evaluation]:
            return update | self._present(values[tab.evaluation])
        found = self.engine.jobs.newest(EVALUATION, self.engine.evaluations.report)
        return update | (self._show(found) if found else {})

    def picked(self, values: dict) -> dict:
        return self._show(values[self.tab.evaluation])

    def followed(self, values: dict, look: Look | None) -> dict:
        """How answers to a file's rows are judged."""
        if look is None or look.problem:
            return {self.tab.judged: ""}
        reward, reason = suggest_reward(look.file.examples)
        judged = quiet_html(f"Judged by {reward}. {reason}")
        return {self.tab.judged: judged + trial_html(reward, look.file.examples)[0]}

    def measured(self, values: dict) -> dict:
        id = self.engine.evaluations.start(self._plan(values))
        return {self.tab.evaluation: self._listed(id), **self._present(id)}

    def ticked(self, values: dict) -> dict:
        return self._present(values[self.tab.evaluation])

    def stopped(self, values: dict) -> dict:
        self.engine.jobs.stop(values[self.tab.evaluation])
        return self._present(values[self.tab.evaluation])

    def looked(self, values: dict) -> dict:
        """The choice of a cell is its place among those that have records."""
        report = self.engine.evaluations.report(values[self.tab.evaluation])
        parts = list(_records(report).values())
        place = values[self.tab.cell]
        records = parts[place] if place is not None and place < len(parts) else []
        return {self.tab.samples: samples_html(records, values[self.tab.verdict])}

    def _plan(self, values: dict) -> EvaluationPlan:
        tab = self.tab
        own = ()
        if values[tab.rows.path]:
            left_out = bool(values[tab.rows.leave_out])
            own = (kept_as_read(self.rows.look(values), left_out),)
        return EvaluationPlan(
            (*values[tab.tasks], *own),
            tuple(values[tab.strategies]),
            int(values[tab.limit]) if values[tab.limit] else None,
            int(values[tab.seed] or 0),
            bool(values[tab.written]),
            max_new_tokens=int(values[tab.most_tokens]) if values[tab.most_tokens] else None,
        )

    def _show(self, id: str) -> dict:
        """An evaluation with the settings it was begun with."""
        tab, plan = self.tab, self.engine.evaluations.report(id).plan
        names = self.engine.evaluations.names() if self.engine.status.ready else []
        offered = list(dict.fromkeys([*names, *plan.strategies]))
        own = [task for task in plan.tasks if task not in BENCHMARKS and Path(task).is_file()]
        return {
            tab.evaluation: self._listed(id),
            tab.tasks: [task for task in plan.tasks if task in BENCHMARKS],
            tab.rows.file: self._upload(own[0]) if own else None,
            **self._own_rows(own[0] if own else None),
            tab.strategies: gr.CheckboxGroup(offered, value=list(plan.strategies)),
            tab.limit: plan.limit,
            tab.seed: plan.seed,
            tab.written: plan.written,
            tab.most_tokens: plan.max_new_tokens,
            **self._present(id),
        }

    def _own_rows(self, path: str | None) -> dict:
        look = look_at(Path(path), fits=_judged) if path else None
        shown_rows = self.rows.present(look) if look else self.rows.nothing()
        return {**shown_rows, **self.followed({}, look)}

    def _upload(self, path: str) -> str:
        cache = Path(self.tab.rows.file.GRADIO_CACHE)
        return self._written(path, lambda: [_servable(path, cache)])[0]

    def _listed(self, id: str) -> gr.Dropdown:
        found = self.engine.jobs.history(EVALUATION)
        choices = [(f"{status.name} · {moment(status.started_s)}", status.id) for status in found]
        return gr.Dropdown(choices=choices, value=id, visible=True)

    def _present(self, id: str) -> dict:
        """How an evaluation stands."""
        tab, report = self.tab, self.engine.evaluations.report(id)
        status, found = report.status, report.evaluation
        results = list(found.results if found else report.growing.results.values())
        over = not status.live
        return {
            tab.status: _status(report),
            tab.table: table_html(results) if results else "",
            tab.figure: _figure(results),
            tab.confusion: confusion_html(found.confusions) if found else "",
            tab.files: gr.File(
                self._files(id, found, report.plan) if found else None, visible=bool(found)
            ),
            tab.start: gr.Button(interactive=over),
            tab.stop: gr.Button(visible=status.live),
            tab.timer: gr.Timer(active=status.live),
            **(
                self._browsable(_records(report))
                if over
                else {tab.browse: gr.Column(visible=False)}
            ),
        }

    def _files(self, id: str, found: Evaluation, plan: EvaluationPlan) -> list[str]:
        """In the folder from which the page may serve files."""
        made = {"limit": plan.limit, "seed": plan.seed, "made in": "the page"}
        return self._written(
            id, lambda: map(str, write_report(found, made, _cache(self.tab.files)))
        )

    def _written(self, name: str, write: Callable[[], Iterable[str]]) -> list[str]:
        """The files of this name, written where they are not there (any more)."""
        there = self._served.get(name)
        if there is None or not all(Path(path).is_file() for path in there):
            there = self._served[name] = list(write())
        return there

    def _browsable(self, records: Mapping[Cell, Sequence[Record]]) -> dict:
        tab = self.tab
        choices = [(" · ".join(cell), place) for place, cell in enumerate(records)]
        first = next(iter(records.values()), [])
        return {
            tab.browse: gr.Column(visible=bool(records)),
            tab.cell: gr.Dropdown(choices, value=0 if records else None),
            tab.samples: samples_html(first, ALL) if first else "",
        }


def _records(report: EvaluationReport) -> dict[Cell, list[Record]]:
    """Those of each cell that has some."""
    if report.evaluation is None:
        return {cell: part for cell, part in report.growing.records.items() if part}
    found = report.evaluation.records.items()
    return {cell: list(part.values()) for cell, part in found if part}


def _status(report: EvaluationReport) -> str:
    status, growing = report.status, report.growing
    if report.evaluation is not None:
        results = report.evaluation.results
        scored = sum(result.n for result in results if result.strategy != ORACLE)
        return done_html(scored)
    words = quiet_html("Reading the questions …") if status.live else ""
    if growing.last is not None and status.live:
        words = status_html(growing.last, report.cells, len(growing.results))
    note = "" if status.live and not status.message else status.message
    return words + (note_html(note) if note else "")


def _judged(name: str, file: ExampleFile) -> None:
    questions_of(Path(name), file.examples)


def _may_run_programs(tasks: Sequence[str], file: str | None) -> bool:
    """A file's rows may have tests."""
    return bool(file) or not RUN_PROGRAMS.isdisjoint(tasks or ())


def _cache(component: gr.File) -> Path:
    """A new folder below the one from which the page may serve files."""
    cache = Path(component.GRADIO_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="evaluation-", dir=cache))


def _servable(path: str, cache: Path) -> str:
    """A kept upload as a file that the page may show again."""
    cache.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix="rows-", dir=cache)) / Path(path).name
    copy.write_bytes(Path(path).read_bytes())
    return str(copy)


def _figure(results: Sequence[Result]):
    return plots.plot_accuracy([Score(r.task, r.strategy, r.n, r.correct) for r in results])

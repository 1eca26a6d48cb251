"""What the Evaluate tab does: starts a run, shows it grow, hands out its samples and files.

A run belongs to the browser tab that began it; stopped or left, its scored prompts are kept, and
the same request goes on from there.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from t2local import plots
from t2local.adapt.answer_stream import BASE
from t2local.engine.evaluations import EvaluatingDesk, EvaluationPlan
from t2local.errors import Cancelled, T2LocalError
from t2local.evaluation.measure import RowFailed, Scored
from t2local.evaluation.report import write_report
from t2local.evaluation.tally import Evaluation, Record, Result
from t2local.evaluation.variants import ORACLE
from t2local.plots.accuracies import Score
from t2local.progress import CancelToken
from t2local.ui.evaluate.layout import EvaluateTab
from t2local.ui.evaluate.view import ALL, confusion_html, samples_html, status_html, table_html
from t2local.ui.messages import shown

QUIET = {"show_progress": "hidden"}
Cell = tuple[str, str]  # task, strategy


@dataclass
class _Live:
    """A run as its events have told it so far."""

    cells: int
    results: dict[Cell, Result] = field(default_factory=dict)
    records: dict[Cell, list[Record]] = field(default_factory=dict)

    def take(self, event: Scored | RowFailed) -> None:
        cell = (event.task, event.strategy)
        if isinstance(event, RowFailed):
            self.results[cell] = Result(*cell, 0, 0, trained=None, failed=event.reason)
            return
        mine = self.records.setdefault(cell, [])
        mine.extend(event.records)
        self.results[cell] = Result(
            *cell,
            event.done,
            event.correct,
            None,
            sum(record.first_pass_s for record in mine),
            sum(record.second_pass_s for record in mine),
            sum(record.tokens for record in mine),
            None,
        )


class EvaluateEvents:
    """Binds an `EvaluateTab` to an engine. `shown_tab`: the tab's own, to see it being opened."""

    def __init__(self, engine: Any, tab: EvaluateTab, shown_tab: gr.Tab) -> None:
        self.engine, self.tab, self.shown_tab = engine, tab, shown_tab
        self._running: dict[str, CancelToken] = {}

    def bind(self) -> None:
        tab = self.tab
        self.shown_tab.select(shown(self.opened), {tab.strategies}, [tab.strategies], **QUIET)
        plan = {
            tab.tasks, tab.file, tab.strategies, tab.limit, tab.seed, tab.written, tab.most_tokens,
        }  # fmt: skip
        live = [
            tab.status, tab.table, tab.figure, tab.confusion, tab.start, tab.stop, tab.files,
            tab.browse, tab.cell, tab.samples, tab.records,
        ]  # fmt: skip
        tab.start.click(shown(self.measured), plan, live, **QUIET)
        tab.stop.click(self.stopped, None, None, queue=False)
        look = {tab.cell, tab.verdict, tab.records}
        for choice in (tab.cell, tab.verdict):
            choice.input(shown(self.looked), look, [tab.samples], **QUIET)

    def opened(self, values: dict) -> dict:
        """Offer what there is now; what was ticked stays ticked."""
        if not self.engine.status.ready:
            return {self.tab.strategies: gr.CheckboxGroup([BASE], value=[BASE])}
        names = EvaluatingDesk.of(self.engine).names()
        kept = [name for name in values[self.tab.strategies] if name in names]
        return {self.tab.strategies: gr.CheckboxGroup(names, value=kept or [BASE])}

    def measured(self, values: dict, request: gr.Request) -> Iterator[dict]:
        tab, plan = self.tab, self._plan(values)
        cancel = self._running[request.session_hash] = CancelToken()
        live = _Live(len(plan.tasks) * sum(name != ORACLE for name in plan.strategies))
        work = EvaluatingDesk.of(self.engine).run(plan, cancel)
        yield {
            tab.status: '<p class="quiet">Reading the questions …</p>',
            tab.confusion: "",
            tab.files: gr.File(visible=False),
            tab.browse: gr.Column(visible=False),
            **self._acts(running=True),
        }
        try:
            while True:
                event = next(work)
                live.take(event)
                yield self._drawn(live, event)
        except StopIteration as end:
            yield self._ended(end.value, plan)
        except Cancelled:
            note = "Stopped. What was scored is kept; Measure goes on from there."
            yield {tab.status: f'<p class="note">{note}</p>', **self._browsable(live.records)}
        except T2LocalError:
            yield {tab.status: "", **self._acts(running=False)}
            raise
        finally:
            self._running.pop(request.session_hash, None)

    def stopped(self, request: gr.Request) -> None:
        if cancel := self._running.get(request.session_hash):
            cancel.cancel()

    def looked(self, values: dict) -> dict:
        parts, chosen = list(values[self.tab.records].values()), values[self.tab.cell]
        records = parts[chosen] if chosen is not None and chosen < len(parts) else []
        return {self.tab.samples: samples_html(records, values[self.tab.verdict])}

    def _plan(self, values: dict) -> EvaluationPlan:
        tab = self.tab
        own = (str(values[tab.file]),) if values[tab.file] else ()
        return EvaluationPlan(
            (*values[tab.tasks], *own),
            tuple(values[tab.strategies]),
            int(values[tab.limit]) if values[tab.limit] else None,
            int(values[tab.seed] or 0),
            bool(values[tab.written]),
            max_new_tokens=int(values[tab.most_tokens]) if values[tab.most_tokens] else None,
        )

    def _drawn(self, live: _Live, event: Scored | RowFailed) -> dict:
        results = list(live.results.values())
        drawn = {self.tab.table: table_html(results), self.tab.figure: _figure(results)}
        if isinstance(event, Scored):
            drawn[self.tab.status] = status_html(event, live.cells, len(results))
        return drawn

    def _ended(self, found: Evaluation, plan: EvaluationPlan) -> dict:
        tab = self.tab
        records = {cell: list(part.values()) for cell, part in found.records.items()}
        made = {"limit": plan.limit, "seed": plan.seed, "made in": "the page"}
        scored = sum(result.n for result in found.results if result.strategy != ORACLE)
        return {
            tab.status: f'<p class="tally" data-ended="1">Done: <b>{scored}</b> answers.</p>',
            tab.table: table_html(found.results),
            tab.figure: _figure(found.results),
            tab.confusion: confusion_html(found.confusions),
            tab.files: gr.File(self._files(found, made), visible=True),
            **self._browsable(records),
        }

    def _files(self, found: Evaluation, made: Mapping[str, Any]) -> list[str]:
        """In the folder from which the page may serve files."""
        cache = Path(self.tab.files.GRADIO_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="evaluation-", dir=cache))
        return [str(path) for path in write_report(found, made, folder)]

    def _browsable(self, found: dict[Cell, list[Record]]) -> dict:
        """The choice of a cell is its place among those that have records."""
        tab, records = self.tab, {cell: part for cell, part in found.items() if part}
        choices = [(" · ".join(cell), place) for place, cell in enumerate(records)]
        first = next(iter(records.values()), [])
        return {
            tab.browse: gr.Column(visible=bool(records)),
            tab.cell: gr.Dropdown(choices, value=0 if records else None),
            tab.samples: samples_html(first, ALL) if first else "",
            tab.records: records,
            **self._acts(running=False),
        }

    def _acts(self, running: bool) -> dict:
        return {
            self.tab.start: gr.Button(interactive=not running),
            self.tab.stop: gr.Button(visible=running),
        }


def _figure(results: Sequence[Result]):
    return plots.plot_accuracy([Score(r.task, r.strategy, r.n, r.correct) for r in results])

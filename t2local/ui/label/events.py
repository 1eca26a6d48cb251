"""What the Label tab does: looks at a table, lets it be labelled, gives it back.

A labelling is a job of the engine's: the page holds its id alone, and any tab finds it with its
settings and its file.
"""

from pathlib import Path

import gradio as gr

from t2local.engine.engine import Engine
from t2local.engine.job_record import LABELLING
from t2local.engine.labelling import LabelPlan
from t2local.errors import T2LocalError
from t2local.progress import FAILED, FINISHED, INTERRUPTED
from t2local.tasks.unlabelled import columns_of, read_unlabelled
from t2local.ui.label.layout import DETECTED, NO_CHOOSER, LabelTab
from t2local.ui.label.view import preview_html, status_html, table_html
from t2local.ui.messages import OTHER_THAN_A_PAGE, moment, shown
from t2local.ui.style import SAVE_IT, note_html
from t2local.untrusted import typed

QUIET = {"show_progress": "hidden"}


class LabelEvents:
    """Binds a `LabelTab` to an engine. `own`: the tab itself, to see it being opened."""

    def __init__(self, engine: Engine, tab: LabelTab, own: gr.Tab) -> None:
        self.engine, self.tab, self.own = engine, tab, own

    def bind(self) -> None:
        tab = self.tab
        live = [tab.labelling, tab.status, tab.table, tab.save, tab.start, tab.stop, tab.timer]
        asked = {tab.expert, tab.file, tab.column, tab.no_header, tab.doubt}
        begun = {*asked, tab.labelling}
        given = [tab.column, tab.no_header, tab.preview, tab.start]
        self.own.select(
            shown(self.opened), {tab.labelling, tab.expert}, [tab.expert, *live], **QUIET
        )
        gr.on([tab.file.upload, tab.file.clear], shown(self.given), asked, given, **QUIET)
        tab.column.input(shown(self.chosen), asked, given, **QUIET)
        tab.no_header.input(shown(self.given), asked, given, **QUIET)
        tab.start.click(shown(self.started), begun, live, **QUIET)
        tab.stop.click(shown(self.stopped), {tab.labelling}, None, **QUIET)
        ticking = tab.timer.tick(shown(self.shown_now), {tab.labelling}, live, **QUIET)
        ticking.failure(lambda: gr.Timer(active=False), None, tab.timer, **QUIET)
        tab.labelling.input(shown(self.shown_now), {tab.labelling}, live, **QUIET)
        saving = tab.save.click(shown(self.saved), {tab.labelling}, tab.path, **QUIET)
        saving.success(None, tab.path, None, js=SAVE_IT)
        gr.api(shown(self.label), api_name="label")

    def opened(self, values: dict) -> dict:
        """The experts that choose, and the newest labelling where none is shown."""
        tab, names = self.tab, self.engine.labelling.choosers()
        before = values[tab.expert]
        chosen = before if before in names else names[0] if names else None
        info = "" if names else NO_CHOOSER
        update = {tab.expert: gr.Dropdown(choices=names, value=chosen, info=info)}
        if values[tab.labelling]:
            return update | self._present(values[tab.labelling])
        found = self.engine.jobs.newest(LABELLING, self.engine.labelling.report)
        return update | (self._present(found) if found else {})

    def given(self, values: dict) -> dict:
        """Another file, or read otherwise: its column is looked for anew."""
        return self._look(values, "")

    def chosen(self, values: dict) -> dict:
        return self._look(values, self._column(values))

    def _look(self, values: dict, column: str) -> dict:
        tab, path = self.tab, values[self.tab.file]
        if not path:
            return {
                tab.column: gr.Dropdown(visible=False, value=DETECTED),
                tab.no_header: gr.Checkbox(value=False, visible=False),
                tab.preview: "",
                tab.start: gr.Button(interactive=False),
            }
        try:
            found = read_unlabelled(Path(path), column, bool(values[tab.no_header]))
        except T2LocalError as error:
            columns = self._columns(path, bool(values[tab.no_header]))
            return {
                tab.no_header: gr.Checkbox(visible=True),
                tab.column: gr.Dropdown(choices=columns, value=None, visible=bool(columns)),
                tab.preview: note_html(str(error)),
                tab.start: gr.Button(interactive=False),
            }
        choices = [DETECTED, *found.columns]
        return {
            tab.no_header: gr.Checkbox(visible=True),
            tab.column: gr.Dropdown(choices=choices, value=column or DETECTED, visible=True),
            tab.preview: preview_html(found),
            tab.start: gr.Button(interactive=True),
        }

    def _columns(self, path: str, without_header: bool) -> list[str]:
        """Of a table of which it is unclear what is to be labelled; [] for what is no table."""
        try:
            return list(columns_of(Path(path), without_header))
        except T2LocalError:
            return []

    def _column(self, values: dict) -> str:
        chosen = values[self.tab.column]
        return "" if chosen in (None, DETECTED) else chosen

    def started(self, values: dict) -> dict:
        tab, shown_now = self.tab, values[self.tab.labelling]
        if not values[tab.file] and shown_now and self._was_stopped(shown_now):
            self.engine.jobs.resume(shown_now)
            return self._present(shown_now)
        if not values[tab.file]:
            raise T2LocalError("There is no table yet; choose a file.")
        if not values[tab.expert]:
            raise T2LocalError("There is no expert that chooses; train one on rows with labels.")
        plan = LabelPlan(
            values[tab.file],
            values[tab.expert],
            self._column(values),
            float(values[tab.doubt]),
            bool(values[tab.no_header]),
        )
        return self._present(self.engine.labelling.start(plan))

    def _was_stopped(self, id: str) -> bool:
        return self.engine.labelling.report(id).status.stage in (FAILED, INTERRUPTED)

    def stopped(self, values: dict) -> None:
        self.engine.jobs.stop(values[self.tab.labelling])

    def shown_now(self, values: dict) -> dict:
        return self._present(values[self.tab.labelling])

    def _present(self, id: str) -> dict:
        """How a labelling stands."""
        tab, report = self.tab, self.engine.labelling.report(id)
        status, done = report.status, report.file is not None
        found = self.engine.jobs.history(LABELLING)
        choices = [(f"{each.name} · {moment(each.started_s)}", each.id) for each in found]
        return {
            tab.labelling: gr.Dropdown(choices=choices, value=id, visible=True),
            tab.status: status_html(report),
            tab.table: table_html(report.summary) if report.summary else "",
            tab.save: gr.Button(visible=done),
            tab.start: gr.Button(
                "Label" if status.stage == FINISHED or status.live else "Label on",
                interactive=not status.live,
            ),
            tab.stop: gr.Button(visible=status.live),
            tab.timer: gr.Timer(active=status.live),
        }

    def saved(self, values: dict) -> str:
        """A copy in the folder from which the page may serve files."""
        file = self.engine.labelling.report(values[self.tab.labelling]).file
        if file is None:
            raise T2LocalError("This table is not labelled yet; let it come to its end.")
        folder = Path(self.tab.path.GRADIO_CACHE) / "labelled"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / file.name
        target.write_bytes(file.read_bytes())
        return str(target)

    def label(self, texts: list[str], expert: str) -> list[dict[str, float]]:
        """For programs: the probability of each label of an expert that chooses, for each text."""
        try:
            named, given = typed(str, expert), typed(list[str], texts)
        except ValueError as error:
            raise T2LocalError(OTHER_THAN_A_PAGE) from error
        return self.engine.labelling.shares(named, given)

"""The Jobs tab: all long work in one list, what goes on first, then what went before.

A tab so small that its layout and its events are one module.
"""

from dataclasses import dataclass

import gradio as gr

from t2local.engine.engine import Engine
from t2local.engine.job_record import ANSWER, KINDS, JobStatus
from t2local.progress import FAILED, FINISHED, INTERRUPTED, PAUSED, QUEUED, RUNNING, STOPPING
from t2local.ui.messages import moment, sent, shown
from t2local.ui.style import PAGE, asset, heading_html

TICK_S = 1.0
STAGES = {
    QUEUED: "waits its turn", RUNNING: "at work", PAUSED: "paused", STOPPING: "stopping",
    FINISHED: "done", FAILED: "failed", INTERRUPTED: "stopped",
}  # fmt: skip


@dataclass(frozen=True)
class JobsTab:
    listed: gr.HTML
    timer: gr.Timer


def create_jobs_tab() -> JobsTab:
    with gr.Column(elem_id="jobs"):
        gr.HTML(heading_html("Long work"), apply_default_css=False, js_on_load=None)
        listed = gr.HTML(
            jobs_html([]), elem_id="jobs-list", apply_default_css=False,
            js_on_load=asset("jobs.js"),
        )  # fmt: skip
    return JobsTab(listed, gr.Timer(TICK_S, active=False))


def jobs_html(statuses: list[JobStatus]) -> str:
    """A row a job: what it is, how far, and what can be done with it."""
    return PAGE.render("jobs.html", "jobs", rows=[_row(status) for status in statuses])


def _row(status: JobStatus) -> tuple[JobStatus, str, str, str, list[tuple[str, str]]]:
    """The status, its kind and stage in words, when it began, what can be done."""
    began = moment(status.started_s) if status.started_s else ""
    return status, KINDS[status.kind].label, STAGES[status.stage], began, _acts(status)


def _acts(status: JobStatus) -> list[tuple[str, str]]:
    """(event, word on the button) of what makes sense now."""
    if status.stage == PAUSED:
        return [("resume", "Resume"), ("stop", "Stop")]
    if status.live:
        return [("stop", "Stop")] if status.stage != STOPPING else []
    again = KINDS[status.kind].resumes and status.stage in (FAILED, INTERRUPTED)
    return [("resume", "Resume")] if again else []


# --- What the tab does.

QUIET = {"show_progress": "hidden"}


class JobsEvents:
    """Binds a `JobsTab` to an engine. `own`: the tab itself, to see it being opened."""

    def __init__(self, engine: Engine, tab: JobsTab, own: gr.Tab) -> None:
        self.engine, self.tab, self.own = engine, tab, own

    def bind(self) -> None:
        tab, here = self.tab, [self.tab.listed, self.tab.timer]
        self.own.select(shown(self.refreshed), None, here, **QUIET)
        ticking = tab.timer.tick(shown(self.refreshed), None, here, **QUIET)
        ticking.failure(lambda: gr.Timer(active=False), None, tab.timer, **QUIET)
        tab.listed.stop(shown(self.stopped), None, here, **QUIET)
        tab.listed.resume(shown(self.resumed), None, here, **QUIET)

    def refreshed(self) -> dict:
        """What is at work first; answers are listed while they are written: the chats keep them."""
        known = self.engine.jobs.history()
        kept = [status for status in known if status.live or status.kind != ANSWER.name]
        kept.sort(key=lambda status: not status.live)
        live = any(status.live for status in kept)
        return {self.tab.listed: jobs_html(kept), self.tab.timer: gr.Timer(active=live)}

    def stopped(self, event: gr.EventData) -> dict:
        self.engine.jobs.stop(sent(event, "id"))
        return self.refreshed()

    def resumed(self, event: gr.EventData) -> dict:
        self.engine.jobs.resume(sent(event, "id"))
        return self.refreshed()

"""What the Jobs tab does: lists all jobs, stops them, takes them up again."""

import gradio as gr

from t2local.engine.engine import Engine
from t2local.engine.job_record import ANSWER
from t2local.ui.jobs.layout import JobsTab, jobs_html
from t2local.ui.messages import sent, shown

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

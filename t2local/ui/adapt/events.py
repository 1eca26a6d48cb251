"""What the Adapt tab does: reads the examples, shows a search as it goes, hands its mixture over.

A search is a job of the engine's: the page holds its id alone, and a timer asks how it stands. So
a reload, a second tab and a restarted server show the same search with its settings.
"""

from pathlib import Path

import gradio as gr

from t2local import paths, plots
from t2local.adapt.answer_stream import FEW_SHOT
from t2local.adapt.cem import LIGHT, MOST_SHOTS, CEMConfig
from t2local.adapt.few_shot import Generation
from t2local.engine.engine import Engine
from t2local.engine.job_record import SEARCH
from t2local.engine.searches import SearchPlan, few_examples
from t2local.errors import T2LocalError
from t2local.html import signed
from t2local.plots import theme
from t2local.progress import FAILED, FINISHED, INTERRUPTED
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import Example
from t2local.tasks.uploads import keep_text, read_upload, suggest_reward
from t2local.ui.adapt.layout import QUICK, THOROUGH, AdaptTab
from t2local.ui.chat.layout import ChatTab
from t2local.ui.chat.wheel import mixer_update
from t2local.ui.forms import bind_consent
from t2local.ui.messages import moment, shown
from t2local.ui.style import PAGE, note_html, quiet_html

QUIET = {"show_progress": "hidden"}
CHAT = "chat"
SHOWN = 20  # examples listed
NO_ROWS = "There are no examples yet; type some, or choose a file."


class AdaptEvents:
    """Binds an `AdaptTab` to an engine. `tabs`: the page's, to go to the chat."""

    def __init__(self, engine: Engine, tab: AdaptTab, chat: ChatTab, tabs: gr.Tabs) -> None:
        self.engine, self.tab, self.chat, self.tabs = engine, tab, chat, tabs

    def bind(self, own: gr.Tab) -> None:
        """`own`: the tab's own, to see it being opened."""
        tab, wheel = self.tab, self.chat.wheel
        looked = [tab.path, tab.rows, tab.reward, tab.name, tab.start]
        tab.file.upload(shown(self.uploaded), {tab.file}, looked, **QUIET)
        tab.use_typed.click(shown(self.typed), {tab.typed}, looked, **QUIET)
        bind_consent(
            tab.consent, [tab.reward], lambda name: bool(name) and REWARDS[name].runs_programs
        )
        settings = [
            tab.path, tab.reward, tab.effort, tab.sharing, tab.objective, tab.normalised, tab.seed,
        ]  # fmt: skip
        live = [
            tab.search, tab.status, tab.cloud, tab.best, tab.start, tab.stop, tab.keep, tab.timer,
        ]  # fmt: skip
        everything = [*live, *settings, tab.rows, tab.name]
        tab.start.click(shown(self.searched), {*settings, tab.name}, live, **QUIET)
        tab.stop.click(shown(self.stopped), {tab.search}, live, **QUIET)
        ticking = tab.timer.tick(shown(self.ticked), {tab.search}, live, **QUIET)
        ticking.failure(lambda: gr.Timer(active=False), None, tab.timer, **QUIET)
        tab.search.input(shown(self.picked), {tab.search}, everything, **QUIET)
        own.select(shown(self.opened), {tab.search}, everything, **QUIET)
        arrived = [self.tabs, wheel.strategy, wheel.mixer]
        tab.use.click(shown(self.used), {tab.search, tab.name}, arrived, **QUIET)

    # the examples ----------------------------------------------------------------------------

    def uploaded(self, values: dict) -> dict:
        return self._look(values[self.tab.file])

    def typed(self, values: dict) -> dict:
        return self._look(str(keep_text(values[self.tab.typed] or "")))

    def _look(self, path: str) -> dict:
        if not path:
            raise T2LocalError(NO_ROWS)
        tab, rows = self.tab, few_examples(path, "")
        name = paths.slug(Path(path).stem).replace("_", "-")
        return {
            tab.path: path,
            tab.rows: examples_html(path, rows),
            tab.reward: suggest_reward(rows)[0],
            tab.name: name,
            tab.start: gr.Button(interactive=True),
        }

    # the search ------------------------------------------------------------------------------

    def opened(self, values: dict) -> dict:
        """The search in progress, or the newest, where the page shows none yet."""
        if values[self.tab.search]:
            return self._present(values[self.tab.search])
        found = self.engine.jobs.newest(SEARCH, self.engine.searches.report)
        return self._show(found) if found else {self.tab.status: gr.skip()}

    def picked(self, values: dict) -> dict:
        return self._show(values[self.tab.search])

    def searched(self, values: dict) -> dict:
        if not values[self.tab.path]:
            raise T2LocalError(NO_ROWS)
        name = (values[self.tab.name] or "").strip() or "mixture"
        source, reward = values[self.tab.path], values[self.tab.reward]
        id = self.engine.searches.start(SearchPlan(name, source, reward, self._config(values)))
        return {self.tab.search: self._listed(id), **self._present(id)}

    def ticked(self, values: dict) -> dict:
        return self._present(values[self.tab.search])

    def stopped(self, values: dict) -> dict:
        self.engine.jobs.stop(values[self.tab.search])
        return self._present(values[self.tab.search])

    def _show(self, id: str) -> dict:
        """A search with the settings and the examples it was begun with."""
        tab, report = self.tab, self.engine.searches.report(id)
        plan, config = report.plan, report.plan.config
        update = {
            tab.search: self._listed(id),
            tab.reward: plan.reward,
            tab.effort: QUICK if config.shots == LIGHT["shots"] else THOROUGH,
            tab.sharing: config.sharing,
            tab.objective: config.objective,
            tab.normalised: config.normalised,
            tab.seed: config.seed,
            tab.name: plan.name,
            **self._present(id),
        }
        try:
            rows = examples_html(plan.source, few_examples(plan.source, ""))
        except T2LocalError as error:  # the rows are gone or changed; what was found stays
            gone = note_html(f"The examples of this search cannot be shown: {error}")
            return update | {tab.path: None, tab.rows: gone}
        return update | {tab.path: plan.source, tab.rows: rows}

    def _listed(self, id: str) -> gr.Dropdown:
        found = self.engine.jobs.history(SEARCH)
        choices = [(f"{status.name} · {moment(status.started_s)}", status.id) for status in found]
        return gr.Dropdown(choices=choices, value=id, visible=True)

    def _present(self, id: str) -> dict:
        """How a search stands."""
        tab, report = self.tab, self.engine.searches.report(id)
        seen, status = report.generations, report.status
        begun = quiet_html("Trying the first mixtures …")
        words = status_html(seen[-1]) if seen else begun if status.live else ""
        if status.stage in (FAILED, INTERRUPTED) or (status.live and status.message):
            words += note_html(status.message)
        return {
            tab.status: words,
            tab.cloud: plots.plot_cloud(seen),
            tab.best: plots.plot_best(seen),
            tab.start: gr.Button(
                "Search" if status.stage == FINISHED or status.live else "Search on",
                interactive=not status.live,
            ),
            tab.stop: gr.Button(visible=status.live),
            tab.keep: gr.Column(visible=report.found is not None),
            tab.timer: gr.Timer(active=status.live),
        }

    def _config(self, values: dict) -> CEMConfig:
        tab = self.tab
        size = LIGHT if values[tab.effort] == QUICK else {"shots": MOST_SHOTS}
        return CEMConfig(
            **size,
            sharing=values[tab.sharing],
            objective=values[tab.objective],
            normalised=bool(values[tab.normalised]),
            seed=int(values[tab.seed] or 0),
        )

    # the mixture -----------------------------------------------------------------------------

    def used(self, values: dict) -> dict:
        """Keep the mixture; the chat answers with it, and its sliders stand where it is."""
        search, name = values[self.tab.search], (values[self.tab.name] or "").strip()
        found = self.engine.searches.report(search).found if search else None
        if found is None:
            raise T2LocalError("There is no mixture yet; search for one first.")
        self.engine.searches.keep(name, found)
        wheel = self.chat.wheel
        chosen = {"choices": self.engine.strategies(), "value": f"{FEW_SHOT}:{name}"}
        return {
            self.tabs: gr.Tabs(selected=CHAT),
            wheel.strategy: gr.Dropdown(**chosen),
            wheel.mixer: mixer_update(self.engine.experts(), found.mixture.alpha),
        }


def examples_html(path: str, rows: list[Example]) -> str:
    """The examples as a small table, and what could not be used."""
    file = read_upload(Path(path))
    return PAGE.render(
        "adapt.html",
        "examples",
        count=len(rows),
        note=file.note,
        bad=[(number, reason[:200]) for number, reason in file.bad_rows[:SHOWN]],
        rows=[(row.prompt[:160], row.answer[:80]) for row in rows[:SHOWN]],
    )


def status_html(now: Generation) -> str:
    """How far the search is, and the best mixture so far."""
    best = [(name, signed(a)) for name, a in zip(now.experts, now.best, strict=True)]
    return PAGE.render("adapt.html", "status", now=now, colour=theme.POSITIVE, best=best)

"""What the Adapt tab does: reads the examples, shows a search as it goes, hands its mixture over.

A search is a job of the engine's: the page holds its id alone, and a timer asks how it stands. So
a reload, a second tab and a restarted server show the same search with its settings.
"""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from t2local import paths, plots
from t2local.adapt.cem import LEAST_SHOTS, LIGHT, MOST_SHOTS, CEMConfig
from t2local.adapt.dispatch import FEW_SHOT
from t2local.adapt.few_shot import Generation
from t2local.engine.engine import Engine
from t2local.engine.job_record import SEARCH
from t2local.engine.lessons import lessons_of
from t2local.engine.recipes import recipe_of_mixture
from t2local.engine.searches import SearchPlan, check_few
from t2local.errors import T2LocalError
from t2local.experts.library import MixtureFile
from t2local.html import signed
from t2local.plots import theme
from t2local.progress import FAILED, FINISHED, INTERRUPTED
from t2local.tasks.files import ExampleFile, Look
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import Example
from t2local.tasks.uploads import kept_as_read, look_at, suggest_reward, write_rows
from t2local.ui.adapt.layout import QUICK, THOROUGH, AdaptTab
from t2local.ui.chat.layout import ChatTab
from t2local.ui.chat.recipe_panel import handed_over, presets_update
from t2local.ui.chat.wheel import mixer_update
from t2local.ui.forms import bind_consent
from t2local.ui.messages import as_text, moment, shown
from t2local.ui.own_rows import RowsEvents, trial_html
from t2local.ui.style import PAGE, SAVE_IT, note_html, quiet_html

QUIET = {"show_progress": "hidden"}
CHAT = "chat"
PREFERENCES = "what-i-preferred"  # of the rows' file, and of the mixture


class AdaptEvents:
    """Binds an `AdaptTab` to an engine. `tabs`: the page's, to go to the chat."""

    def __init__(self, engine: Engine, tab: AdaptTab, chat: ChatTab, tabs: gr.Tabs) -> None:
        self.engine, self.tab, self.chat, self.tabs = engine, tab, chat, tabs
        of_rows = [tab.reward, tab.trial, tab.name, tab.start]
        as_read = engine.training.as_read
        self.rows = RowsEvents(tab.rows, as_read, _few, self.followed, shows=of_rows)

    def bind(self, own: gr.Tab) -> None:
        """`own`: the tab's own, to see it being opened."""
        tab, wheel = self.tab, self.chat.wheel
        self.rows.bind()
        self.rows.on(
            tab.preferred.click, lambda values: self.rows.looked(values, self._preferred())
        )
        asked = {*tab.rows.given, tab.reward}
        tab.reward.input(shown(self.rewarded), asked, [tab.trial], **QUIET)
        bind_consent(
            tab.consent, [tab.reward], lambda name: bool(name) and REWARDS[name].runs_programs
        )
        settings = [
            tab.reward, tab.effort, tab.sharing, tab.objective, tab.normalised, tab.seed, tab.name,
        ]  # fmt: skip
        live = [
            tab.search, tab.status, tab.cloud, tab.best, tab.start, tab.stop, tab.keep, tab.timer,
        ]  # fmt: skip
        everything = [*live, *settings, *tab.rows.shown]
        tab.start.click(shown(self.searched), {*settings, *tab.rows.given}, live, **QUIET)
        tab.stop.click(shown(self.stopped), {tab.search}, live, **QUIET)
        ticking = tab.timer.tick(shown(self.ticked), {tab.search}, live, **QUIET)
        ticking.failure(lambda: gr.Timer(active=False), None, tab.timer, **QUIET)
        tab.search.input(shown(self.picked), {tab.search}, everything, **QUIET)
        shows = [*everything, tab.preferred]
        own.select(shown(self.opened), {tab.search}, shows, **QUIET)
        arrived = [self.tabs, wheel.strategy, wheel.mixer]
        found = {tab.search, tab.name}
        tab.use.click(shown(self.used), found, arrived, **QUIET)
        tab.recipe.click(shown(self.found_kept), found, self.chat.recipes.presets, **QUIET)
        handed = tab.recipe_file.click(shown(self.found_handed), found, tab.download, **QUIET)
        handed.success(None, tab.download, None, js=SAVE_IT)

    # the examples ----------------------------------------------------------------------------

    def followed(self, values: dict, look: Look | None) -> dict:
        """The rest of a search, where the examples can serve."""
        tab = self.tab
        if look is None or look.problem:
            return {tab.trial: "", tab.start: gr.Button(interactive=False)}
        reward, reason = suggest_reward(look.file.examples)
        return {
            tab.reward: reward,
            tab.trial: quiet_html(reason) + trial_html(reward, look.file.examples)[0],
            tab.name: paths.slug(look.path.stem).replace("_", "-"),
            tab.start: gr.Button(interactive=True),
        }

    def rewarded(self, values: dict) -> dict:
        look, reward = self.rows.look(values), values[self.tab.reward]
        if look.problem or not reward:
            return {self.tab.trial: ""}
        return {self.tab.trial: trial_html(reward, look.file.examples)[0]}

    def _preferences(self) -> Sequence[Example]:
        """The newest choices between two answers, one a question, as many as a search takes."""
        choices = lessons_of(self.engine.verdicts.all()).choices
        once: dict[str, Example] = {}
        for row in choices:  # the newest first
            once.setdefault(row.group, row)
        return list(once.values())[:MOST_SHOTS]

    def _preferred(self) -> str:
        rows = self._preferences()
        if len(rows) < LEAST_SHOTS:
            raise T2LocalError(
                f"You have preferred answers to {len(rows)} questions, a search takes at least "
                f"{LEAST_SHOTS}; vote on some pairs in the tab Arena."
            )
        return str(write_rows(rows, PREFERENCES))

    # the search ------------------------------------------------------------------------------

    def opened(self, values: dict) -> dict:
        """The search in progress, or the newest, where the page shows none yet."""
        rows = len(self._preferences())
        update = {self.tab.preferred: gr.Button(visible=rows >= LEAST_SHOTS)}
        if values[self.tab.search]:
            return update | self._present(values[self.tab.search])
        found = self.engine.jobs.newest(SEARCH, self.engine.searches.report)
        return update | (self._show(found) if found else {})

    def picked(self, values: dict) -> dict:
        return self._show(values[self.tab.search])

    def searched(self, values: dict) -> dict:
        name = (values[self.tab.name] or "").strip() or "mixture"
        look, reward = self.rows.look(values), values[self.tab.reward]
        source = kept_as_read(look, bool(values[self.tab.rows.leave_out]))
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
        return update | self.rows.present(look_at(Path(plan.source), fits=_few))

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
        name, found = self._found(values)
        self.engine.searches.keep(name, found)
        wheel = self.chat.wheel
        chosen = {"choices": self.engine.strategies(), "value": f"{FEW_SHOT}:{name}"}
        return {
            self.tabs: gr.Tabs(selected=CHAT),
            wheel.strategy: gr.Dropdown(**chosen),
            wheel.mixer: mixer_update(self.engine.experts(), found.mixture.alpha),
        }

    def found_kept(self, values: dict) -> dict:
        """The mixture as a recipe among the chat's presets."""
        preset = self.engine.recipes.save(recipe_of_mixture(*self._found(values)))
        gr.Info(as_text(f"The recipe is kept as '{preset.title}', in the chat below the wheel."))
        return presets_update(self.engine, preset.id)

    def found_handed(self, values: dict) -> str:
        recipe = recipe_of_mixture(*self._found(values))
        return handed_over(recipe, self.tab.download.GRADIO_CACHE)

    def _found(self, values: dict) -> tuple[str, MixtureFile]:
        """The name that the mixture is to have, and the mixture."""
        search, name = values[self.tab.search], (values[self.tab.name] or "").strip()
        found = self.engine.searches.report(search).found if search else None
        if found is None:
            raise T2LocalError("There is no mixture yet; search for one first.")
        return name, found


def _few(name: str, file: ExampleFile) -> None:
    check_few(file)


def status_html(now: Generation) -> str:
    """How far the search is, and the best mixture so far."""
    best = [(name, signed(a)) for name, a in zip(now.experts, now.best, strict=True)]
    return PAGE.render("adapt.html", "status", now=now, colour=theme.POSITIVE, best=best)

"""What the Train tab does: each callback reads its inputs, asks the engine, presents the answer.

The page holds nothing of a run but its name: a timer reads the run's folder again and again, so a
reload, a second tab and a restarted server show the same.
"""

import functools
from collections.abc import Callable

import gradio as gr

from t2local import plots
from t2local.adapt.dispatch import SIMILARITY, strategy_of
from t2local.engine.engine import Engine
from t2local.engine.training import RunReport
from t2local.errors import T2LocalError
from t2local.progress import FAILED, FINISHED, INTERRUPTED, PAUSED, QUEUED, RUNNING
from t2local.tasks.files import ExampleFile, Look
from t2local.tasks.rewards import REWARDS
from t2local.tasks.uploads import Draft, check_enough, keep_rows, read_draft, try_reward
from t2local.training.config import TrainConfig
from t2local.training.dry_run import FITTED, with_fitting
from t2local.training.forecast import lasting
from t2local.ui.chat.layout import ChatTab
from t2local.ui.chat.wheel import mixer_update, read_alpha
from t2local.ui.experts.layout import experts_html
from t2local.ui.forms import bind_consent
from t2local.ui.messages import shown
from t2local.ui.own_rows import RowsEvents, trial_html
from t2local.ui.style import FOLDER, note_html
from t2local.ui.train.layout import BASE_MODEL, TrainTab, try_button
from t2local.ui.train.taught import NAME, TaughtEvents
from t2local.ui.train.view import (
    NO_RUN,
    answers_html,
    begin_html,
    estimate_html,
    label,
    live_html,
    parts_html,
    reward_html,
    runs_html,
    tried_html,
    when,
)

QUIET = {"show_progress": "hidden"}
CHAT = "chat"
SHOW_RUN = "() => document.getElementById('train-run').scrollIntoView({behavior: 'smooth'})"


class TrainEvents:
    """Binds a `TrainTab` to an engine.

    `experts`: the Experts tab's component; `tabs`: the page's, to go to the chat.
    """

    def __init__(
        self, engine: Engine, tab: TrainTab, chat: ChatTab, experts: gr.HTML, tabs: gr.Tabs
    ) -> None:
        self.engine, self.training, self.chat = engine, engine.training, chat
        self.experts, self.tabs = experts, tabs
        self.data, self.step, self.live = tab.data, tab.step, tab.live
        data, step, live = tab.data, tab.step, tab.live
        self.asked = {*data.rows.given, data.share, step.reward}
        self.asked |= {step.second, step.weight}
        self.plan = {
            *self.asked, step.accept, step.begin, step.name, step.length, step.tried,
            step.forgetting,
            *step.form.all,
        }  # fmt: skip
        self.fitted = {name: step.form.components[name] for name in FITTED}
        self.weighing = [step.trial, step.accept]
        self.trial = [step.tried, step.tried_shown, step.estimate, step.measure, step.start]
        self.reasons = [
            step.reason, *self.weighing, *self.trial, *self.fitted.values(),
        ]  # fmt: skip
        of_rows = [
            data.parts, data.share, step.group, step.reward, step.begin, step.begin_said, step.name,
            *self.reasons,
        ]  # fmt: skip
        self.rows = RowsEvents(
            data.rows, engine.training.as_read, _enough, self.followed,
            [data.share, step.second, step.weight], of_rows,
        )  # fmt: skip
        self.run_shown = [
            live.run, live.status, live.pause, live.resume, live.stop, live.try_it, live.adopt,
            live.drop, live.plots,
            live.answers, live.reward, live.vitals, live.layers, live.drawn, live.timer,
            live.compared,
        ]  # fmt: skip
        self.arrived = [chat.wheel.mixer, chat.wheel.strategy, experts]

    def bind(self, page: gr.Blocks, own: gr.Tab) -> None:
        self._bind_data()
        taught = TaughtEvents(self.engine, self.data.taught)
        taught.bind(page, own, self.rows.on, self.taught)
        self._bind_step()
        live, wheel = self.live, self.chat.wheel
        here = {live.run, live.drawn, wheel.mixer, wheel.strategy}
        gr.on([page.load, own.select], shown(self.refreshed), None, self.run_shown, **QUIET)
        live.run.input(shown(self.picked), here, self.run_shown, **QUIET)
        jobs = self.training.jobs
        acts = {live.pause: jobs.pause, live.resume: jobs.resume, live.stop: jobs.stop}
        for button, act in acts.items():
            callback = functools.partial(self.acted, act)
            button.click(shown(callback), here, self.run_shown, **QUIET)
        outputs = [*self.run_shown, *self.arrived]
        for button, act in (
            (live.adopt, self.training.adopt_offered),
            (live.drop, self.training.drop_offered),
        ):
            answered = shown(functools.partial(self.answered, act))
            button.click(answered, here, [*self.run_shown, *self.arrived], **QUIET)
        ticking = live.timer.tick(shown(self.ticked), here, outputs, **QUIET)
        ticking.failure(lambda: gr.Timer(active=False), None, live.timer, **QUIET)
        laid = [live.overlay, live.table]
        live.compared.change(shown(self.laid_over), {live.compared}, laid, **QUIET)
        live.try_it.click(shown(self.tried_in_chat), here, [self.tabs, *self.arrived], **QUIET)

    def _bind_data(self) -> None:
        data = self.data
        self.rows.bind()
        for name, button in data.samples.items():
            self.rows.on(button.click, functools.partial(self.sampled, name))
        shared = [data.parts, *self.trial]
        data.share.release(shown(self.shared), self.asked, shared, **QUIET)

    def _bind_step(self) -> None:
        step = self.step
        step.reward.input(shown(self.rewarded), self.plan, self.reasons, **QUIET)
        consented = bind_consent(step.consent, [step.reward, step.second], _run_programs)
        consented.then(shown(self.weighed), self.asked, self.weighing, **QUIET)
        added = [step.second.input, step.weight.blur]
        gr.on(added, shown(self.weighed), self.asked, self.weighing, **QUIET)
        named = {step.name, step.begin}
        step.name.blur(shown(self.named), named, step.name_problem, **QUIET)
        begun = [step.begin_said, step.name, step.name_problem]
        step.begin.input(shown(self.began), self.plan, begun, **QUIET)
        for button, shown_on in ((step.try_base, step.tried_shown), (step.measure, step.estimate)):
            button.click(shown(self.tried), self.plan, self.trial, show_progress_on=shown_on)
        lengths = [step.length.input, step.forgetting.input]
        gr.on(lengths, shown(self.estimated), self.plan, step.estimate, **QUIET)
        changes = [getattr(part, "blur", part.input) for part in step.form.all]
        offered = [step.estimate, step.measure, step.start]
        gr.on(changes, shown(self.changed), self.plan, offered, **QUIET)
        step.start.click(
            shown(self.started), self.plan, self.run_shown, show_progress_on=self.live.status
        ).success(None, None, None, js=SHOW_RUN)

    # the rows ------------------------------------------------------------------------------

    def sampled(self, name: str, values: dict) -> dict:
        return self.rows.looked(values, str(FOLDER / "samples" / f"{name}.csv"))

    def taught(self, values: dict, path: str) -> dict:
        """Rows from chats: the expert that they made before goes on, where there is one."""
        step, update = self.step, self.rows.looked(values, path)
        name = NAME if NAME in self.training.begins() else ""
        return {**update, step.begin: self._begins(name), step.name: NAME}

    def shared(self, values: dict) -> dict:
        """Another part of the rows is held out: what was tried is not valid any more."""
        parts = parts_html(self._draft(values), values[self.data.share])
        return {self.data.parts: parts, **self._untried()}

    def followed(self, values: dict, look: Look | None) -> dict:
        """The steps after the rows, where rows can be learnt from."""
        data, step = self.data, self.step
        if look is None or look.problem:
            return {
                data.parts: "",
                data.share: gr.Slider(visible=False),
                step.group: gr.Column(visible=False),
            }
        draft = read_draft(str(look.path), look.wanted)
        reward = draft.suggestion.reward
        return {
            data.parts: parts_html(draft, values[data.share]),
            data.share: gr.Slider(visible=True),
            step.group: gr.Column(visible=True),
            step.reward: reward,
            **self._reasons(draft, {**values, step.reward: reward}),
            step.begin: self._begins(),
            step.begin_said: "",
            step.name: draft.name.replace("_", "-"),
        }

    def _begins(self, chosen: str = "") -> gr.Dropdown:
        """What a run may start from: the base model, or an expert of the person's own."""
        own = self.training.begins()
        return gr.Dropdown(choices=[BASE_MODEL, *own], value=chosen, visible=bool(own))

    def began(self, values: dict) -> dict:
        """From an expert: what becomes of its own rows, and its name for the new version."""
        step, start = self.step, values[self.step.begin]
        if not start:
            return {step.begin_said: "", step.name_problem: self.named(values)}
        config, source = step.form.read(values), self._kept(values)
        found = self.training.going_on(start, start, source, self._reward(values), config)
        return {
            step.begin_said: begin_html(start, found.words),
            step.name: start,
            step.name_problem: "",
        }

    def _draft(self, values: dict) -> Draft:
        rows = self.data.rows
        return read_draft(values[rows.path], values[rows.wanted])

    def _kept(self, values: dict) -> str:
        leave_out = bool(values[self.data.rows.leave_out])
        return str(keep_rows(self._draft(values), values[self.step.reward], leave_out))

    # the run to be -------------------------------------------------------------------------

    def rewarded(self, values: dict) -> dict:
        return self._reasons(self._draft(values), values)

    def weighed(self, values: dict) -> dict:
        """What answers known to be right or wrong earn; a fault has to be accepted."""
        return self._weighed(self._draft(values), values)

    def _weighed(self, draft: Draft, values: dict) -> dict:
        html, problem = trial_html(self._reward(values), draft.file.examples)
        accept = gr.Checkbox(value=False, visible=bool(problem))
        return {self.step.trial: html, self.step.accept: accept}

    def tried(self, values: dict) -> dict:
        step, config = self.step, self.step.form.read(values)
        tried = self.training.dry_run_report(self._kept(values), self._reward(values), config)
        return {
            step.tried: tried,
            step.tried_shown: tried_html(tried),
            step.estimate: self.estimated({**values, step.tried: tried}),
            step.measure: gr.Button(visible=False),
            step.start: gr.Button(visible=True),
        }

    def estimated(self, values: dict) -> str:
        step, config = self.step, self.step.form.read(values)
        tried, forgetting = values[step.tried], values[step.forgetting]
        planned = lasting(values[step.length], tried, config, forgetting) if tried else config
        return estimate_html(tried, planned, forgetting)

    def changed(self, values: dict) -> dict:
        """Another number: how long it takes has to be seen anew, unless it was seen before."""
        step, known = self.step, False
        if values[step.tried]:
            asked = self._kept(values), self._reward(values), step.form.read(values)
            known = self.training.is_tried(*asked)
        return {
            step.estimate: self.estimated(values),
            step.measure: gr.Button(visible=not known),
            step.start: gr.Button(visible=known),
        }

    def named(self, values: dict) -> str:
        """Why a name cannot be, under its field."""
        try:
            name = (values[self.step.name] or "").strip()
            self.training.check_name(name, values[self.step.begin] or "")
        except T2LocalError as error:
            return note_html(str(error))
        return ""

    def started(self, values: dict) -> dict:
        step, source, config = self.step, self._kept(values), self.step.form.read(values)
        self._check_gold(values)
        name, reward, length = (
            (values[step.name] or "").strip(),
            self._reward(values),
            values[step.length],
        )
        if not self.training.is_tried(source, reward, config):
            raise T2LocalError(
                "These numbers were not tried out yet; press "
                f"'{step.try_base.value}' to see how long it takes."
            )
        start, forgetting = values[step.begin] or "", values[step.forgetting]
        run = self.training.start(
            name, source, reward, length, config, start, forgetting=forgetting
        )
        return self._show(run)

    def _check_gold(self, values: dict) -> None:
        """Raise `T2LocalError` where training would teach the wrong thing, unless accepted."""
        problem = try_reward(self._reward(values), self._draft(values).file.examples).problem
        if problem and not values[self.step.accept]:
            label = self.step.accept.label
            raise T2LocalError(f"{problem} Or tick '{label}' under the reward.")

    def _reasons(self, draft: Draft, values: dict) -> dict:
        """What a reward that was not tried yet brings with it."""
        step, reward = self.step, self._reward({**values, self.step.second: ""})
        fitted = vars(with_fitting({}, reward, draft.file.examples))
        return {
            step.reason: reward_html(draft, reward),
            **self._weighed(draft, values),
            **{part: fitted[name] for name, part in self.fitted.items()},
            **self._untried(),
        }

    def _untried(self) -> dict:
        step = self.step
        return {
            step.tried: None,
            step.tried_shown: "",
            step.estimate: estimate_html(None, TrainConfig()),
            step.measure: gr.Button(visible=True),
            step.start: gr.Button(visible=False),
        }

    def _reward(self, values: dict) -> str:
        """The reward, or the sum of the two."""
        step, reward = self.step, values[self.step.reward]
        if not reward:
            raise T2LocalError("No reward is chosen; choose what counts as right.")
        if not values[step.second]:
            return reward
        return f"{reward}+{float(values[step.weight] or 0):g}*{values[step.second]}"

    # the run as it goes --------------------------------------------------------------------

    def refreshed(self) -> dict:
        """A page that is opened, or comes to this tab, finds the run in progress."""
        run = self.training.current()
        return self._show(run) if run else {self.live.status: NO_RUN}

    def picked(self, values: dict) -> dict:
        return self._show(self._run(values))

    def acted(self, act: Callable[[str], None], values: dict) -> dict:
        act(self._run(values))
        return self._show(self._run(values))

    def ticked(self, values: dict) -> dict:
        report = self.training.report(self._run(values))
        update = self._present(report, values[self.live.drawn])
        if report.live:
            return update
        wheel = self.chat.wheel
        return update | self._arrive(
            read_alpha(values[wheel.mixer]),
            self._finding(report, values[wheel.strategy]),
        )

    def _finding(self, report: RunReport, strategy: str) -> str | None:
        """The strategy that finds a run's new expert; None where a person decides, or none does."""
        names = {e.name for e in self.engine.experts() if e.prompts}
        made = report.status.stage == FINISHED and report.status.name in names
        asks = strategy_of(strategy).asks
        return SIMILARITY if made and asks and SIMILARITY in self.engine.strategies() else None

    def tried_in_chat(self, values: dict) -> dict:
        """The chat with this expert alone at α = 1, or with what it is so far, chosen by hand."""
        report, strategy = self.training.report(self._run(values)), "manual"
        waits, name = report.live or report.offered, report.result.get("expert")
        if waits or not name:
            name = self.engine.draft(self._run(values)) if waits else report.status.name
        return {self.tabs: gr.Tabs(selected=CHAT), **self._arrive({name: 1.0}, strategy)}

    def answered(self, act: Callable[[str], object], values: dict) -> dict:
        """Adopt or drop what a run offers; the chat and the tab Experts follow."""
        act(self._run(values))
        alpha = read_alpha(values[self.chat.wheel.mixer])
        return {**self._show(self._run(values)), **self._arrive(alpha)}

    def _run(self, values: dict) -> str:
        """The run that is shown."""
        if not values[self.live.run]:
            raise T2LocalError("No run is chosen; choose one from the list, or start one.")
        return values[self.live.run]

    def laid_over(self, values: dict) -> dict:
        reports = self.training.reports(values[self.live.compared] or [])
        curves = [(label(report), report.curves) for report in reports]
        return {self.live.overlay: plots.plot_runs(curves), self.live.table: runs_html(reports)}

    def _arrive(self, alpha: dict, strategy: str | None = None) -> dict:
        """The chat's sliders and the Experts tab with the experts there are now."""
        experts, wheel = self.engine.experts(), self.chat.wheel
        chosen = {"value": strategy} if strategy else {}
        return {
            wheel.mixer: mixer_update(experts, alpha),
            wheel.strategy: gr.Dropdown(choices=self.engine.strategies(), **chosen),
            self.experts: experts_html(experts),
        }

    def _show(self, run: str) -> dict:
        """A run and the list of all, drawn anew."""
        choices = [(f"{name} · {when(folder)}", folder) for name, folder in self.training.runs()]
        listed = gr.Dropdown(choices=choices, value=run, visible=True)
        several = gr.Dropdown(choices=choices)
        return {
            self.live.run: listed,
            self.live.compared: several,
            **self._present(self.training.report(run), ()),
        }

    def _present(self, report: RunReport, drawn: tuple) -> dict:
        live, stage, run = self.live, report.status.stage, report.curves
        now = (report.status.id, len(run.answers), len(run.checks), len(run.steps))
        update = {
            live.status: live_html(report),
            live.pause: gr.Button(visible=stage == RUNNING),
            live.resume: gr.Button(visible=stage in (PAUSED, INTERRUPTED, FAILED)),
            live.stop: gr.Button(visible=stage in (QUEUED, RUNNING, PAUSED)),
            live.try_it: try_button(report),
            live.adopt: gr.Button(visible=report.offered),
            live.drop: gr.Button(visible=report.offered),
            live.plots: gr.Column(visible=bool(run.steps)),
            live.drawn: now,
            live.timer: gr.Timer(active=report.live),
        }
        if now[:2] != drawn[:2]:  # sent again, what a person has unfolded would fold
            update[live.answers] = answers_html(run)
        if now != drawn:
            update |= {
                live.reward: plots.plot_reward(run),
                live.vitals: plots.plot_vitals(run),
                live.layers: plots.plot_layers(run.change_by_layer),
            }
        return update


def _enough(name: str, file: ExampleFile) -> None:
    check_enough(name, file.examples, file.bad_rows)


def _run_programs(*rewards: str | None) -> bool:
    return any(REWARDS[name].runs_programs for name in rewards if name)

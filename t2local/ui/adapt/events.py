"""What the Adapt tab does: reads the examples, shows a search as it goes, hands its mixture over.

A search belongs to the browser tab that began it; stopped or left, it is kept, and the same request
goes on from there.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from t2local import paths, plots
from t2local.adapt.answer_stream import FEW_SHOT
from t2local.adapt.cem import LEAST_SHOTS, LIGHT, MOST_SHOTS, CEMConfig
from t2local.adapt.few_shot import Generation
from t2local.errors import Cancelled, T2LocalError
from t2local.experts.mixture_file import MixtureFile
from t2local.plots import theme
from t2local.progress import CancelToken
from t2local.tasks.rows import Example
from t2local.tasks.uploads import keep_text, read_upload, suggest_reward, with_choices
from t2local.ui.adapt.layout import QUICK, AdaptTab
from t2local.ui.chat.layout import ChatTab
from t2local.ui.chat.view import signed
from t2local.ui.chat.wheel import mixer_update
from t2local.ui.messages import shown

QUIET = {"show_progress": "hidden"}
CHAT = "chat"
SHOWN = 20  # examples listed
CHOICE = "choice"


class AdaptEvents:
    """Binds an `AdaptTab` to an engine's `adapting` desk. `tabs`: the page's, to go to the chat."""

    def __init__(self, engine: Any, tab: AdaptTab, chat: ChatTab, tabs: gr.Tabs) -> None:
        self.engine, self.tab, self.chat, self.tabs = engine, tab, chat, tabs
        self._running: dict[str, CancelToken] = {}

    def bind(self) -> None:
        tab, wheel = self.tab, self.chat.wheel
        looked = [tab.path, tab.rows, tab.reward, tab.name, tab.start]
        tab.file.upload(shown(self.uploaded), {tab.file}, looked, **QUIET)
        tab.use_typed.click(shown(self.typed), {tab.typed}, looked, **QUIET)
        plan = {
            tab.path, tab.reward, tab.effort, tab.sharing, tab.objective, tab.normalised, tab.seed,
        }  # fmt: skip
        live = [tab.status, tab.cloud, tab.best, tab.start, tab.stop, tab.keep, tab.found]
        tab.start.click(shown(self.searched), plan, live, **QUIET)
        tab.stop.click(self.stopped, None, None, queue=False)
        arrived = [self.tabs, wheel.strategy, wheel.mixer]
        tab.use.click(shown(self.used), {tab.found, tab.name}, arrived, **QUIET)

    # the examples ----------------------------------------------------------------------------

    def uploaded(self, values: dict) -> dict:
        return self._look(values[self.tab.file])

    def typed(self, values: dict) -> dict:
        return self._look(str(keep_text(values[self.tab.typed] or "")))

    def _look(self, path: str) -> dict:
        tab, rows = self.tab, _examples(path)
        name = paths.slug(Path(path).stem).replace("_", "-")
        return {
            tab.path: path,
            tab.rows: examples_html(path, rows),
            tab.reward: suggest_reward(rows)[0],
            tab.name: name,
            tab.start: gr.Button(interactive=True),
        }

    # the search ------------------------------------------------------------------------------

    def searched(self, values: dict, request: gr.Request) -> Iterator[dict]:
        tab, reward = self.tab, values[self.tab.reward]
        rows, config = _examples(values[tab.path]), self._config(values)
        rows = with_choices(rows) if reward == CHOICE else rows
        cancel = self._running[request.session_hash] = CancelToken()
        seen: list[Generation] = []
        work = self.engine.adapting.search(rows, reward, config, cancel)
        yield {
            tab.status: '<p class="quiet">Trying the first mixtures …</p>',
            tab.keep: gr.Column(visible=False),
            **self._acts(running=True),
        }
        try:
            while True:
                seen.append(next(work))
                yield self._drawn(seen)
        except StopIteration as end:
            file = self.engine.adapting.file_of(end.value, reward, config)
            yield {tab.found: file, tab.keep: gr.Column(visible=True), **self._acts(running=False)}
        except Cancelled:
            note = f"Stopped after generation {len(seen)}; Search goes on from there."
            yield {tab.status: f'<p class="note">{note}</p>', **self._acts(running=False)}
        except T2LocalError:
            yield {tab.status: "", **self._acts(running=False)}
            raise
        finally:
            self._running.pop(request.session_hash, None)

    def stopped(self, request: gr.Request) -> None:
        if cancel := self._running.get(request.session_hash):
            cancel.cancel()

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

    def _drawn(self, seen: list[Generation]) -> dict:
        tab = self.tab
        return {
            tab.status: status_html(seen[-1]),
            tab.cloud: plots.plot_cloud(seen),
            tab.best: plots.plot_best(seen),
        }

    def _acts(self, running: bool) -> dict:
        return {
            self.tab.start: gr.Button(interactive=not running),
            self.tab.stop: gr.Button(visible=running),
        }

    # the mixture -----------------------------------------------------------------------------

    def used(self, values: dict) -> dict:
        """Keep the mixture; the chat answers with it, and its sliders stand where it is."""
        found, name = values[self.tab.found], (values[self.tab.name] or "").strip()
        if not isinstance(found, MixtureFile):
            raise T2LocalError("There is no mixture yet; search for one first.")
        self.engine.adapting.keep(name, found)
        wheel = self.chat.wheel
        chosen = {"choices": self.engine.strategies(), "value": f"{FEW_SHOT}:{name}"}
        return {
            self.tabs: gr.Tabs(selected=CHAT),
            wheel.strategy: gr.Dropdown(**chosen),
            wheel.mixer: mixer_update(self.engine.experts(), found.mixture.alpha),
        }


def _examples(path: str | None) -> list[Example]:
    """A file's usable rows. Raises `T2LocalError` for fewer than a search needs, or more."""
    if not path:
        raise T2LocalError("There are no examples yet; type some, or choose a file.")
    rows = list(read_upload(Path(path)).examples)
    if not LEAST_SHOTS <= len(rows) <= MOST_SHOTS:
        raise T2LocalError(
            f"There are {len(rows)} usable examples; a search takes {LEAST_SHOTS} to {MOST_SHOTS}: "
            + ("add some." if len(rows) < LEAST_SHOTS else "keep those that differ most.")
        )
    return rows


def examples_html(path: str, rows: list[Example]) -> str:
    """The examples as a small table, and what could not be used."""
    file = read_upload(Path(path))
    bad, said = file.bad_rows, f'<p class="quiet">{escape(file.note)}</p>' if file.note else ""
    left = "".join(f"<li>row {n}: {escape(reason[:200])}</li>" for n, reason in bad[:SHOWN])
    note = f'<div class="note"><b>Left out</b><ul>{left}</ul></div>' if bad else ""
    cells = "".join(
        f"<tr><td>{escape(row.prompt[:160])}</td><td>{escape(row.answer[:80])}</td></tr>"
        for row in rows[:SHOWN]
    )
    return (
        f'<p class="tally"><b>{len(rows)}</b> examples</p>{said}{note}<div class="scroll">'
        "<table><thead><tr><th>prompt</th><th>answer</th></tr></thead>"
        f"<tbody>{cells}</tbody></table></div>"
    )


def status_html(now: Generation) -> str:
    """How far the search is, and the best mixture so far."""
    share = 100 * now.number / now.total
    parts = " ".join(
        f'<span class="chip" style="--c:{theme.colour(name)}">{escape(name)} {signed(alpha)}</span>'
        for name, alpha in zip(now.experts, now.best, strict=True)
    )
    tint = f"--c:{theme.POSITIVE}"
    return (
        f'<div class="bar-line" style="{tint}"><i style="width:{share:.0f}%"></i></div>'
        f'<p class="tally" data-generation="{now.number}">generation <b>{now.number}</b> of '
        f"{now.total} · best so far <b>{100 * now.best_accuracy:.0f} %</b> right</p><p>{parts}</p>"
    )

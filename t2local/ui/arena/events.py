"""What the Arena tab does: asks two contenders, hides whose answers are whose, takes the vote.

The page holds the pair's id alone; who wrote what stays in the engine until the vote.
"""

import functools
from pathlib import Path

import gradio as gr

from t2local.adapt.dispatch import BASE
from t2local.engine.arena import Battle
from t2local.engine.engine import Engine
from t2local.models.decode.sampling import Sampling
from t2local.ui.arena.layout import ArenaTab
from t2local.ui.arena.view import pair_html, standings_html
from t2local.ui.messages import shown
from t2local.ui.style import SAVE_IT

QUIET = {"show_progress": "hidden"}
FILE = "votes"


class ArenaEvents:
    """Binds an `ArenaTab` to an engine. `own`: the tab itself, to see it being opened."""

    def __init__(self, engine: Engine, tab: ArenaTab, own: gr.Tab) -> None:
        self.engine, self.tab, self.own = engine, tab, own

    def bind(self) -> None:
        tab = self.tab
        pair = [tab.pair, tab.shown, tab.acts, tab.ask, tab.stop, tab.timer]
        table = [tab.standings, tab.saving]
        asked = {tab.prompt, tab.contenders, tab.most_tokens, tab.temperature}
        opened, known = [*pair, *table, tab.contenders], {tab.pair, tab.contenders}
        self.own.select(shown(self.opened), known, opened, **QUIET)
        gr.on(
            [tab.ask.click, tab.prompt.submit], shown(self.asked), asked, [*pair, *table], **QUIET
        )
        tab.earlier.click(shown(self.earlier), {tab.prompt}, tab.prompt, **QUIET)
        tab.stop.click(shown(self.stopped), {tab.pair}, None, **QUIET)
        ticking = tab.timer.tick(shown(self.ticked), known, opened, **QUIET)
        ticking.failure(self.over, None, pair, **QUIET)
        for said, button in tab.votes.items():
            vote = functools.partial(self.voted, said=said)
            voting = button.click(shown(vote), {tab.pair}, pair, **QUIET)
            voting.success(shown(self.table), None, table, **QUIET)
        for button, as_csv in ((tab.csv, True), (tab.jsonl, False)):
            save = functools.partial(self.saved, as_csv=as_csv)
            saving = button.click(shown(save), None, tab.path, **QUIET)
            saving.success(None, tab.path, None, js=SAVE_IT)

    def opened(self, values: dict) -> dict:
        """The contenders that there are, the pair that waits for its vote, and the standings."""
        tab, ready = self.tab, self.engine.status.ready
        known = self.engine.contenders() if ready else []
        keys = [each.key for each in known]
        chosen = [key for key in values[tab.contenders] or () if key in keys]
        if len(chosen) < 2:  # the base model and the newest of all that can be trained
            chosen = [key for key in keys if key == BASE or "@" in key][:3]
        choices = [(each.label, each.key) for each in known] or [BASE]
        update = {tab.contenders: gr.CheckboxGroup(choices=choices, value=chosen or [BASE])}
        battle = None if values[tab.pair] else self.engine.arena.awaited()
        if battle is not None:
            update |= self._present(battle)
        elif not values[tab.pair]:  # once it is ready there are more contenders
            update[tab.timer] = gr.Timer(active=not ready)
        return {**update, **self.table()}

    def asked(self, values: dict) -> dict:
        tab = self.tab
        most, temperature = values[tab.most_tokens], values[tab.temperature]
        sampling = Sampling(
            max_new_tokens=int(most or 0), temperature=0.0 if temperature is None else temperature
        )
        keys = values[tab.contenders] or []
        id = self.engine.arena.start(values[tab.prompt] or "", keys, sampling)
        return self._present(self.engine.arena.battle(id))

    def earlier(self, values: dict) -> str:
        return self.engine.arena.asked_before(besides=values[self.tab.prompt] or "")

    def ticked(self, values: dict) -> dict:
        if not values[self.tab.pair]:
            return self.opened(values)
        battle = self.engine.arena.battle(values[self.tab.pair])
        return self._present(battle) | (self.table() if battle.said else {})

    def stopped(self, values: dict) -> None:
        self.engine.arena.stop(values[self.tab.pair])

    def over(self) -> dict:
        """It was stopped, or failed, which was told."""
        return self._present(None)

    def voted(self, values: dict, said: str) -> dict:
        return self._present(self.engine.arena.vote(values[self.tab.pair], said))

    def table(self) -> dict:
        found = self.engine.arena.standings()
        any_votes = bool(found.votes or found.elsewhere)
        return {
            self.tab.standings: standings_html(found),
            self.tab.saving: gr.Row(visible=any_votes),
        }

    def saved(self, as_csv: bool) -> str:
        """A copy in the folder from which the page may serve files."""
        text = self.engine.arena.export(as_csv)
        folder = Path(self.tab.path.GRADIO_CACHE) / "arena"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{FILE}.{'csv' if as_csv else 'jsonl'}"
        target.write_text(text, encoding="utf-8-sig" if as_csv else "utf-8")  # spreadsheets guess
        return str(target)

    def _present(self, battle: Battle | None) -> dict:
        tab = self.tab
        writing = battle is not None and battle.texts is None
        waits = battle is not None and battle.texts is not None and not battle.said
        return {
            tab.pair: battle.id if battle else "",
            tab.shown: pair_html(battle),
            tab.acts: gr.Row(visible=waits),
            tab.ask: gr.Button(interactive=not writing),
            tab.stop: gr.Button(visible=writing),
            tab.timer: gr.Timer(active=writing),
        }

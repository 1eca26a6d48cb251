"""What the Experts tab does: each callback reads its inputs, asks the library, presents the answer.

After every change the chat's sliders and strategies follow at once; a renamed expert keeps its α.
"""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from t2local import plots
from t2local.engine.engine import Engine
from t2local.errors import T2LocalError
from t2local.ui.chat.layout import ChatTab
from t2local.ui.chat.wheel import mixer_update, read_alpha
from t2local.ui.experts.layout import ExpertsTab
from t2local.ui.experts.view import experts_html, picked_html, trash_html
from t2local.ui.messages import as_text, sent, shown
from t2local.ui.style import SAVE_IT

QUIET = {"show_progress": "hidden"}
CHAT = "chat"
SHOW_PANEL = "() => document.getElementById('compare-panel')?.scrollIntoView({block: 'start'})"


class ExpertsEvents:
    """Binds an `ExpertsTab` to an engine. `tabs`: the page's, to go to the chat."""

    def __init__(self, engine: Engine, tab: ExpertsTab, chat: ChatTab, tabs: gr.Tabs) -> None:
        self.engine, self.tab, self.wheel, self.tabs = engine, tab, chat.wheel, tabs
        self.inputs = {tab.picked, tab.name, self.wheel.mixer, self.wheel.strategy}
        self.panel = [tab.picked, tab.panel, tab.table, tab.likeness, tab.curves]
        self.here = [tab.cards, tab.trash, *self.panel]
        self.outputs = [*self.here, tab.name, self.wheel.mixer, self.wheel.strategy]

    def bind(self, page: gr.Blocks, own: gr.Tab) -> None:
        tab = self.tab
        gr.on([page.load, own.select], shown(self.refreshed), {tab.picked}, self.here, **QUIET)
        changes = {
            tab.cards.rename: self.renamed,
            tab.cards.duplicate: self.duplicated,
            tab.cards.remove: self.removed,
            tab.cards.note_prompts: self.noted,
            tab.cards.forgotten: self.forgotten,
            tab.cards.go_back: self.went_back,
            tab.trash.restore: self.restored,
        }
        for trigger, callback in changes.items():
            trigger(shown(callback), self.inputs, self.outputs, **QUIET)
        tab.add.upload(shown(self.added), {*self.inputs, tab.add}, self.outputs, **QUIET)
        for trigger in (tab.cards.compare, tab.table.compare):
            outputs = [tab.cards, *self.panel]
            comparing = trigger(shown(self.compared), {tab.picked}, outputs, **QUIET)
            comparing.success(None, None, None, js=SHOW_PANEL)
        outputs = [self.tabs, self.wheel.mixer, self.wheel.strategy]
        tab.cards.try_it(shown(self.tried), None, outputs, **QUIET)
        # Not called `share`, which gradio keeps for itself.
        sharing = tab.cards.hand_over(shown(self.shared), None, tab.download, **QUIET)
        sharing.success(None, tab.download, None, js=SAVE_IT)

    # changes -------------------------------------------------------------------------------

    def renamed(self, values: dict, event: gr.EventData) -> dict:
        old = sent(event, "name")
        new = self.engine.library.rename(old, sent(event, "to"))
        picked = [new if name == old else name for name in values[self.tab.picked]]
        alpha = read_alpha(values[self.wheel.mixer])
        alpha = {new if name == old else name: a for name, a in alpha.items()}
        return self._after(values, picked=picked, alpha=alpha)

    def duplicated(self, values: dict, event: gr.EventData) -> dict:
        self.engine.library.duplicate(sent(event, "name"))
        return self._after(values)

    def noted(self, values: dict, event: gr.EventData) -> dict:
        """The prompts that an expert was trained on: from now on similarity finds it."""
        name = sent(event, "name")
        prompts = self.engine.library.note_prompts(name)
        gr.Info(as_text(f"'{name}' is found by similarity from now on, by {prompts} prompts."))
        return self._after(values)

    def forgotten(self, values: dict, event: gr.EventData) -> dict:
        """What an expert does to others' tasks, in the background."""
        name = sent(event, "name")
        self.engine.see_forgotten(name)
        gr.Info(
            as_text(f"'{name}' is measured on the tasks of others; the tab Jobs shows how far.")
        )
        return self._after(values)

    def went_back(self, values: dict, event: gr.EventData) -> dict:
        """The version before takes an expert's place; pressed again, it is as it was."""
        name = sent(event, "name")
        self.engine.library.back(name)
        gr.Info(as_text(f"'{name}' is what it was before its last training; again goes forth."))
        return self._after(values)

    def removed(self, values: dict, event: gr.EventData) -> dict:
        name = sent(event, "name")
        self.engine.library.delete(name)
        return self._after(values, just_deleted=name)

    def restored(self, values: dict, event: gr.EventData) -> dict:
        wanted = sent(event, "name")
        name = self.engine.library.restore(wanted)
        if name != wanted:
            gr.Info(as_text(f"'{wanted}' is taken; it is back as '{name}'."))
        return self._after(values)

    def added(self, values: dict) -> dict:
        if not values[self.tab.add]:
            raise T2LocalError("No file was given; choose an expert's file.")
        name = (values[self.tab.name] or "").strip() or None
        name, warning = self.engine.library.import_file(values[self.tab.add], name)
        gr.Info(as_text(f"'{name}' was added. {warning}".strip()))
        return {**self._after(values), self.tab.name: ""}

    # the rest ------------------------------------------------------------------------------

    def refreshed(self, values: dict) -> dict:
        return self._present(values[self.tab.picked])

    def compared(self, values: dict, event: gr.EventData) -> dict:
        """Put an expert beside the others, or take it away again."""
        asked = sent(event, "name")
        picked = [name for name in values[self.tab.picked] if name != asked]
        if len(picked) == len(values[self.tab.picked]):
            picked = [*picked, asked]
        return {
            self.tab.cards: experts_html(self.engine.experts(), picked),
            **self._compare(picked),
        }

    def tried(self, event: gr.EventData) -> dict:
        """The chat with this expert alone at α = 1, chosen by hand."""
        return {
            self.tabs: gr.Tabs(selected=CHAT),
            self.wheel.mixer: mixer_update(self.engine.experts(), {sent(event, "name"): 1.0}),
            self.wheel.strategy: gr.Dropdown(choices=self.engine.strategies(), value="manual"),
        }

    def shared(self, event: gr.EventData) -> str:
        """One file in the folder from which the page may serve files."""
        folder = Path(self.tab.download.GRADIO_CACHE) / "experts"
        folder.mkdir(parents=True, exist_ok=True)
        return str(self.engine.library.share(sent(event, "name"), folder))

    def _after(
        self,
        values: dict,
        *,
        picked: Sequence[str] | None = None,
        alpha: dict[str, float] | None = None,
        just_deleted: str | None = None,
    ) -> dict:
        """Everything that shows experts, with those there are now."""
        strategies, strategy = self.engine.strategies(), values[self.wheel.strategy]
        strategy = strategy if strategy in strategies else strategies[0]
        alpha = read_alpha(values[self.wheel.mixer]) if alpha is None else alpha
        return {
            **self._present(values[self.tab.picked] if picked is None else picked, just_deleted),
            self.wheel.mixer: mixer_update(self.engine.experts(), alpha),
            self.wheel.strategy: gr.Dropdown(choices=strategies, value=strategy),
        }

    def _present(self, picked: Sequence[str], just_deleted: str | None = None) -> dict:
        experts = self.engine.experts()
        there = [name for name in picked if name in {expert.name for expert in experts}]
        deleted = self.engine.library.deleted() if self.engine.status.ready else []
        return {
            self.tab.cards: experts_html(experts, there),
            self.tab.trash: trash_html(deleted, just_deleted),
            **self._compare(there),
        }

    def _compare(self, picked: Sequence[str]) -> dict:
        tab, compared = self.tab, None
        if len(picked) > 1:
            compared = self.engine.library.compare(picked)
        return {
            tab.picked: list(picked),
            tab.panel: gr.Column(visible=bool(picked)),
            tab.table: picked_html(picked, compared),
            tab.likeness: plots.plot_likeness(compared) if compared else None,
            tab.curves: plots.plot_reward_curves(compared) if compared else None,
        }

"""`build_app(engine)`: the whole page, from small tabs. The engine may still be loading.

The page asks the engine's status twice a second until it is ready, then fills in what depends on
the model: strategies, sliders, experts, the last chat's settings.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from t2local.engine.chats import Chat
from t2local.errors import T2LocalError
from t2local.ui.adapt.events import AdaptEvents
from t2local.ui.adapt.layout import create_adapt_tab
from t2local.ui.chat.events import ChatEvents, WheelEvents
from t2local.ui.chat.layout import ChatTab, create_chat_tab, message_update
from t2local.ui.evaluate.events import EvaluateEvents
from t2local.ui.evaluate.layout import create_evaluate_tab
from t2local.ui.experts.events import ExpertsEvents
from t2local.ui.experts.layout import create_experts_tab
from t2local.ui.experts.view import experts_html
from t2local.ui.messages import as_text, shown
from t2local.ui.models.events import ModelsEvents
from t2local.ui.models.layout import create_models_tab
from t2local.ui.style import FOLDER, PAGE, asset, header_html, page_theme
from t2local.ui.train.events import CHAT, TrainEvents
from t2local.ui.train.layout import create_train_tab

POLL_S, IDLE_POLL_S = 0.5, 4.0  # while a model is loaded; to see that another page changes it
TITLE = "t2local"
STYLES = (
    "page.css", "chat.css", "train.css", "experts.css", "adapt.css", "evaluate.css", "models.css",
)  # fmt: skip
NO_MODEL = -1


class Page(gr.Blocks):
    """Blocks that bring their own looks to `launch`, however they are launched.

    `served`: folders whose files the page shows.
    """

    served: tuple[Path, ...] = ()

    def launch(self, *args: Any, **options: Any) -> Any:
        looks = {
            "theme": page_theme(),
            # in the head, because gradio rewrites the selectors of `css`
            "head": PAGE.render("page.html", "head", styles=Markup("".join(map(asset, STYLES)))),
            "js": f"() => {{ {asset('page.js')} }}",
            "favicon_path": FOLDER / "favicon.svg",
            "footer_links": [],
            "share": False,
            "allowed_paths": [str(folder) for folder in self.served],
            "ssr_mode": False,
        }
        return super().launch(*args, **{**looks, **options})


def build_app(engine: Any) -> Page:
    """The page of one engine; `engine.start()` may be called before or after."""
    with Page(title=TITLE, fill_width=True, fill_height=True, analytics_enabled=False) as page:
        page.served = (engine.chats.pictures_folder,)
        header = gr.HTML(
            header_html(engine.status), elem_id="header", apply_default_css=False, js_on_load=None
        )
        timer = gr.Timer(POLL_S)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Chat", id=CHAT):
                tab = create_chat_tab(engine.status)
            with gr.Tab("Train", id="train") as train_shown:
                train = create_train_tab()
            with gr.Tab("Adapt", id="adapt-tab") as adapt_shown:
                adapt = create_adapt_tab()
            with gr.Tab("Experts") as experts_shown:
                experts = create_experts_tab(engine)
            with gr.Tab("Evaluate") as evaluate_shown:
                evaluate = create_evaluate_tab()
            with gr.Tab("Models") as models_shown:
                models = create_models_tab()
        chat_events = ChatEvents(engine, tab)
        chat_events.bind()
        WheelEvents(engine, tab).bind(chat_events.streams)
        TrainEvents(engine, train, tab, experts.cards, tabs).bind(page, train_shown)
        ExpertsEvents(engine, experts, tab, tabs).bind(page, experts_shown)
        AdaptEvents(engine, adapt, tab, tabs).bind(adapt_shown)
        EvaluateEvents(engine, evaluate, evaluate_shown).bind()
        ModelsEvents(engine, models, models_shown, tabs, timer).bind()
        _Opening(engine, tab, chat_events, header, experts.cards, timer).bind(page)
    return page


class _Opening:
    """A page being opened, and its wait for the model."""

    def __init__(
        self, engine: Any, tab: ChatTab, chat_events: ChatEvents, header: gr.HTML, experts: gr.HTML,
        timer: gr.Timer,
    ) -> None:  # fmt: skip
        self.engine, self.tab, self.chat_events = engine, tab, chat_events
        self.header, self.experts, self.timer = header, experts, timer
        self.serial = gr.State(NO_MODEL)

    def bind(self, page: Page) -> None:
        tab, quiet = self.tab, {"show_progress": "hidden"}
        status = [self.header, self.timer, self.serial, tab.message, tab.send]
        chat = [*self.chat_events.shown_chat, *self.chat_events.chat_outputs, self.experts]
        outputs = list(dict.fromkeys([*status, *chat]))
        page.load(shown(self.opened), {tab.last_chat}, outputs, **quiet)
        self.timer.tick(shown(self.polled), {tab.chat_id, self.serial}, outputs, **quiet)
        page.unload(self.chat_events.stop)

    def opened(self, values: dict) -> dict:
        """A new page shows the last chat of this browser, once whoever answers it has saved."""
        update = {**self.chat_events.open(self._last_chat(values)), **self._status()}
        for reason in self.engine.chats.damaged.values():
            gr.Warning(as_text(reason), title="One chat was skipped")
        return update | self._experts()

    def _last_chat(self, values: dict) -> Chat:
        last = values[self.tab.last_chat]
        if last is None:
            return self.engine.chats.new()
        self.engine.chats.settle(last)
        try:
            return self.engine.chats.load_or_new(last)
        except T2LocalError:  # damaged, which the list reports
            return self.engine.chats.new()

    def polled(self, values: dict) -> dict:
        """While a model is loaded how far it is; then the page follows the new one, once."""
        status = self.engine.status
        if status.ready and values[self.serial] == status.serial:
            return {self.serial: status.serial, self.header: header_html(status)}
        update = self._status()
        if not status.ready:
            return update
        if status.note and status.serial:
            gr.Warning(as_text(status.note), title="About the model")
        chat = self.engine.chats.load_or_new(values[self.tab.chat_id])
        return {**self.chat_events.open(chat), **update, **self._experts()}

    def _status(self) -> dict:
        status, tab = self.engine.status, self.tab
        waiting = not status.ready and status.error is None
        return {
            self.header: header_html(status),
            self.timer: gr.Timer(POLL_S if waiting else IDLE_POLL_S, active=True),
            self.serial: status.serial if status.ready else NO_MODEL,
            tab.message: message_update(status),
            tab.send: gr.Button(interactive=status.ready, visible=True),
        }

    def _experts(self) -> dict:
        return {self.experts: experts_html(self.engine.experts())}

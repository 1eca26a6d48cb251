"""`build_app(engine)`: the whole page, from the tabs of one list. The engine may still be loading.

`Pages`: one for each account, at a seat of its own.

A new tab is a folder of its own (`layout`, `events`, `view`) and one entry in `TABS`.
The page asks the engine's status twice a second until it is ready, then fills in what depends on
the model: strategies, sliders, experts, the last chat's settings.
"""

import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from t2local import paths
from t2local.engine.access import ACCOUNT
from t2local.engine.chat_content import Chat
from t2local.engine.chats import ChatStore
from t2local.engine.doors import Doors
from t2local.engine.engine import Engine, Seat
from t2local.engine.people import Account
from t2local.engine.requests import EngineStatus
from t2local.errors import T2LocalError
from t2local.ui.adapt.events import AdaptEvents
from t2local.ui.adapt.layout import create_adapt_tab
from t2local.ui.arena.events import ArenaEvents
from t2local.ui.arena.layout import create_arena_tab
from t2local.ui.chat.events import ChatEvents
from t2local.ui.chat.layout import ChatTab, create_chat_tab, message_update
from t2local.ui.chat.steering import WheelEvents
from t2local.ui.evaluate.events import EvaluateEvents
from t2local.ui.evaluate.layout import create_evaluate_tab
from t2local.ui.experts.events import ExpertsEvents
from t2local.ui.experts.layout import create_experts_tab
from t2local.ui.experts.view import experts_html
from t2local.ui.forms import check_own_files, check_sent
from t2local.ui.jobs_tab import JobsEvents, create_jobs_tab
from t2local.ui.label.events import LabelEvents
from t2local.ui.label.layout import create_label_tab
from t2local.ui.messages import OTHER_THAN_A_PAGE, as_message, as_text, shown
from t2local.ui.models.events import ModelsEvents, OfferEvents
from t2local.ui.models.layout import create_models_tab
from t2local.ui.style import FOLDER, PAGE, asset, header_html, login_html, page_theme, quiet_html
from t2local.ui.train.events import CHAT, TrainEvents
from t2local.ui.train.layout import create_train_tab

POLL_S, IDLE_POLL_S = 0.5, 4.0  # while a model is loaded; to see that another page changes it
TITLE = "t2local"
GRADIO_FOLDER = "GRADIO_TEMP_DIR"  # where a page that is built keeps its uploads
LOG = logging.getLogger(__name__)
NO_MODEL = -1
MOST_WARNINGS = 3  # at once
SCRIPTS = ("page.js", "keys.js", "figures.js")
# A reload keeps a browser tab's own chat, whatever the other tabs have opened since. What all share
# changes once before the page is opened, when it is read. A link with a recipe opens a new chat.
OWN_CHAT = """(last) => {
  const there = new URLSearchParams(location.search), asked = there.get("chat");
  const own = there.has("recipe") ? null : asked ?? sessionStorage.getItem("t2local-chat") ?? last;
  if (own) sessionStorage.setItem("t2local-chat", own);
  window.t2localOpened = true;
  return own;
}"""
# Each chat has an address of its own; the first one takes the place of the bare one.
KEEP_CHAT = """(id) => {
  if (!id || !window.t2localOpened) return;
  sessionStorage.setItem("t2local-chat", id);
  const there = new URL(location), before = there.searchParams.get("chat");
  if (before === id) return;
  there.searchParams.delete("recipe");
  there.searchParams.set("chat", id);
  history[before ? "pushState" : "replaceState"](null, "", there);
}"""


class Page(gr.Blocks):
    """Blocks with the looks they are served with.

    `served`: folders whose files the page shows. `doors`: who may open it. `account`: whose page it
    is, None where all share one.
    """

    served: tuple[Path, ...] = ()
    doors: Doors = Doors()
    account: Account | None = None
    login_page = staticmethod(login_html)

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """The inputs of an event, of the types that its components send.

        gradio's API lets anybody send any JSON. Its components find some of that with errors of
        many kinds, which are the sender's; here all become one message, and none a traceback.
        """
        try:
            check_sent(block_fn.inputs, inputs)
            check_own_files(inputs, Path(self.GRADIO_CACHE))
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except T2LocalError as error:
            raise as_message(error) from error
        except Exception as error:
            LOG.debug("refused what was sent to %s", block_fn.name, exc_info=True)
            raise as_message(T2LocalError(OTHER_THAN_A_PAGE)) from error

    def application(self) -> Starlette:
        """The page as an application, which the guard of its doors belongs before."""
        application = Starlette()
        gr.mount_gradio_app(
            application,
            self,
            "/",
            root_path=self.doors.root_path,
            theme=page_theme(),
            # in the head, because gradio rewrites the selectors of `css`
            head=PAGE.render("page.html", "head", styles=Markup("".join(map(asset, self._styles)))),
            js=f"() => {{ {' '.join(map(asset, SCRIPTS))} }}",
            favicon_path=FOLDER / "favicon.svg",
            footer_links=[],
            allowed_paths=[str(folder) for folder in self.served],
            max_file_size=self.doors.most_bytes,  # browsers are told, and refuse it themselves
            # It would keep all that events give in the browser, also for the next person, and each
            # of them would wait for that.
            run_history=False,
            ssr_mode=False,
            show_error=False,
            mcp_server=False,
        )
        self.app = application.routes[-1].app  # what `launch` would have served
        self.has_launched = True  # or gradio takes any file of this computer for an upload
        return application

    def end(self) -> None:
        """End the streams of open pages, which would go on."""
        self.app.stop_event.set()

    @property
    def tabs(self) -> list["Tab"]:
        return [tab for tab in TABS if tab.for_guests or not self._is_guests]

    @property
    def _styles(self) -> list[str]:
        """The page's own first, which a tab's may refine."""
        own = [tab.style for tab in self.tabs if tab.style]
        return ["page.css", "rows.css", *own, *(["guest.css"] if self._is_guests else [])]

    @property
    def _is_guests(self) -> bool:
        return self.account is not None and not self.account.owns


@dataclass(frozen=True)
class Room:
    """What the events of a tab have to do with: the engine, and the page when all is laid out.

    `laid_out`: title -> what the tab's `create` gave. `shown`: title -> the tab itself.
    """

    engine: Engine
    page: Page
    timer: gr.Timer
    tabs: gr.Tabs
    laid_out: Mapping[str, Any]
    shown: Mapping[str, gr.Tab]


@dataclass(frozen=True)
class Tab:
    """One tab. `create` lays it out; `bind`, once every tab is laid out, makes it act.

    `id`: by which other tabs go to it. `style`: its file in `assets`. `for_guests`: all that it
    needs of the engine to be opened is in `engine.GUEST_MAY`.
    """

    title: str
    create: Callable[[Engine], Any]
    bind: Callable[[Room], Any]
    id: str | None = None
    style: str = ""
    for_guests: bool = False


def _bind_chat(room: Room) -> ChatEvents:
    tab, account, offered = room.laid_out["Chat"], room.page.account, None
    if account is None or account.owns:
        offering = OfferEvents(room.engine, tab)
        offering.bind(room.timer)
        offered = offering.shown_beside
    events = ChatEvents(room.engine, tab, offered, judges=offered is not None)
    WheelEvents(room.engine, tab).bind(events.bind())
    return events


def _bind_train(room: Room) -> None:
    chat, cards = room.laid_out["Chat"], room.laid_out["Experts"].cards
    events = TrainEvents(room.engine, room.laid_out["Train"], chat, cards, room.tabs)
    events.bind(room.page, room.shown["Train"])


def _bind_adapt(room: Room) -> None:
    events = AdaptEvents(room.engine, room.laid_out["Adapt"], room.laid_out["Chat"], room.tabs)
    events.bind(room.shown["Adapt"])


def _bind_label(room: Room) -> None:
    LabelEvents(room.engine, room.laid_out["Label"], room.shown["Label"]).bind()


def _bind_arena(room: Room) -> None:
    ArenaEvents(room.engine, room.laid_out["Arena"], room.shown["Arena"]).bind()


def _bind_experts(room: Room) -> None:
    events = ExpertsEvents(room.engine, room.laid_out["Experts"], room.laid_out["Chat"], room.tabs)
    events.bind(room.page, room.shown["Experts"])


def _bind_evaluate(room: Room) -> None:
    EvaluateEvents(room.engine, room.laid_out["Evaluate"], room.shown["Evaluate"]).bind()


def _bind_models(room: Room) -> None:
    own, tab = room.shown["Models"], room.laid_out["Models"]
    tab.reach.value = quiet_html(room.page.doors.statement)
    ModelsEvents(room.engine, tab, own, room.tabs, room.timer).bind()


def _bind_jobs(room: Room) -> None:
    JobsEvents(room.engine, room.laid_out["Jobs"], room.shown["Jobs"]).bind()


TABS = [
    Tab("Chat", lambda engine: create_chat_tab(engine.status), _bind_chat, CHAT, "chat.css", True),
    Tab("Train", lambda engine: create_train_tab(), _bind_train, "train", "train.css"),
    Tab("Adapt", lambda engine: create_adapt_tab(), _bind_adapt, "adapt-tab", "adapt.css"),
    Tab("Experts", create_experts_tab, _bind_experts, style="experts.css", for_guests=True),
    Tab("Label", lambda engine: create_label_tab(), _bind_label, style="label.css"),
    Tab("Arena", lambda engine: create_arena_tab(), _bind_arena, style="arena.css"),
    Tab("Evaluate", lambda engine: create_evaluate_tab(), _bind_evaluate, style="evaluate.css"),
    Tab("Models", lambda engine: create_models_tab(), _bind_models, style="models.css"),
    Tab("Jobs", lambda engine: create_jobs_tab(), _bind_jobs, None, "jobs.css", for_guests=True),
]


def build_app(engine: Engine, doors: Doors | None = None, account: Account | None = None) -> Page:
    """The page of one engine; `engine.start()` may be called before or after.

    `doors`: who may open it; without them this computer alone. `account`: whose `engine` is a seat.
    """
    with Page(title=TITLE, fill_width=True, fill_height=True, analytics_enabled=False) as page:
        page.served = (engine.chats.pictures_folder,)
        page.doors, page.account = doors or Doors(), account
        header = gr.HTML(
            header_html(engine.status, page.doors, account.name if account else ""),
            elem_id="header",
            apply_default_css=False,
            js_on_load=None,
        )
        timer = gr.Timer(POLL_S)
        laid_out, shown_tabs = {}, {}
        # Without "wrap" gradio moves those that do not fit into a menu; `page.css` keeps one line.
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            for tab in page.tabs:
                with gr.Tab(tab.title, id=tab.id) as shown_tabs[tab.title]:
                    laid_out[tab.title] = tab.create(engine)
        room = Room(engine, page, timer, tabs, laid_out, shown_tabs)
        events = {tab.title: tab.bind(room) for tab in page.tabs}
        chat, cards = laid_out["Chat"], laid_out["Experts"].cards
        _Opening(engine, chat, events["Chat"], header, cards, timer).bind(page)
    _say_limit(page)
    return page


def _say_limit(page: Page) -> None:
    """Every control for files says how much it takes, whichever tab it is in."""
    for block in page.blocks.values():
        if isinstance(block, gr.File | gr.UploadButton) and block.interactive is not False:
            block.label = f"{block.label} (at most {page.doors.max_upload_mb} MB)"


class _Opening:
    """A page being opened, and its wait for the model."""

    def __init__(
        self, engine: Engine, tab: ChatTab, chat_events: ChatEvents, header: gr.HTML,
        experts: gr.HTML, timer: gr.Timer,
    ) -> None:  # fmt: skip
        self.engine, self.tab, self.chat_events = engine, tab, chat_events
        self.header, self.experts, self.timer = header, experts, timer
        self.serial = gr.State(NO_MODEL)
        self.doors, self.who = Doors(), ""

    def bind(self, page: Page) -> None:
        self.doors, self.who = page.doors, page.account.name if page.account else ""
        tab, quiet = self.tab, {"show_progress": "hidden"}
        status = [self.header, self.timer, self.serial, tab.message, tab.send]
        chat = [*self.chat_events.shown_chat, *self.chat_events.chat_outputs, self.experts]
        outputs = list(dict.fromkeys([*status, *chat]))
        page.load(shown(self.opened), {tab.last_chat}, outputs, js=OWN_CHAT, **quiet)
        tab.last_chat.change(None, tab.last_chat, None, js=KEEP_CHAT)
        known = {tab.chat_id, tab.listed, self.serial}
        self.timer.tick(shown(self.polled), known, outputs, **quiet)
        self.chat_events.recipes.bind_link(page, self.serial)
        page.unload(self.chat_events.left)

    def opened(self, values: dict, request: gr.Request) -> dict:
        """A page shows the chat of its address, or that it had, or the last one of this browser."""
        chat = self._last_chat(values)
        update = {**self.chat_events.open(chat, request), **self._status(chat.id)}
        damaged = list(self.engine.chats.damaged.values())
        for reason in damaged[:MOST_WARNINGS]:
            gr.Warning(as_text(reason), title="One chat was skipped")
        if more := len(damaged[MOST_WARNINGS:]):
            gr.Warning(f"{more} more are damaged; they stay on disk as they are.", title="Chats")
        return update | self._experts()

    def _last_chat(self, values: dict) -> Chat:
        last = values[self.tab.last_chat]
        if last is None:
            return self.engine.chats.new()
        try:
            return self.engine.chats.load_or_new(last)
        except T2LocalError:  # damaged, which the list reports
            return self.engine.chats.new()

    def polled(self, values: dict, request: gr.Request) -> dict:
        """While a model is loaded how far it is; then the page follows the new one, once."""
        status = self.engine.status
        if values[self.tab.chat_id] is None:  # not opened yet: a new chat would take its place
            return {self.header: self._header(status)}
        if status.ready and values[self.serial] == status.serial:
            header = {self.serial: status.serial, self.header: self._header(status)}
            return header | self.chat_events.look(values, request)
        update = self._status(values[self.tab.chat_id])
        if not status.ready:
            return update
        if status.note and status.serial:
            gr.Warning(as_text(status.note), title="About the model")
        chat = self.engine.chats.load_or_new(values[self.tab.chat_id])
        return {**self.chat_events.open(chat, request), **update, **self._experts()}

    def _header(self, status: EngineStatus) -> str:
        return header_html(status, self.doors, self.who)

    def _status(self, chat_id: str) -> dict:
        status, tab = self.engine.status, self.tab
        waiting = not status.ready and status.error is None
        answer = self.engine.answers.latest(chat_id)
        return {
            self.header: self._header(status),
            self.timer: gr.Timer(POLL_S if waiting else IDLE_POLL_S, active=True),
            self.serial: status.serial if status.ready else NO_MODEL,
            tab.message: message_update(status),
            tab.send: gr.Button(interactive=status.ready, visible=answer is None),
        }

    def _experts(self) -> dict:
        return {self.experts: experts_html(self.engine.experts())}


# --- A page for each account.


class Pages:
    """Each account's own page: its chats, its uploads, and of the engine what it may use.

    All are made before the first is served: one that is being laid out takes in whatever another
    page's event makes meanwhile (`gradio.context.Context` is the process's).
    """

    login_page = staticmethod(functools.partial(login_html, named=True))

    def __init__(self, engine: Engine, doors: Doors) -> None:
        self.doors = doors
        self.seats: dict[str, Seat] = {}
        self._pages: dict[str, Page] = {}
        self._applications: dict[str, Starlette] = {}
        first = next(account for account in doors.accounts if account.owns)
        for account in doors.accounts:
            # The first owner goes on with the chats from before there were accounts.
            own = ChatStore(paths.chats_dir() / account.folder)
            own.purge()
            seat = Seat(engine, account, engine.chats if account is first else own)
            self.seats[account.name] = seat
            with _uploads_of(account):
                page = self._pages[account.name] = build_app(seat, doors, account)
                self._applications[account.name] = page.application()

    def application(self) -> "Pages":
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To the page of the account that the guard has found."""
        if scope["type"] == "lifespan":
            await Starlette(lifespan=self._lifespan)(scope, receive, send)
        else:
            await self._applications[scope[ACCOUNT]](scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for one in self._applications.values():
                await stack.enter_async_context(one.router.lifespan_context(one))
            yield

    def end(self) -> None:
        for page in self._pages.values():
            page.end()


@contextlib.contextmanager
def _uploads_of(account: Account) -> Iterator[None]:
    """What is built inside keeps its uploads in a folder that no other page takes files from."""
    before = os.environ.get(GRADIO_FOLDER)
    own = Path(gr.utils.get_upload_folder()) / account.folder
    with paths.saving(own):
        paths.make_folder(own)
    os.environ[GRADIO_FOLDER] = str(own)
    try:
        yield
    finally:
        os.environ.pop(GRADIO_FOLDER)
        if before is not None:
            os.environ[GRADIO_FOLDER] = before

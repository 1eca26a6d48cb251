"""A page takes the files that were uploaded to it, and no other file of this computer."""

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from t2local.engine.chats import ChatStore
from t2local.ui.page import build_app
from tests.pictures import painted
from tests.ui.fake_engine import FakeEngine


@pytest.fixture
def send(tmp_path, monkeypatch):
    """`send(path)`: a message with that file, to a page whose uploads are below `uploads`."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    page = build_app(FakeEngine(chats=ChatStore(tmp_path / "chats"), sees=True))
    fn = next(fn for fn in page.fns.values() if fn.name == "send")

    def it(path):
        given = [getattr(part, "value", None) for part in fn.inputs]
        place = [type(part) for part in fn.inputs].index(gr.MultimodalTextbox)
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        given[place] = {"text": "look", "files": [file]}
        read = page.preprocess_data(fn, given, SessionState(page))
        with ThreadPoolExecutor(1) as pool:  # a browser of other tests has a loop in this thread
            return pool.submit(contextvars.copy_context().run, asyncio.run, read).result()

    return it


def test_a_file_that_was_uploaded_is_taken(send, tmp_path):
    (tmp_path / "uploads" / "a").mkdir(parents=True)
    assert send(painted(tmp_path / "uploads" / "a", "red"))


OTHERS = (
    "{}/private.png", "{}/uploads/../private.png", "{}/uploads/link.png", "private.png",
    "http://127.0.0.1:9/a.png",
)  # fmt: skip


@pytest.mark.parametrize("path", OTHERS)
def test_any_other_file_is_refused(send, tmp_path, path):
    """gradio takes all uploads of the process for this page's own."""
    (tmp_path / "uploads").mkdir()
    Path(painted(tmp_path, "red")).rename(tmp_path / "private.png")
    (tmp_path / "uploads" / "link.png").symlink_to(tmp_path / "private.png")
    with pytest.raises(gr.Error, match="was not uploaded to this page"):
        send(path.format(tmp_path))

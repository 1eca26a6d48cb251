import json

import pytest
from PIL import Image

from t2local.adapt.dispatch import BASE, Dispatched, Done
from t2local.engine import chats
from t2local.engine.chats import ChatStore
from t2local.engine.engine import Engine
from t2local.engine.requests import ChatRequest, Controls
from t2local.errors import T2LocalError
from t2local.models.decode.sampling import Sampling
from t2local.svf import Mixture


@pytest.fixture
def store(tmp_path) -> ChatStore:
    return ChatStore(tmp_path / "chats")


@pytest.fixture
def red(tmp_path) -> str:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


@pytest.fixture
def chat(store, red):
    asked = store.new().ask("What colour is it?")
    return store.save(asked.showing(store.keep_pictures(asked.id, [red])))


def test_a_chat_keeps_copies_that_survive_the_upload(store, chat, red, tmp_path):
    (tmp_path / "red.png").unlink()
    (kept,) = store.load(chat.id).messages[0].images
    assert Image.open(kept).size == (8, 6)
    assert store.load(chat.id) == chat
    assert chat.turns()[0]["images"] == [kept]


def test_the_file_names_pictures_without_their_folder(store, chat, tmp_path):
    """So a home may be moved, and a file from elsewhere never names what is outside."""
    path = store.folder / f"{chat.id}.json"
    content = json.loads(path.read_text())
    assert "/" not in content["messages"][0]["images"][0]
    moved = ChatStore(store.folder.rename(tmp_path / "moved"))
    assert moved.load(chat.id).turns()[0]["images"]
    content["messages"][0]["images"] = ["../../secret.png"]
    (moved.folder / f"{chat.id}.json").write_text(json.dumps(content))
    (named,) = moved.load(chat.id).messages[0].images
    assert named == str(moved.pictures_folder / chat.id / "secret.png")


def test_a_model_that_reads_text_only_is_given_the_text(chat):
    assert chat.turns(sees=False) == ({"role": "user", "content": "What colour is it?"},)


def test_a_picture_that_is_gone_is_left_out(store, chat):
    chats.forget(store.pictures_folder / chat.id)
    assert store.load(chat.id).turns() == ({"role": "user", "content": "What colour is it?"},)


def test_editing_keeps_the_pictures(chat):
    assert chat.edit(0, "And now?").messages[0].images == chat.messages[0].images


def test_the_same_picture_twice_is_one_file(store, chat, red):
    again = store.keep_pictures(chat.id, [red, red])
    assert set(again) == set(chat.messages[0].images)


def test_deleting_a_chat_deletes_its_pictures_in_the_end(store, chat):
    store.delete(chat.id)
    assert store.list() == []
    store.purge()
    assert store.restore(chat.id).messages == chat.messages, "until then it can come back"
    store.delete(chat.id)
    store.purge(kept_s=0.0)
    assert not (store.pictures_folder / chat.id).exists()
    with pytest.raises(T2LocalError, match="cannot be brought back"):
        store.restore(chat.id)


def test_a_chat_from_before_pictures_is_read(store, chat):
    path = store.folder / f"{chat.id}.json"
    content = json.loads(path.read_text())
    del content["messages"][0]["images"]
    path.write_text(json.dumps(content))
    assert store.load(chat.id).messages[0].images == ()


def test_what_is_no_picture_is_refused_and_nothing_is_kept(store, red, tmp_path):
    (tmp_path / "letter.png").write_text("Dear Sir")
    with pytest.raises(T2LocalError, match=r"'letter\.png' is no picture"):
        store.keep_pictures("a" * 32, [red, str(tmp_path / "letter.png")])
    assert not store.pictures_folder.exists()


def test_too_large_and_too_many_are_refused(store, red, monkeypatch):
    with pytest.raises(T2LocalError, match="17 pictures were attached; send at most 16"):
        store.keep_pictures("a" * 32, [red] * 17)
    monkeypatch.setattr(chats, "MOST_BYTES", 10)
    with pytest.raises(T2LocalError, match=r"'red\.png' has .* make it smaller"):
        store.keep_pictures("a" * 32, [red])


@pytest.fixture(scope="module")
def llava(llava_folder) -> Engine:
    return Engine(str(llava_folder)).load()


def test_a_model_that_sees_is_given_the_chats_pictures(llava, chat):
    assert llava.status.sees
    asked = Controls(BASE), Sampling(max_new_tokens=4)
    told = {}
    for sees in (True, False):
        events = list(llava.answer("one", ChatRequest(chat.turns(sees), *asked)))
        assert isinstance(events[-1], Done)
        told[sees] = next(e.context_tokens for e in events if isinstance(e, Dispatched))
    assert told[True] > told[False], "a picture takes tokens of the context"
    request = ChatRequest(chat.turns(), *asked)
    assert len(llava.next_tokens("one", request, Mixture(), k=3).base) == 3


def test_a_model_that_reads_text_says_that_it_does(tiny_folder):
    assert not Engine(str(tiny_folder("llama"))).load().status.sees

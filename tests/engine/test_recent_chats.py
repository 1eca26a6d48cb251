"""A long chat is read once, and never as it was before its file changed."""

import os
import threading
from dataclasses import replace

import pytest

from t2local.engine import chats
from t2local.engine.chat_content import Message
from t2local.engine.chats import KEPT, LONG, ChatStore, RecentChats


def saved(store, said="said", count=LONG):
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], f"{said} {i}") for i in range(count))
    return store.save(replace(store.new(), title=said, messages=messages))


@pytest.fixture
def reads(monkeypatch):
    """How many chats were read from the words of their files."""
    whole, counted = chats.chat_from_json, []

    def read(*args):
        counted.append(1)
        return whole(*args)

    monkeypatch.setattr(chats, "chat_from_json", read)
    return counted


def test_what_was_written_or_read_here_is_not_read_again(reads):
    store = ChatStore()
    chat = saved(store)
    assert store.load(chat.id) == chat
    store.list()
    assert not reads
    other = ChatStore(store.folder)
    assert other.load(chat.id) == other.load(chat.id) == chat
    assert len(reads) == 1


def test_another_programs_change_is_seen_though_time_and_size_stay(reads):
    store = ChatStore()
    chat = saved(store)
    path = store.folder / f"{chat.id}.json"
    before = path.stat()
    path.write_text(path.read_text().replace("said 7", "sang 7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert store.load(chat.id).messages[7].content == "sang 7"
    assert len(reads) == 1


def test_few_are_kept_and_only_long_ones(tmp_path):
    recent, chat = RecentChats(), saved(ChatStore())
    paths = [tmp_path / f"{i}.json" for i in range(KEPT + 1)]
    for path in paths:
        recent.keep(path, b"content", chat)
    assert [recent.find(path, b"content") is chat for path in paths] == [False] + KEPT * [True]
    assert recent.find(paths[1], b"other content") is None
    recent.keep(paths[1], b"content", replace(chat, messages=chat.messages[1:]))
    assert recent.find(paths[1], b"content") is None


def test_many_threads_get_the_chat_that_is_there():
    store = ChatStore()
    ids = [saved(store, f"number {i}").id for i in range(KEPT + 2)]
    wrong = []

    def look(which):
        for i in range(60):
            number = (which + i) % len(ids)
            if store.load(ids[number]).title != f"number {number}":
                wrong.append(number)

    threads = [threading.Thread(target=look, args=(which,)) for which in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

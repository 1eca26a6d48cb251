"""The list of chats: it says what the files say, and reads only those that were changed."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from t2local.engine import chat_index, chats
from t2local.engine.chats import ChatStore

LONG_AGO = 1_600_000_000
ELSEWHERE = "e15e" * 8  # the id of a chat that somebody put there


@pytest.fixture
def store() -> ChatStore:
    return ChatStore()


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of the files that were read, in order."""
    seen, read_chat = [], chats.read_chat

    def counted(path, recent=None):
        seen.append(path.name)
        return read_chat(path)

    monkeypatch.setattr(chats, "read_chat", counted)
    return seen


def filled(store, n=4):
    """Chats in files that have not been changed for long."""
    saved = [store.save(store.new().ask(f"question {i}")) for i in range(n)]
    for chat in saved:
        settle(store, chat.id)
    return saved


def settle(store, chat_id, at=LONG_AGO):
    os.utime(store.folder / f"{chat_id}.json", (at, at))


def titles(store):
    return sorted(chat.title for chat in store.list())


def index(store):
    return store.folder / chat_index.INDEX


def test_a_file_is_read_once_and_not_again_after_a_restart(store, reads):
    saved = filled(store)
    del reads[:]
    before = store.list()
    assert [chat.id for chat in before] == [chat.id for chat in reversed(saved)]
    assert len(reads) == 4
    assert store.list() == before
    assert ChatStore().list() == before, "a restarted server knows them"
    assert len(reads) == 4


def test_only_the_file_that_differs_is_read_again(store, reads):
    first, second, third, _ = filled(store)
    store.list()
    reads.clear()
    store.rename(first.id, "renamed")
    settle(store, first.id, LONG_AGO + 1)
    store.delete(second.id)
    elsewhere = (store.folder / f"{third.id}.json").rename(store.folder / f"{ELSEWHERE}.json")
    elsewhere.write_text(elsewhere.read_text().replace(third.id, ELSEWHERE))
    settle(store, ELSEWHERE)
    reads.clear()
    expected = ["question 2", "question 3", "renamed"]
    assert titles(store) == expected
    assert sorted(reads) == sorted([f"{first.id}.json", f"{ELSEWHERE}.json"])
    reads.clear()
    assert titles(ChatStore()) == expected
    assert reads == []


def test_a_change_within_the_clock_of_the_disk_is_seen(store):
    chat = store.save(store.new().ask("aaaa"))
    path = store.folder / f"{chat.id}.json"
    before = path.stat()
    assert titles(store) == ["aaaa"]
    path.write_text(path.read_text().replace("aaaa", "bbbb"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert titles(store) == ["bbbb"]


def rest(store):
    """Nothing was put into the folder for long, and that is known."""
    store.list()
    os.utime(store.folder, (LONG_AGO, LONG_AGO))
    store.list()


@pytest.fixture
def scans(monkeypatch) -> list[str]:
    """An entry for each time that all files were looked at."""
    seen, files = [], chat_index._files

    def counted(folder):
        seen.append(folder.name)
        return files(folder)

    monkeypatch.setattr(chat_index, "_files", counted)
    return seen


def test_the_files_of_a_folder_that_rests_are_not_looked_at(store, scans, monkeypatch):
    monkeypatch.setattr(chat_index, "CHECK_S", 60.0)
    first, second, *_ = filled(store)
    rest(store)
    before, scanned = store.list(), len(scans)
    assert store.list() == before
    assert searched(store, "question 1") == ["question 1"]
    assert len(scans) == scanned
    store.rename(first.id, "renamed")
    assert "renamed" in titles(store), "by itself"
    rest(store)
    ChatStore().rename(second.id, "by another one")
    assert "by another one" in titles(store)
    rest(store)
    ChatStore().delete(second.id)
    assert "by another one" not in titles(store)


def test_what_is_written_in_place_is_seen_one_look_later(store, monkeypatch):
    monkeypatch.setattr(chat_index, "CHECK_S", 0.05)
    chat, *_ = filled(store)
    rest(store)
    path = store.folder / f"{chat.id}.json"
    with path.open("r+") as file:
        text = file.read().replace("question 0", "question z")
        file.seek(0)
        file.write(text)
    settle(store, chat.id, LONG_AGO + 7)
    deadline = time.monotonic() + 10
    while "question z" not in titles(store):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_damaged_chat_is_looked_at_until_it_is_mended(store, monkeypatch):
    monkeypatch.setattr(chat_index, "CHECK_S", 60.0)
    (chat,) = filled(store, 1)
    path = store.folder / f"{chat.id}.json"
    good = path.read_text()
    path.write_text("{")
    settle(store, chat.id)
    rest(store)
    path.write_text(good)
    settle(store, chat.id, LONG_AGO + 7)
    assert titles(store) == ["question 0"]


def test_a_damaged_chat_is_named_every_time_and_listed_once_it_is_mended(store):
    (chat,) = filled(store, 1)
    path = store.folder / f"{chat.id}.json"
    good = path.read_text()
    for bad in ('{"schema": 1', "[" * 100_000, good.replace(str(chat.updated), "1" + "0" * 400)):
        path.write_text(bad)
        settle(store, chat.id)
        for each in (store, store, ChatStore()):
            assert each.list() == []
            assert path.name in each.damaged
    path.write_text(good)
    settle(store, chat.id)
    assert titles(store) == ["question 0"]
    assert store.damaged == {}


def spoil(store, how):
    path = index(store)
    if how == "missing":
        path.unlink()
    elif how == "no database":
        path.write_bytes(b"not a database at all" * 400)
    elif how == "cut off":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        with closing(sqlite3.connect(path)) as database:
            database.executescript(how)


@pytest.mark.parametrize(
    "how",
    [
        "missing",
        "no database",
        "cut off",
        "empty",
        "PRAGMA user_version = 99",
        "DROP TABLE chats; CREATE TABLE chats (x)",
        "UPDATE chats SET title = CAST(x'ff' AS TEXT)",
        "UPDATE chats SET updated = 'yesterday'",
        "UPDATE chats SET tags = x'00ff'",
    ],
)
def test_an_index_that_cannot_serve_is_made_anew(store, reads, how):
    filled(store)
    before = store.list()
    reads.clear()
    spoil(store, how)
    assert ChatStore().list() == before
    assert len(reads) == 4
    assert ChatStore().list() == before
    assert len(reads) == 4, "it is kept again"


def test_a_locked_index_neither_stops_the_list_nor_stays_old(store, monkeypatch):
    first, *_ = filled(store)
    store.list()
    with closing(sqlite3.connect(index(store), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        store.rename(first.id, "renamed")
        settle(store, first.id, LONG_AGO + 1)
        assert "renamed" in titles(store)
        assert "renamed" in titles(ChatStore()), "a start reads the files"
        began = time.monotonic()
        store.list()
        assert time.monotonic() - began < chat_index.BUSY_S, "it is not tried every time"
        other.execute("ROLLBACK")
    store._index._rests_until = 0.0
    store.list()
    monkeypatch.setattr(chats, "read_chat", None)
    assert "renamed" in titles(ChatStore())


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, 10 | 3 << 8])
def test_a_disk_that_cannot_be_written_costs_the_index_alone(store, monkeypatch, code):
    filled(store)

    class Refusing(sqlite3.Connection):
        def executemany(self, *_):
            error = sqlite3.OperationalError("no")
            error.sqlite_errorcode = code
            raise error

    connect = sqlite3.connect
    with monkeypatch.context() as full:
        full.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Refusing))
        assert len(store.list()) == 4
        chat = store.save(store.new().ask("one more"))
        assert len(store.list()) == 5
        assert len(ChatStore().list()) == 5
        assert store.load(chat.id) == chat
    assert len(ChatStore().list()) == 5


def test_a_folder_where_no_index_can_be_serves_all_the_same(store):
    filled(store)
    index(store).mkdir()
    assert len(store.list()) == len(store.list()) == len(ChatStore().list()) == 4


def test_what_sqlite_cannot_keep_is_named_as_damaged(store):
    (chat, *_) = filled(store)
    path = store.folder / f"{chat.id}.json"
    content = json.loads(path.read_text())
    for strange in ({"title": "\ud800"}, {"id": "\udfff"}):
        path.write_text(json.dumps({**content, **strange}))
        settle(store, chat.id)
        assert len(store.list()) == len(ChatStore().list()) == 3
        assert list(store.damaged) == [path.name]
        os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))


def test_many_threads_and_stores_see_all_chats_and_lose_none(store):
    filled(store, 20)
    stores, problems = [store, ChatStore(), ChatStore()], []

    def work(number):
        mine = stores[number % len(stores)]
        try:
            for turn in range(15):
                chat = mine.save(mine.new().ask(f"{number} {turn}"))
                settle(mine, chat.id, LONG_AGO + turn)
                assert chat.id in {one.id for one in mine.list()}
                if turn % 3 == 0:
                    mine.delete(chat.id)
                    assert chat.id not in {one.id for one in mine.list()}
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [len(each.list()) for each in (*stores, ChatStore())] == [20 + 6 * 10] * 4


def test_two_processes_on_one_home_do_not_spoil_the_index(store):
    filled(store, 5)
    code = (
        "import os\nfrom t2local.engine.chats import ChatStore\nstore = ChatStore()\n"
        "for turn in range(40):\n"
        "    chat = store.save(store.new().ask(f'turn {turn}'))\n"
        "    os.utime(store.folder / f'{chat.id}.json', (turn, turn))\n"
        "    assert chat.id in {one.id for one in store.list()}\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    while any(other.poll() is None for other in others):
        store.list()
        time.sleep(0.005)
    assert [other.returncode for other in others] == [0, 0]
    assert len(store.list()) == len(ChatStore().list()) == 85
    with closing(sqlite3.connect(index(store))) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_answer_among_two_thousand_chats_reads_its_own_file_alone(store, reads):
    chat = store.save(store.new().ask("a question"))
    text = (store.folder / f"{chat.id}.json").read_text()
    for number in range(2000):
        own = f"{number:032x}"
        path = store.folder / f"{own}.json"
        path.write_text(text.replace(chat.id, own))
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert len(store.list()) == 2001
    reads.clear()
    store.save(replace(chat, title="renamed"))
    assert store.list()[0].title == "renamed"
    assert reads == [f"{chat.id}.json"]


# --- Search.


def searched(store, query):
    return sorted(chat.title for chat in store.search(query))


def test_all_words_are_found_in_any_letters_wherever_they_stand(store):
    filled(store, 3)
    chat = store.save(replace(store.new().ask("Straße nach ÖSTERREICH"), title="A title"))
    settle(store, chat.id)
    for each in (store, ChatStore()):
        assert searched(each, "österreich STRASSE") == ["A title"]
        assert searched(each, "title") == ["A title"]
        assert searched(each, "question 1") == ["question 1"]
        assert searched(each, "question nothing") == []
        assert len(searched(each, "  ")) == 4
        for sign in ("%", "_", "\\", "q%n", "q_estion", "\\q", "questio\\n"):
            assert searched(each, sign) == [], "no word has a meaning of its own"
        assert searched(each, "\0' OR 1=1 --") == []


def test_a_tag_is_found_by_its_beginning_unless_one_is_called_just_so(store):
    for chat, tags in zip(filled(store, 4), ("work", "Workshop,Straße", "x", None), strict=True):
        if tags:
            store.tag(chat.id, tags)
            settle(store, chat.id)
    for each in (store, ChatStore()):
        assert searched(each, "#wor") == ["question 0", "question 1"]
        assert searched(each, "#WORK") == ["question 0"]
        assert searched(each, "#strasse #workshop") == ["question 1"]
        assert searched(each, "#work #x") == []
        assert searched(each, "#wor 1") == ["question 1"]
        assert searched(each, "#") == ["question 0", "question 1", "question 2"]
        assert searched(each, "work") == [], "a tag is not a word that was said"


def test_a_word_that_is_nobodys_tag_is_searched_with_its_sign(store):
    (chat, other) = filled(store, 2)
    with store.claim(chat.id):
        store.save(store.load(chat.id).ask("#include <stdio.h>"))
    assert searched(store, "#include") == ["question 0"]
    store.tag(other.id, "include")
    assert searched(store, "#include") == ["question 1"]


def test_signs_are_found_as_they_stand(store):
    chat = store.save(replace(store.new().ask(r"100 % of snake_case in C:\home"), title="signs"))
    settle(store, chat.id)
    for each in (store, ChatStore()):
        each.list()
        for sign in ("%", "_", "e_c", "\\", r"c:\home", "100 %"):
            assert searched(each, sign) == ["signs"], sign


def test_an_index_of_a_version_before_gets_pages_of_our_size(store):
    filled(store)
    index(store).unlink(missing_ok=True)
    with closing(sqlite3.connect(index(store))) as database:
        database.executescript("CREATE TABLE chats (x); PRAGMA user_version = 4")
    before = store.list()
    with closing(sqlite3.connect(index(store))) as database:
        assert database.execute("PRAGMA page_size").fetchone() == (chat_index.PAGE_BYTES,)
        assert database.execute("SELECT count(*) FROM chats").fetchone() == (4,)
    assert ChatStore().list() == before


def test_what_changed_or_went_is_searched_as_it_is(store):
    first, second = filled(store, 2)
    assert searched(store, "question") == ["question 0", "question 1"]
    with store.claim(first.id):
        store.save(store.load(first.id).ask("a zebra"))
    store.delete(second.id)
    assert searched(store, "zebra") == ["question 0"]
    assert searched(store, "question 1") == []


@pytest.mark.parametrize("harm", ["gone", "damaged", "locked"])
def test_without_its_index_the_chats_themselves_are_searched(store, harm):
    filled(store, 3)
    store.list()
    if harm == "gone":
        index(store).unlink()
    elif harm == "damaged":
        index(store).write_bytes(b"no database" * 1000)
    with closing(sqlite3.connect(index(store))) as other:
        if harm == "locked":
            other.execute("BEGIN EXCLUSIVE")
        assert searched(store, "question 2") == ["question 2"]
        assert searched(ChatStore(), "question 2") == ["question 2"]


def test_an_index_that_went_is_made_anew_by_the_look_after_a_search(store, reads):
    filled(store, 3)
    rest(store)
    index(store).unlink()
    assert searched(store, "question 2") == ["question 2"]
    store.list()
    del reads[:]
    assert searched(store, "question 2") == ["question 2"]
    assert reads == []


def test_a_search_reads_no_file_that_is_known(store, reads):
    filled(store, 3)
    store.list()
    del reads[:]
    assert searched(store, "question 2") == ["question 2"]
    assert reads == []

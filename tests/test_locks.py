"""Processes on one home keep out of each other's way, and a killed one keeps nobody out."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from t2local.engine.requests import EngineStatus
from t2local.errors import T2LocalError
from t2local.locks import Lock, Neighbours, holding
from t2local.ui.style import header_html

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")


@contextmanager
def another_process(work, *arguments):
    """A process in which `work` has told that it is ready, and sleeps until it is killed."""
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    child = fork.Process(target=_sleeping, args=(work, ready, arguments))
    child.start()
    try:
        assert ready.wait(30)
        yield child.pid
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.join()


def _sleeping(work, ready, arguments):
    kept = work(*arguments)
    ready.set()
    time.sleep(120)
    del kept


def hold(path):
    lock = Lock(path)
    assert lock.acquire()
    return lock


def announced():
    mine = Neighbours()
    mine.announce()
    return mine


def test_one_holder_at_a_time_of_threads_and_processes(tmp_path):
    path = tmp_path / "locks" / "one.lock"
    with another_process(hold, path):
        assert Lock(path).taken
        assert not Lock(path).acquire(timeout_s=0.05)
        with pytest.raises(T2LocalError, match="not now"), holding(path, "not now", 0.0):
            pass
    mine = Lock(path)
    assert mine.acquire(timeout_s=0.0), "its holder was killed"
    assert not Lock(path).acquire(timeout_s=0.0), "another thread of the same process"
    mine.release()
    assert not Lock(path).taken
    assert list(path.parent.iterdir()) == []


def test_of_many_who_want_it_one_has_it_at_every_moment(tmp_path):
    """Its file goes with every release, and nobody is left with the lock of a file that is gone."""
    path, inside, most = tmp_path / "one.lock", 0, 0
    counting = threading.Lock()

    def enter(_):
        nonlocal inside, most
        with holding(path, "never", timeout_s=60):
            with counting:
                inside += 1
                most = max(most, inside)
            time.sleep(0.0005)
            with counting:
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(200)))
    assert most == 1


@contextmanager
def looked_at(path):
    """Many threads look at the lock, again and again; gives how often it seemed taken."""
    over, seen = threading.Event(), []

    def look():
        while not over.is_set():
            if Lock(path).taken:
                seen.append(True)

    with ThreadPoolExecutor(3) as pool:
        looks = [pool.submit(look) for _ in range(3)]
        try:
            yield seen
        finally:
            over.set()
            for done in looks:
                done.result()


def test_who_looks_at_a_lock_keeps_nobody_from_it(tmp_path):
    path = tmp_path / "one.lock"
    with looked_at(path):
        for _ in range(300):
            path.touch()  # as a killed one leaves it, so that there is something to look at
            mine = Lock(path)
            assert mine.acquire(timeout_s=0.0)
            assert Lock(path).taken
            mine.release()


def test_a_free_lock_seems_taken_to_none_of_many_who_look_and_its_file_stays(tmp_path):
    path = tmp_path / "one.lock"
    path.touch()
    with looked_at(path) as seen:
        time.sleep(0.3)
    assert not seen
    assert path.exists()
    assert Lock(path).cleared()
    assert not path.exists()


def test_what_another_holds_is_not_cleared(tmp_path):
    path = tmp_path / "one.lock"
    mine = hold(path)
    assert not Lock(path).cleared()
    assert path.exists()
    mine.release()


def test_where_no_lock_can_be_had_work_goes_on(tmp_path):
    (tmp_path / "file").touch()
    with holding(tmp_path / "file" / "one.lock", "never"):
        pass


def test_another_program_on_this_home_is_told_of_until_it_is_killed(home):
    mine = announced()
    assert mine.sentence == "", "nobody else is there"
    with another_process(announced) as pid:
        assert [found for found, _ in Neighbours().found()] == [pid]
        sentence = Neighbours().sentence
        assert sentence.startswith(f"Another t2local (process {pid}, since 2")
        assert sentence.endswith("uses this folder; chats are kept apart by locks.")
        assert sentence in header_html(EngineStatus("Ready", beside=sentence))
    assert Neighbours().sentence == ""
    assert len(list((home / "running").iterdir())) == 1, "what the killed one left is gone"
    assert "beside" not in header_html(EngineStatus("Ready"))

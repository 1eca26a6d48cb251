"""Files come to be whole, lasting and private; what killed processes leave goes."""

import multiprocessing
import os
import signal
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from t2local import paths
from t2local.engine.chats import ChatStore
from t2local.engine.job_record import EVALUATION, JobStatus, Record, new_id
from t2local.errors import T2LocalError
from t2local.progress import RUNNING

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="rights and signals as on POSIX")
LONG_AGO = time.time() - 2 * paths.STALE_AFTER_S


def write(path: Path, text: str = "whole") -> None:
    with paths.atomic_write(path) as temporary:
        temporary.write_text(text)


@POSIX
def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_so_is_the_name(home, monkeypatch):
    target, done = home / "chats" / "one.json", []
    sync, move = os.fsync, paths.move

    def syncing(handle):
        done.append(Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    def moving(source, to):
        done.append("moved")
        move(source, to)

    write(home / "chats" / "other.json")  # the folders are there
    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(paths, "move", moving)
    write(target)
    part, moved, folder = done
    assert (part.suffix, part.parent) == (".part", target.parent)
    assert (moved, folder) == ("moved", target.parent)


@POSIX
def test_the_name_of_a_new_folder_is_on_the_disk_too(home, monkeypatch):
    synced, sync = [], os.fsync

    def syncing(handle):
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    monkeypatch.setattr(os, "fsync", syncing)
    write(home / "jobs" / "one" / "job.json")
    assert {home.parent, home, home / "jobs", home / "jobs" / "one"} <= set(synced)


def test_a_disk_that_does_not_take_it_leaves_what_was_there(home, monkeypatch):
    target = home / "file"
    write(target, "before")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(T2LocalError, match="disk is full"):
        write(target, "after")
    assert target.read_text() == "before"
    assert [path.name for path in home.iterdir()] == ["file"]


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_kept_is_its_owners_alone(home):
    """Whatever the umask: chats with their index, records with their events, folders between."""
    before = os.umask(0o022)
    try:
        store = ChatStore()
        os.utime(store.folder / f"{store.save(store.new().ask('?')).id}.json", (1, 1))
        store.list()  # writes the index
        record = Record.of(new_id("one"))
        record.begin(JobStatus(record.folder.name, EVALUATION.name, "one", RUNNING), {})
        record.append({"event": 1})
        with paths.appending(home / "line"):
            pass
    finally:
        os.umask(before)
    found = {path.name: path for path in home.rglob("*")}
    assert {"index.sqlite3", "events.jsonl", "job.json", "line"} <= found.keys()
    for path in (home, *found.values()):
        assert rights(path) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)]
)
def test_what_is_saved_elsewhere_follows_the_umask(home, tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        write(tmp_path / "mine" / "expert.safetensors")
    finally:
        os.umask(before)
    assert rights(tmp_path / "mine" / "expert.safetensors") == file
    assert rights(tmp_path / "mine") == folder


def test_what_versions_before_left_open_to_others_is_closed_at_a_start(home):
    (home / "chats").mkdir(parents=True, mode=0o755)
    paths.tidy_home()
    assert rights(home / "chats") == 0o700


def test_what_else_lies_in_a_home_that_was_chosen_is_left_alone(home, monkeypatch):
    """Somebody may say `--data-dir .` in a folder with much of its own."""
    (home / "data").mkdir(parents=True)
    (home / "data").chmod(0o775)
    films = [home / "sub" / ".film.mkv.part", home / "data" / ".film.mkv.part"]
    for film in films:
        film.parent.mkdir(exist_ok=True)
        film.write_text("half")
        os.utime(film, (LONG_AGO, LONG_AGO))
    paths.tidy_home()
    assert all(film.exists() for film in films)
    assert rights(home / "data") == 0o775
    monkeypatch.setattr(paths.platformdirs, "user_data_dir", lambda name: str(home))
    paths.tidy_home()
    assert rights(home / "data") == 0o700


def writing(home: str, begun) -> None:
    os.environ["T2LOCAL_HOME"] = home
    with paths.atomic_write(Path(home) / "chats" / "one.json") as temporary:
        temporary.write_text("half")
        begun.set()
        time.sleep(60)


@POSIX
def test_half_a_file_goes_when_its_writer_was_killed_and_stays_while_it_writes(home):
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    child = fork.Process(target=writing, args=(str(home), begun))
    child.start()
    try:
        assert begun.wait(30)
        (half,) = (home / "chats").glob("*.part")
        os.utime(half, (LONG_AGO, LONG_AGO))  # however long it takes
        paths.tidy_home()
        assert half.read_text() == "half"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    paths.tidy_home()
    assert list((home / "chats").iterdir()) == []


def test_the_number_of_a_killed_process_may_be_anothers_now(home):
    write(home / "file")
    own = paths.part_beside(home / "file")
    began = own.name.split("-")[2].partition(".")[0]
    earlier = own.with_name(own.name.replace(began, str(int(began) - 100)))
    for path in (own, earlier):
        path.write_text("half")
    paths.tidy_home()
    assert (own.exists(), earlier.exists()) == (True, False)


@pytest.mark.parametrize("name", [".a.json.ffffff-1-1.00.part", ".a.json.k3x9_2ab.part"])
def test_another_computers_half_file_stays_for_a_day(home, name):
    home.mkdir()
    half = home / name
    half.write_text("half")
    paths.tidy_home()
    assert half.exists()
    os.utime(half, (LONG_AGO, LONG_AGO))
    paths.tidy_home()
    assert not half.exists()


def test_no_two_get_one_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: paths.fresh_folder(tmp_path, "20260101-a"), range(40)))
    assert len(set(found)) == 40


def test_what_a_library_wrote_is_made_private(home):
    write(home / "models" / "one" / "weights")
    for path in (home / "models" / "one", home / "models" / "one" / "weights"):
        path.chmod(0o755)
    paths.keep_private(home / "models" / "one")
    assert rights(home / "models" / "one" / "weights") == 0o600
    assert rights(home / "models" / "one") == 0o700

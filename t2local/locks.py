"""Locks between processes that share one home, and who these processes are.

A lock is a file that the operating system guards: it is free again when its holder ends, however
that happens, so a killed process never blocks. Where a file system has no locks, or a full disk no
room for one, there is none, and what `threading` guards within a process is all.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from t2local import paths
from t2local.errors import T2LocalError

WAIT_S = 2.0  # for what others do in a moment
POLL_S = 0.02
LOOK_S = 0.001  # longer than another one looks at a lock
LOOKED_AT_S = 0.25  # so many may look, one after another, before a free lock is given up
FRESH_S = 1.0  # so long `Neighbours.sentence` is not looked up again


class Lock:
    """One holder at a time, of all threads and processes; the same thread cannot take it twice.

    The file is there while somebody holds it, and what a killed one left until the next has been.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self, timeout_s: float = WAIT_S) -> bool:
        """Whether it could be had within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self._tried():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def release(self) -> None:
        """Nothing happens where it is not held. From any thread."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                self.path.unlink()
            os.close(handle)

    @property
    def taken(self) -> bool:
        """Whether somebody holds it at this moment. Looking keeps nobody from it."""
        return not self._free()

    def cleared(self) -> bool:
        """Whether it is free; the file that a killed holder left is then gone.

        For a lock that only its first holder takes again, as `Neighbours` names them.
        """
        return self._free(clear=True)

    def _free(self, clear: bool = False) -> bool:
        """All may look at once: what they hold meanwhile is shared, and none seems the holder."""
        while True:
            try:
                handle = os.open(self.path, os.O_RDWR)
            except OSError:
                return True
            try:
                if not _may_look(handle):
                    return False
                there = _is_at(handle, self.path)
                if there and clear:
                    with contextlib.suppress(OSError):  # as in `release`
                        self.path.unlink()
                _unlock(handle)  # a child that was forked meanwhile has the file open too
            finally:
                os.close(handle)
            if there:
                return True

    def _tried(self) -> bool:
        while True:
            try:
                paths.make_folder(self.path.parent)
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError:
                return True  # no lock to be had: see the module
            if not _had(handle):
                os.close(handle)
                return False
            if _is_at(handle, self.path):
                self._handle = handle
                return True
            os.close(handle)  # whoever held it took the file away: again, with a new one


@contextlib.contextmanager
def holding(path: Path, refusal: str, timeout_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lock inside the block. Raises `T2LocalError(refusal)` while another does."""
    lock = Lock(path)
    if not lock.acquire(timeout_s):
        raise T2LocalError(refusal)
    try:
        yield
    finally:
        lock.release()


def _had(handle: int) -> bool:
    """Whether the lock is ours. Those who only look at it are waited for: they are gone at once."""
    deadline = time.monotonic() + LOOKED_AT_S
    while not _locked(handle):
        time.sleep(LOOK_S)
        if not _locked(handle, shared=True) or time.monotonic() >= deadline:
            return False
        _unlock(handle)
    return True


def _may_look(handle: int) -> bool:
    """Whether nobody holds it; a shared lock is then ours."""
    if _locked(handle, shared=True):
        return True
    if sys.platform != "win32":
        return False
    time.sleep(LOOK_S)  # it may be another one that looks: Windows shares no lock
    return _locked(handle, shared=True)


def _locked(handle: int, shared: bool = False) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _unlock(handle: int) -> None:
    with contextlib.suppress(OSError):  # a file system without locks
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_UN)


def _is_at(handle: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        found = path.stat()
    except OSError:
        return False
    return os.path.samestat(os.fstat(handle), found)


# --- The programs with a page that use one home: each holds a lock whose name says who it is.


class Neighbours:
    """The other processes with a page on this home."""

    def __init__(self) -> None:
        self._own: Lock | None = None
        self._sentence, self._looked = "", -FRESH_S

    def announce(self) -> None:
        """Let the others see this process for as long as it runs."""
        if self._own is None:
            self._own = Lock(_folder() / f"{os.getpid()}-{int(time.time())}.lock")
            self._own.acquire()

    def found(self) -> list[tuple[int, float]]:
        """Process number and beginning (seconds since 1970) of each, the earliest first."""
        others = []
        for path in _folder().glob("*.lock"):
            pid, _, began = path.stem.partition("-")
            if not (pid.isdigit() and began.isdigit()) or int(pid) == os.getpid():
                continue
            if not Lock(path).cleared():
                others.append((int(pid), float(began)))
        return sorted(others, key=lambda other: other[1])

    @property
    def sentence(self) -> str:
        """What to say of them; "" while there are none."""
        if time.monotonic() - self._looked > FRESH_S:
            self._looked, others = time.monotonic(), self.found()
            self._sentence = _told(*others[0]) if others else ""
        return self._sentence


def _told(pid: int, began: float) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(began))
    return (
        f"Another t2local (process {pid}, since {since}) uses this folder; "
        "chats are kept apart by locks."
    )


def _folder() -> Path:
    return paths.home() / "running"

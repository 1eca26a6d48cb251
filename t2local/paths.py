"""Where files live: the user's data below `T2LOCAL_HOME`, what ships with the app beside it.

Knows nothing of what is in the files. `atomic_write` is the one way a file comes to be: whole, on
the disk and not only in a cache when it returns, and below the home for its owner alone. What the
person saves elsewhere follows the umask.
"""

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import platformdirs

from t2local.errors import DiskFull, T2LocalError
from t2local.untrusted import word

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SHIPPED_EXPERTS = PROJECT_ROOT / "experts"
WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
STALE_AFTER_S = 24 * 3600
RETRIES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def home() -> Path:
    """The user's data folder: `T2LOCAL_HOME`, or the platform's usual place."""
    chosen = os.environ.get("T2LOCAL_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("t2local"))


def models_dir() -> Path:
    return home() / "models"


def basis_dir() -> Path:
    return home() / "basis"


def experts_dir() -> Path:
    return home() / "experts"


def chats_dir() -> Path:
    return home() / "chats"


def recipes_dir() -> Path:
    return home() / "recipes"


def prompts_dir() -> Path:
    return home() / "prompts"


def runs_dir() -> Path:
    return home() / "runs"


def jobs_dir() -> Path:
    return home() / "jobs"


def default_model() -> str:
    """What to load when nobody says: `T2LOCAL_MODEL`, or the embedded model."""
    return os.environ.get("T2LOCAL_MODEL") or "embedded"


def slug(name: str) -> str:
    """A folder name for a model or expert name: `org/Some Model` -> `org--Some-Model`.

    On Windows `nul` and the like are devices, with any ending: they get a line before them.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace("/", "--")).strip("-.") or "unnamed"
    return f"_{safe}" if sys.platform == "win32" and WINDOWS_DEVICES.match(safe) else safe


def named(text: str) -> Path:
    """A path that somebody typed, with `~`; it need not exist.

    Raises `T2LocalError` for what this system cannot even be asked about: too long, with a zero
    byte in it, below the home of nobody or in a folder that may not be looked into.
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except FileNotFoundError:
        return path
    except (OSError, RuntimeError, ValueError) as error:
        raise T2LocalError(
            f"'{word(text)}' cannot be looked up ({getattr(error, 'strerror', None) or error}); "
            "name another file or folder."
        ) from error
    return path


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Translate what keeps `path` from being written into a `T2LocalError` (`DiskFull`)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk is full: '{path}' could not be saved and nothing was changed; "
                "free some space, or choose another folder with T2LOCAL_HOME."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise T2LocalError(
                f"'{path}' cannot be written ({error.strerror}); "
                "choose a writable folder with T2LOCAL_HOME."
            ) from error
        raise


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place if the block succeeds.

    Afterwards a power cut does not undo it. Raises `T2LocalError` when the disk is full or the
    folder cannot be written; `path` then still holds what it held before, and no half-written file
    stays.
    """
    temporary = None
    try:
        with saving(path):
            make_folder(path.parent)
            part = part_beside(path)
            os.close(_create(str(part), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            temporary = part
            yield temporary
            sync_file(temporary)
            move(temporary, path)
            _sync_folder(path.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def appending(path: Path, mode: str = "ab") -> IO[bytes]:
    """Open a file to add to its end; it comes to be where it is not there yet."""
    return open(path, mode, opener=_create)


def append(path: Path, content: bytes) -> None:
    """Add `content` to a file's end, all of it or nothing. Raises `OSError`."""
    with appending(path) as file:
        before = file.tell()
        try:
            file.write(content)
            file.flush()
        except OSError:
            file.truncate(before)  # no half a line for the next one to be glued to
            raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; below the home they are for their owner alone."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(0o700 if is_own(folder) else 0o777, exist_ok=True)
    _sync_folder(folder.parent)


def fresh_folder(parent: Path, stem: str) -> Path:
    """Make a folder that nobody had: `stem`, with a number where that is taken."""
    make_folder(parent)
    found, number = parent / stem, 2
    while True:
        try:
            found.mkdir(0o700 if is_own(found) else 0o777)
            return found
        except FileExistsError:
            found, number = parent / f"{stem}-{number}", number + 1


def is_own(path: Path) -> bool:
    """Whether `path` is the home or below it."""
    return path.absolute().is_relative_to(home().absolute())


def keep_private(folder: Path) -> None:
    """Take from others what a library wrote below `folder` by the umask."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)


def sync_file(path: Path) -> None:
    """Wait until what is in a file is on the disk, as far as its file system can say."""
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def _sync_folder(folder: Path) -> None:
    """The same for the names in a folder; Windows has no way to, some network folders neither."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _create(name: str, flags: int) -> int:
    """`os.open` with the rights that a new file gets."""
    return os.open(name, flags | getattr(os, "O_BINARY", 0), 0o600 if is_own(Path(name)) else 0o666)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder, over a file that is there.

    Windows refuses while anybody has either open, be it a thread that reads or a virus scanner;
    that soon passes, so it is tried for two seconds there.
    """
    for wait_s in RETRIES_S if sys.platform == "win32" else ():
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(wait_s)
    source.replace(target)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`; 0 where it does not exist."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


# --- What is still being written, and what a killed process left of it.
#
# Its name says which process writes it: `.chat.json.HOST-PID-BEGAN.RANDOM.part`. One that runs is
# never touched, nor, for a day, one of another computer or container that shares the folder.

PART = re.compile(r"\.([0-9a-f]{6})-(\d+)-(\d+)\.[0-9a-f]+\.part$")
OLD_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part$")  # of versions before
PERSONAL = (
    "chats", "data", "evaluations", "experts", "jobs", "mixtures", "recipes", "runs", "searches",
)  # fmt: skip
FOLDERS = (*PERSONAL, "basis", "models")  # in which t2local writes


def part_beside(path: Path) -> Path:
    """A new temporary name beside `path`, which says whose it is."""
    return path.with_name(f".{path.name}.{_own(os.getpid())}.{secrets.token_hex(4)}.part")


def tidy_home() -> None:
    """At a start: delete what killed processes left half-written; close what is personal to others.

    (Versions before wrote files that other users of the computer could read.) A home that somebody
    chose may hold more than ours, such as a `data` for others to read: there only chats are closed.
    """
    usual = home() == Path(platformdirs.user_data_dir("t2local"))
    for name in PERSONAL if usual else ("chats",):
        with contextlib.suppress(OSError):  # it is not there, or somebody else's
            (home() / name).chmod(0o700)
    inside = (part for name in FOLDERS for part in (home() / name).rglob(".*.part"))
    for leftover in (*home().glob(".*.part"), *inside):
        if PART.search(leftover.name) or OLD_PART.match(leftover.name):
            _drop_if_left(leftover)


def drop_stale(folder: Path, pattern: str) -> None:
    """Delete folders of this pattern whose process is gone, or more than a day old."""
    for leftover in folder.glob(pattern):
        _drop_if_left(leftover)


def _drop_if_left(leftover: Path) -> None:
    with contextlib.suppress(OSError):  # another process is at it too
        if _is_left(leftover) and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif _is_left(leftover):
            leftover.unlink(missing_ok=True)


def _is_left(leftover: Path) -> bool:
    whose = PART.search(leftover.name)
    if whose is not None and whose[1] == _host():
        return _whose(int(whose[2])) != whose[0][1:].partition(".")[0]
    return time.time() - leftover.stat().st_mtime > STALE_AFTER_S


def _whose(pid: int) -> str:
    """A process as its host, number and the second it began, as numbers come again.

    That is 0 for one that does not run.
    """
    import psutil

    try:
        began = int(psutil.Process(pid).create_time())
    except psutil.Error:
        began = 0
    return f"{_host()}-{pid}-{began}"


_own = functools.lru_cache(maxsize=1)(_whose)  # of this process, asked at every write


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]

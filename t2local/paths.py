"""Where files live: the user's data below `T2LOCAL_HOME`, what ships with the app beside it.

Knows nothing of what is in the files. `atomic_write` is the one way a file comes to be.
"""

import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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

    Raises `T2LocalError` when the disk is full or the folder cannot be written; `path` then still
    holds what it held before, and no half-written file stays.
    """
    temporary = None
    try:
        with saving(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.name}.", suffix=".part"
            )
            os.close(handle)
            temporary = Path(name)
            yield temporary
            temporary.chmod(0o644)  # mkstemp's files are for their owner alone
            move(temporary, path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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


def drop_stale(folder: Path, pattern: str) -> None:
    """Delete folders of this pattern that a killed process left more than a day ago."""
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process is at it too
            if time.time() - leftover.stat().st_mtime > STALE_AFTER_S:
                shutil.rmtree(leftover, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`; 0 where it does not exist."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

"""A person's file, parsed once for each content, however many callbacks ask for its rows.

The newest few parses are kept in memory, under a hash of the file's bytes: a file that was changed
is parsed again. One that names pictures on disk always is, for these may come and go beside it.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from t2local.pictures import COLUMNS
from t2local.tasks.files import ExampleFile, read_examples
from t2local.tasks.tables import MOST_BYTES

MOST_KEPT = 4
MOST_KEPT_BYTES = 64 * 2**20  # of their files, beside the newest


@dataclass(frozen=True)
class _Key:
    """What the rows depend on; `columns` as in `read_examples`. `size_bytes` goes with the hash."""

    sha256: str
    size_bytes: int
    path: Path
    columns: tuple[tuple[str, str], ...]


class Uploads:
    """The parses that are kept. `_lock` guards them; it is not held while a file is parsed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Future[ExampleFile]] = OrderedDict()

    def read(self, path: Path, mapping: Mapping[str, str] | None = None) -> ExampleFile:
        """As `read_examples`; who asks for what another thread is parsing waits for it."""
        key = _key(path, mapping or {})
        if key is None:
            return read_examples(path, mapping)
        with self._lock:
            there = self._kept.get(key)
            parse = self._kept.setdefault(key, Future())
            self._kept.move_to_end(key)
        if there is not None:
            return there.result()
        try:
            file = read_examples(path, mapping)
        except BaseException as error:
            self._drop(key)
            parse.set_exception(error)
            raise
        parse.set_result(file)
        if _key(path, mapping or {}) != key or not _whole(file):
            self._drop(key)
        self._make_room()
        return file

    def _drop(self, key: _Key) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def _make_room(self) -> None:
        with self._lock:
            while len(self._kept) > MOST_KEPT or (
                len(self._kept) > 1 and sum(k.size_bytes for k in self._kept) > MOST_KEPT_BYTES
            ):
                self._kept.popitem(last=False)


UPLOADS = Uploads()
read_upload = UPLOADS.read


def _key(path: Path, mapping: Mapping[str, str]) -> _Key | None:
    """None for a file that cannot be read or is too large, which reading it will say."""
    try:
        path = path.absolute()
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return _Key(digest, file.tell(), path, tuple(sorted(mapping.items())))
    except OSError:
        return None


def _whole(file: ExampleFile) -> bool:
    """Whether its rows depend on no other file."""
    if not set(COLUMNS) & set(file.columns):
        return True
    pictures = (picture for example in file.examples for picture in example.pictures)
    return not file.bad_rows and all(picture.startswith("data:") for picture in pictures)

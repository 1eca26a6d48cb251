"""The list of chats without reading every chat: what is shown of each file, and of which file.

The files are the truth. A look compares their names, times and sizes with what is known and reads
those that differ. For 10,000 files that takes 25 ms, or several times as long while other threads
are at work; so a folder whose own time is the same is taken to hold the same, and the files are
compared a moment later. Whatever puts a new file in the place of the old one, as t2local does,
changes the folder's time; a file that something else writes in place is seen one look later.
What is known is kept in memory, and between two
starts in an SQLite file beside the chats. That file only saves time: where it is missing, damaged,
of another version, locked or cannot be written, the chats are read instead.
"""

import contextlib
import math
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from t2local import paths
from t2local.errors import T2LocalError

INDEX = "index.sqlite3"
VERSION = 6  # raise it when what is kept of a chat, or how it is read, changes
BUSY_S = 0.2  # another process holds the file for some milliseconds; longer, and it is left alone
REST_S = 30.0  # after a failure, before the file is written again
CHECK_S = 1.0  # between a look at the folder alone and one at its files
SETTLED_NS = 2 * 10**9  # a younger file may change again within the clock of its file system
MEANS_MORE = re.compile(r"[%_\\]")  # to LIKE
NOT_DAMAGED = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY,
}  # fmt: skip
PAGE_BYTES = 32_768  # texts of some KB are searched twice as fast as in pages of 4
TABLE = (
    "CREATE TABLE chats (name TEXT PRIMARY KEY, mtime_ns INTEGER NOT NULL, size INTEGER NOT NULL,"
    " id TEXT NOT NULL, title TEXT NOT NULL, updated REAL NOT NULL, pinned INTEGER NOT NULL,"
    " tags TEXT NOT NULL, text TEXT NOT NULL)"
)
FileState = tuple[int, int]  # time in ns, size: equal for a file that was not changed
Read = Callable[[Path], tuple["ChatSummary", str]]  # a file's summary, and what is said in it


class ChatSummary(NamedTuple):
    """What the list shows of a chat; `updated` in seconds since 1970. No tag has a space in it."""

    id: str
    title: str
    updated: float
    pinned: bool = False
    tags: tuple[str, ...] = ()

    def is_tagged(self, tag: str) -> bool:
        """In capital letters or small ones."""
        return any(own.casefold() == tag.casefold() for own in self.tags)


class _Known(NamedTuple):
    """`text`: what is searched, until it is in the SQLite file; None from then on."""

    state: FileState
    chat: ChatSummary
    text: str | None = None


class ChatIndex:
    """The chats of one folder. `read` raises `T2LocalError` for a file that cannot be read.

    Safe to call from several threads (`_lock` guards all it holds) and from several processes.
    """

    def __init__(self, folder: Path, read: Read) -> None:
        self.path = folder / INDEX
        self._folder, self._read = folder, read
        self._lock = threading.Lock()
        self._known: dict[str, _Known] | None = None  # file name -> what was read of it
        self._files: dict[str, FileState | None] = {}  # at the last look
        self._chats: list[ChatSummary] = []  # then, the newest first
        self._same_while: int | None = None  # the folder's time; None: they have to be looked at
        self._checks_from = 0.0
        self._unsaved: set[str] = set()  # file names
        self._rests_until = 0.0

    def look(self) -> tuple[list[ChatSummary], dict[str, str]]:
        """All chats, the newest first, and file name -> what is wrong with an unreadable one."""
        with self._lock:
            folder_ns, now_ns = _time_of(self._folder), time.time_ns()
            if self._same_while is not None and self._same_while == folder_ns:
                self._check_later()
                return list(self._chats), {}
            if self._known is None:
                self._known = self._loaded()
            self._files = _files(self._folder)
            chats, damaged, unsettled = self._compared(self._known, self._files)
            self._chats = sorted(chats, key=lambda chat: chat.updated, reverse=True)
            self._save(self._known)
            rests = folder_ns is not None and abs(now_ns - folder_ns) >= SETTLED_NS
            self._same_while = folder_ns if rests and not (unsettled or self._unsaved) else None
            return list(self._chats), damaged

    def forget_look(self) -> None:
        """The next look compares the files, whatever the folder's time is."""
        self._same_while = None

    def _check_later(self) -> None:
        """Compare the files soon, at most once in `CHECK_S`; where one differs, the next look does.

        By itself it reads and writes nothing.
        """
        if time.monotonic() < self._checks_from:
            return
        self._checks_from = time.monotonic() + CHECK_S
        timer = threading.Timer(CHECK_S, self._check, [self._files])
        timer.daemon = True
        timer.start()

    def _check(self, before: dict[str, FileState | None]) -> None:
        if _files(self._folder) != before:
            self.forget_look()

    def search(self, words: Sequence[str]) -> set[str]:
        """The ids of the chats in which all `words` stand, in small letters (`str.casefold`).

        Of those that the last `look` found: whoever searches looks first.
        """
        with self._lock:
            known = self._known or {}
            found, saved = self._searched(words)
            others = [name for name in self._files if name not in saved]
            for name in others:
                there = known.get(name)
                text = there.text if there is not None else None
                if text is None:
                    with contextlib.suppress(T2LocalError):
                        text = self._read(self._folder / name)[1]
                if text is not None and all(word in text for word in words):
                    found.add(Path(name).stem)
        return found

    def _searched(self, words: Sequence[str]) -> tuple[set[str], set[str]]:
        """The ids found in the SQLite file, and the file names of which it speaks truly."""
        known = self._known or {}
        true = {name for name in known if name not in self._unsaved}
        where = " AND ".join(r"text LIKE ? ESCAPE '\'" for _ in words)  # quicker than instr
        patterns = [f"%{_plain(word)}%" for word in words]
        try:
            with self._opened() as database:
                if _version(database) != VERSION:  # it went, or another version wrote it
                    self._unsaved = set(known)
                    self.forget_look()
                    return set(), set()
                rows = database.execute(f"SELECT name, id FROM chats WHERE {where}", patterns)
                return {own for name, own in rows if name in true}, true
        except sqlite3.Error:
            return set(), set()

    def _compared(
        self, known: dict[str, _Known], files: dict[str, FileState | None]
    ) -> tuple[list[ChatSummary], dict[str, str], bool]:
        """Bring `known` up to date with the files; the chats, what is damaged, and whether any file
        has to be read at the next look again, as one that just changed.
        """
        chats, damaged, now_ns = [], {}, time.time_ns()
        for name, state in files.items():
            there = known.get(name)
            if there is not None and there.state == state:
                chats.append(there.chat)
                continue
            path = self._folder / name
            try:
                chat, text = self._read(path)
            except T2LocalError as error:
                if os.path.lexists(path):  # else it was deleted since the folder was listed
                    damaged[name] = str(error)
                self._forget(known, name)
                continue
            chats.append(chat)
            if state is None or abs(now_ns - state[0]) < SETTLED_NS:
                self._forget(known, name)
            else:
                known[name] = _Known(state, chat, text)
                self._unsaved.add(name)
        for name in known.keys() - files.keys():
            self._forget(known, name)
        return chats, damaged, len(known) < len(files)

    def _forget(self, known: dict[str, _Known], name: str) -> None:
        if known.pop(name, None) is not None:
            self._unsaved.add(name)

    def _loaded(self) -> dict[str, _Known]:
        """What was kept at the last start; {} where that cannot be had."""
        if not self.path.exists():
            return {}
        try:
            with self._opened() as database:
                if _version(database) != VERSION:
                    return {}
                columns = "name, mtime_ns, size, id, title, updated, pinned, tags"
                rows = database.execute(f"SELECT {columns} FROM chats").fetchall()
                return {
                    str(name): _Known(
                        (int(mtime_ns), int(size)),
                        ChatSummary(
                            str(own),
                            str(title),
                            float(updated),
                            bool(pinned),
                            tuple(filter(None, tags.split(" "))),
                        ),
                    )
                    for name, mtime_ns, size, own, title, updated, pinned, tags in rows
                }
        except (sqlite3.Error, AttributeError, TypeError, ValueError) as error:
            self._set_aside(error)
            return {}

    def _save(self, known: dict[str, _Known]) -> None:
        """Write what changed, in one short transaction; a failure is tried again later."""
        if not self._unsaved or time.monotonic() < self._rests_until:
            return
        try:
            with self._opened() as database:
                names = self._unsaved
                if _version(database) != VERSION:
                    _empty(database)
                    names = known.keys()
                database.execute("BEGIN IMMEDIATE")
                if _version(database) != VERSION:  # else another process was quicker
                    database.execute(TABLE)
                    database.execute(f"PRAGMA user_version = {VERSION}")
                rows = [row for name in names if (row := self._row(name, known.get(name)))]
                gone = [(name,) for name in names if name not in known and _storable(name)]
                database.executemany("DELETE FROM chats WHERE name = ?", gone)
                database.executemany("REPLACE INTO chats VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
                database.execute("COMMIT")
            written = {row[0] for row in rows}
            known |= {name: known[name]._replace(text=None) for name in written}
            self._unsaved = {name for name in names if name in known and name not in written}
        except sqlite3.Error as error:
            self._rests_until = time.monotonic() + REST_S
            if self._set_aside(error):
                self._unsaved = set(known)

    def _row(self, name: str, known: _Known | None) -> tuple | None:
        """A row of the table; None for what SQLite cannot keep: read again at every start."""
        if known is None or not _storable(name, known.chat.id, known.chat.title):
            return None
        state, chat, text = known.state, known.chat, known.text
        if not math.isfinite(chat.updated) or abs(state[0]) >= 2**63:
            return None
        if text is None:  # the SQLite file that had it is gone
            try:
                text = self._read(self._folder / name)[1]
            except T2LocalError:
                return None
        shown = chat.id, chat.title, chat.updated, chat.pinned, " ".join(chat.tags)
        return name, *state, *shown, text

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection for one errand; what was not committed is undone."""
        with contextlib.suppress(OSError):  # SQLite then says what is wrong, or need not write
            paths.appending(self.path).close()  # for its owner alone, and so are SQLite's journals
        database = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        with contextlib.closing(database):
            database.execute("PRAGMA secure_delete = ON")  # what a deleted chat said goes with it
            yield database

    def _set_aside(self, error: Exception) -> bool:
        """Remove the index file where it is damaged, to be written anew; whether it was."""
        if getattr(error, "sqlite_errorcode", -1) & 0xFF in NOT_DAMAGED:
            return False
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        return True


def _time_of(folder: Path) -> int | None:
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime_ns
    return None


def _files(folder: Path) -> dict[str, FileState | None]:
    """File name -> state of all chat files; {} where the folder is not there or cannot be read.

    None for a file of which nothing can be known: reading it will say why.
    """
    found: dict[str, FileState | None] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(".json"):
                try:  # one call fewer for each of ten thousand files
                    now = entry.stat()
                    found[name] = now.st_mtime_ns, now.st_size
                except OSError:
                    found[name] = None
    return found


def _plain(word: str) -> str:
    """A word for LIKE in which no character stands for others."""
    return MEANS_MORE.sub(r"\\\g<0>", word)


def _empty(database: sqlite3.Connection) -> None:
    """Take out what another version kept, and make the pages as large as ours."""
    database.execute("BEGIN IMMEDIATE")
    if _version(database) != VERSION:
        database.execute("DROP TABLE IF EXISTS chats")
    database.execute("COMMIT")
    database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    database.execute("VACUUM")


def _version(database: sqlite3.Connection) -> int:
    return database.execute("PRAGMA user_version").fetchone()[0]


def _storable(*texts: str) -> bool:
    """Whether all are valid Unicode; names and titles from outside may hold lone surrogates."""
    try:
        return all(text.encode() is not None for text in texts)
    except UnicodeEncodeError:
        return False

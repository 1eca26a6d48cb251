"""Chats kept on disk: one JSON file a chat, written to a temporary name and renamed.

A message's pictures lie below `pictures`, in a folder for each chat (`chat_pictures`).
A damaged file is reported in `ChatStore.damaged` and left where it is, never deleted. One writer a
chat at a time (`claim`), of all browser tabs and all processes; a copy of a chat that others went
on with meanwhile is not saved over theirs. It knows nothing of models or of the page.
"""

import contextlib
import hashlib
import itertools
import os
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from t2local import locks, paths
from t2local.engine.chat_content import (
    CHAT_ID,
    MOST_CHAT_BYTES,
    UNTITLED,
    Chat,
    Message,
    chat_bytes,
    chat_from_json,
    is_there,
)
from t2local.engine.chat_index import ChatIndex, ChatSummary
from t2local.errors import T2LocalError
from t2local.pictures import MOST_BYTES, check_picture, picture_kind
from t2local.untrusted import encodes, file_bytes, parsed, typed, word

MOST_READ_BYTES = 4 * MOST_CHAT_BYTES  # versions before wrote larger ones
PICTURES = "pictures"  # the folder beside the chats' files
LOCKS = ".locks"  # another
TRASH = ".deleted"  # another
DELETED_KEPT_S = 86_400.0  # until a deleted chat is gone for good
MOST_SEARCHED = 2_000_000  # characters of a chat
ANSWERED = "This chat is being answered; wait until that is done, stop it, or open a new chat."
ANSWERED_ELSEWHERE = (
    "This chat is being answered by another t2local that uses the same folder; wait until that is "
    "done, or open a new chat."
)


class Diverged(T2LocalError):
    """Somebody else went on with a chat since this copy of it was read."""


class ChatStore:
    """The chats of one folder; safe to call from several threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or paths.chats_dir()
        self.damaged: dict[str, str] = {}  # file name -> what is wrong with it
        self._recent = RecentChats()
        self._index = ChatIndex(self.folder, self._indexed)
        self._written: dict[str, tuple[tuple[int, ...], float]] = {}  # as left here; `updated`
        self._claimed: set[str] = set()
        self._changed = threading.Condition()

    def list(self) -> list[ChatSummary]:
        """All readable chats, the newest first; unreadable ones are noted in `damaged`."""
        chats, self.damaged = self._index.look()
        return chats

    def search(self, query: str) -> Sequence[ChatSummary]:
        """The chats in whose title or messages all words of `query` stand, the newest first.

        `#word` is found by tag; where no chat has a tag that begins so, it is a word as any other.
        """
        if not encodes(query):
            return []
        chats = found = self.list()
        words = []
        for asked in query.casefold().replace("\0", " ").split():
            tagged = _tagged(chats, asked[1:]) if asked.startswith("#") else set()
            if tagged:
                found = [chat for chat in found if chat.id in tagged]
            else:
                words.append(asked)
        if not words:
            return found
        said = self._index.search(words)
        return [chat for chat in found if chat.id in said]

    def new(self) -> Chat:
        """An empty chat; no file yet."""
        return Chat(id=uuid.uuid4().hex)

    def load(self, chat_id: str) -> Chat:
        """Raises `T2LocalError` when there is no such chat or its file is damaged."""
        return read_chat(self._path(chat_id), self._recent)

    def load_or_new(self, chat_id: str | None) -> Chat:
        """The chat, or an empty one under the same id where nothing was saved yet.

        The id of a deleted chat is not used again: it may come back.
        """
        if chat_id is None or self._trashed(chat_id).exists():
            return self.new()
        return self.load(chat_id) if self._path(chat_id).exists() else Chat(id=chat_id)

    def save(self, chat: Chat) -> Chat:
        """Write `chat` with the present time and give it back; an error leaves the old file.

        Within `claim`, wherever others may write. Raises `Diverged` where the file has messages
        that neither are in `chat` nor were known to it.
        """
        chat = replace(self._reconciled(chat), updated=time.time())
        if chat.title != UNTITLED and not self._path(chat.id).exists():
            chat = self._titled(chat)
        self._write(chat)
        return chat

    def is_free(self, chat_id: str) -> bool:
        """Whether no chat has this id, be it a damaged or a deleted one."""
        return not (self._path(chat_id).exists() or self._trashed(chat_id).exists())

    def _titled(self, chat: Chat) -> Chat:
        """With a number behind its title where another chat has that."""
        title, taken = chat.title, {other.title for other in self.list() if other.id != chat.id}
        numbered = (f"{title} ({number})" for number in itertools.count(2))
        own = title if title not in taken else next(t for t in numbered if t not in taken)
        return replace(chat, title=own)

    def bring(self, chat: Chat) -> Chat:
        """Write a chat of another store under the time that it has, within `claim`."""
        chat = self._titled(chat if chat.updated else replace(chat, updated=time.time()))
        self._write(chat)
        return chat

    def set_aside(self, chat: Chat) -> Chat:
        """Save a chat that has `Diverged` as one of its own, with its pictures."""
        copy = replace(chat, id=self.new().id, title=f"{chat.title} (copy)", updated=0.0)

        def copied(message: Message) -> Message:
            images = [image for image in message.images if is_there(image)]
            return replace(message, images=self.keep_pictures(copy.id, images))

        versions = (replace(v, message=copied(v.message)) for v in chat.versions)
        messages = map(copied, chat.messages)
        return self.save(replace(copy, messages=tuple(messages), versions=tuple(versions)))

    def _reconciled(self, chat: Chat) -> Chat:
        """What to write of `chat`: where somebody wrote meanwhile, under their title and tags.

        A chat's `updated` says which copy of it this is.
        """
        path = self._path(chat.id)
        if not path.exists() or self._written.get(chat.id) == (_state(path), chat.updated):
            return chat
        try:
            there = read_chat(path, self._recent)
        except T2LocalError as error:  # damaged meanwhile: it is left as it is
            raise Diverged(str(error)) from error
        known = chat.messages[: len(there.messages)] == there.messages
        if there.updated != chat.updated and not known:
            raise Diverged(
                "This chat was continued elsewhere since this page showed it; open it again from "
                "the list, then send your message."
            )
        chat = replace(chat, pinned=there.pinned, tags=there.tags)
        return chat if there.title == UNTITLED else replace(chat, title=there.title)

    def _write(self, chat: Chat) -> None:
        path, content = self._path(chat.id), chat_bytes(chat)
        with paths.atomic_write(path) as temporary:
            temporary.write_bytes(content)
        self._index.forget_look()
        self._written[chat.id] = (_state(path), chat.updated)
        self._recent.keep(path, content, chat)

    def rename(self, chat_id: str, title: str) -> Chat:
        """Give a chat another title; refused when empty or while the chat is being answered."""
        if not title.strip():
            raise T2LocalError("The title is empty; write one, or leave the chat as it was.")
        title = " ".join(title.split())[:200]
        return self._named(chat_id, lambda chat: self._titled(replace(chat, title=title)))

    def pin(self, chat_id: str, pinned: bool) -> Chat:
        """Keep a chat at the top of the list, or no longer; refused as in `rename`."""
        return self._named(chat_id, lambda chat: replace(chat, pinned=pinned))

    def tag(self, chat_id: str, text: str) -> Chat:
        """Give a chat a tag, or several between commas; refused as in `rename`."""
        return self._named(chat_id, lambda chat: chat.tagged(text))

    def untag(self, chat_id: str, tag: str) -> Chat:
        """Take a tag off a chat; refused as in `rename`."""
        return self._named(chat_id, lambda chat: chat.untagged(tag))

    def _named(self, chat_id: str, change: Callable[[Chat], Chat]) -> Chat:
        """Change what the list shows of a chat, and nothing that was said in it."""
        with self.claim(chat_id):
            chat = change(self.load(chat_id))
            self._write(chat)  # keeps `updated`
            self._written.pop(chat_id, None)  # a copy from before has the old title
        return chat

    def delete(self, chat_id: str) -> None:
        """Take a chat out of the list; nothing happens when it is already gone.

        For `DELETED_KEPT_S` it can be brought back, then its file and pictures go for good.
        """
        self.purge()
        with self.claim(chat_id), contextlib.suppress(FileNotFoundError):
            path, trash = self._path(chat_id), self._trashed(chat_id)
            with paths.saving(trash):
                paths.make_folder(trash.parent)
                os.utime(path)  # when it was deleted
                if trash.exists():  # another one that had this id
                    paths.move(trash, trash.with_stem(uuid.uuid4().hex))
                paths.move(path, trash)
            self._index.forget_look()

    def restore(self, chat_id: str) -> Chat:
        """Bring a deleted chat back. Raises `T2LocalError` where it is gone for good."""
        with self.claim(chat_id):
            path, trash = self._path(chat_id), self._trashed(chat_id)
            if not trash.is_file() or path.exists():
                raise T2LocalError("That chat cannot be brought back any more; it is gone.")
            with paths.saving(path):
                paths.move(trash, path)
            chat = self._titled(self.load(chat_id))
            self._write(chat)
        return chat

    def purge(self, kept_s: float = DELETED_KEPT_S) -> None:
        """Delete for good what was deleted longer ago than `kept_s`, with its pictures."""
        for path in (self.folder / TRASH).glob("*.json"):
            with contextlib.suppress(OSError, T2LocalError):
                if time.time() - path.stat().st_mtime >= kept_s:
                    path.unlink()
                    if not self._path(path.stem).exists():
                        forget(self._pictures(path.stem))

    def keep_pictures(self, chat_id: str, sources: Sequence[str]) -> tuple[str, ...]:
        """Copy picture files to the chat; their paths there. Raises `T2LocalError`."""
        return keep(self._pictures(chat_id), sources)

    @contextlib.contextmanager
    def claim(self, chat_id: str, timeout_s: float = 2.0) -> Iterator[None]:
        """Be the one writer of a chat, of all threads and processes.

        Raises `T2LocalError` when another is still at it after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        lock = self.folder / LOCKS / f"{self._path(chat_id).stem}.lock"
        with self._changed:
            if not self._changed.wait_for(lambda: chat_id not in self._claimed, timeout_s):
                raise T2LocalError(ANSWERED)
            self._claimed.add(chat_id)
        try:
            with locks.holding(lock, ANSWERED_ELSEWHERE, deadline - time.monotonic()):
                yield
        finally:
            with self._changed:
                self._claimed.discard(chat_id)
                self._changed.notify_all()

    def settle(self, chat_id: str, timeout_s: float = 2.0) -> None:
        """Wait until nobody writes to a chat, at most `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: chat_id not in self._claimed, timeout_s)

    def _indexed(self, path: Path) -> tuple[ChatSummary, str]:
        """What the list shows of a chat, and what is searched: its title and all that was said."""
        chat = read_chat(path, self._recent)
        versions = (version.message for version in chat.versions)
        said = [chat.title]
        for message in (*chat.messages, *versions):
            said += [message.content, *(f"{file.name}\n{file.text}" for file in message.files)]
        text = "\n".join(said).casefold()[:MOST_SEARCHED]
        summary = ChatSummary(chat.id, chat.title, chat.updated, chat.pinned, chat.tags)
        return summary, text.replace("\0", " ")

    def _path(self, chat_id: str) -> Path:
        if not CHAT_ID.fullmatch(chat_id):
            raise T2LocalError(f"'{chat_id}' is no chat's id; choose a chat from the list.")
        return self.folder / f"{chat_id}.json"

    def _trashed(self, chat_id: str) -> Path:
        return self.folder / TRASH / self._path(chat_id).name

    @property
    def pictures_folder(self) -> Path:
        """What is below it are pictures, and nothing else."""
        return self.folder / PICTURES

    def _pictures(self, chat_id: str) -> Path:
        return self.pictures_folder / self._path(chat_id).stem


def _tagged(chats: Sequence[ChatSummary], tag: str) -> set[str]:
    """The ids of the chats with this tag, or else with one that begins so."""
    exactly = {chat.id for chat in chats if chat.is_tagged(tag)}
    begun = (chat.id for chat in chats if any(own.casefold().startswith(tag) for own in chat.tags))
    return exactly or set(begun)


def _state(path: Path) -> tuple[int, ...]:
    """Another one after every write: each makes a new file."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_chat(path: Path, recent: "RecentChats | None" = None) -> Chat:
    """Read one file. Raises `T2LocalError` when absent, damaged or from a newer t2local.

    `recent`: where a long chat is looked up, and kept.
    """
    recent = recent or RecentChats()
    try:
        content = file_bytes(path, MOST_READ_BYTES)
        if known := recent.find(path, content):
            return known
        values = typed(dict, parsed(content, finite=False))
    except (ValueError, OSError) as error:
        if not os.path.lexists(path):
            raise T2LocalError(
                "That chat is no longer on disk; choose another, or start a new one."
            ) from None
        raise T2LocalError(f"The chat file '{path.name}' cannot be read ({error}).") from error
    try:
        chat = chat_from_json(values, path.parent / PICTURES / path.stem)
    except ValueError as error:
        raise T2LocalError(
            f"The chat file '{path.name}' is damaged ({error}); it was left as it is."
        ) from error
    if chat.id != path.stem:
        raise T2LocalError(
            f"The chat file '{path.name}' is a copy of another chat ('{word(chat.title)}'); "
            "rename or remove it."
        )
    recent.keep(path, content, chat)
    return chat


# --- The pictures of a chat: copies in a folder of its own.
#
# A file is named by what is in it, so one that is sent twice is kept once.

MOST_PICTURES = 16  # of one message


def keep(folder: Path, sources: Sequence[str]) -> tuple[str, ...]:
    """Copy picture files into `folder` and give their paths there; all of them, or none.

    Raises `T2LocalError` for what is no picture, too large or too many, and for a full disk.
    """
    if len(sources) > MOST_PICTURES:
        raise T2LocalError(
            f"{len(sources)} pictures were attached; send at most {MOST_PICTURES} with a message."
        )
    for source in map(Path, sources):
        size = source.stat().st_size
        if size > MOST_BYTES:
            raise T2LocalError(
                f"The picture '{source.name}' has {size / 2**20:.0f} MB, the most is "
                f"{MOST_BYTES // 2**20}; make it smaller."
            )
        check_picture(str(source))
    return tuple(_copied(folder, Path(source)) for source in sources)


def forget(folder: Path) -> None:
    """Delete a chat's pictures; nothing happens where it had none."""
    shutil.rmtree(folder, ignore_errors=True)


def _copied(folder: Path, source: Path) -> str:
    content = source.read_bytes()
    name = f"{hashlib.sha256(content).hexdigest()[:24]}.{picture_kind(content) or 'img'}"
    kept = folder / name
    if not kept.is_file():
        with paths.atomic_write(kept) as temporary:
            temporary.write_bytes(content)
    return str(kept)


# --- The long chats that were read or written last, which need not be understood again.
#
# A chat of 2,000 messages takes 0.15 s to read and a turn reads it five times; to see that its file
# has the same bytes as before takes 3 ms.

KEPT = 4
LONG = 100  # messages


class RecentChats:
    """Safe to call from several threads (`_lock` guards all it holds)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, tuple[bytes, Chat]] = OrderedDict()

    def find(self, path: Path, content: bytes) -> Chat | None:
        """The chat of a file with this content, where it is known."""
        with self._lock:
            there = self._kept.get(path)
        return there[1] if there is not None and there[0] == _digest(content) else None

    def keep(self, path: Path, content: bytes, chat: Chat) -> None:
        """Not a short chat, which is read as fast."""
        with self._lock:
            if len(chat.messages) + len(chat.versions) < LONG:
                self._kept.pop(path, None)
                return
            self._kept[path] = _digest(content), chat
            self._kept.move_to_end(path)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()

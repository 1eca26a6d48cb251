"""Chats kept on disk: one JSON file a chat, written to a temporary name and renamed.

A message's pictures lie below `pictures`, in a folder for each chat (`chat_pictures`).
A damaged file is reported in `ChatStore.damaged` and left where it is, never deleted. One writer a
chat at a time (`claim`), of all browser tabs and all processes; a copy of a chat that others went
on with meanwhile is not saved over theirs. It knows nothing of models or of the page.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from t2local import locks, paths
from t2local.engine.chat_index import ChatIndex, ChatSummary
from t2local.engine.requests import controls_from_json, sampling_from_json
from t2local.errors import T2LocalError
from t2local.pictures import MOST_BYTES, check_picture, picture_kind
from t2local.untrusted import check_encodes, read_document, typed, word

SCHEMA = 1
MOST_CHAT_BYTES = 32 * 2**20  # of one file; a page is sent all of it
MOST_READ_BYTES = 4 * MOST_CHAT_BYTES  # versions before wrote larger ones
MOST_TITLE = 1_000  # characters; every page is sent all titles
ROLES = ("user", "assistant")
TITLE_CHARACTERS = 48
UNTITLED = "New chat"
PICTURES = "pictures"  # the folder beside the chats' files
LOCKS = ".locks"  # another
ANSWERED = "This chat is being answered; wait until that is done, stop it, or open a new chat."
ANSWERED_ELSEWHERE = (
    "This chat is being answered by another t2local that uses the same folder; wait until that is "
    "done, or open a new chat."
)
CHAT_ID = re.compile(r"[0-9a-f]{8,40}")


class Mixed(TypedDict, total=False):
    """A mixture's JSON (`requests.mixture_json`)."""

    alpha: Mapping[str, float]
    strength: float
    gains: Mapping[str, float]
    by_matrix: Mapping[str, Mapping[str, float]]


class Decided(Mixed, total=False):
    """A message's `dispatch`: what pass 1 decided, what pass 2 mixed."""

    strategy: str
    probabilities: Mapping[str, float]
    seconds: float
    chosen: str
    note: str
    override: str | None
    cut_tokens: int


class Timed(TypedDict, total=False):
    """A message's `timing`."""

    first_pass_s: float
    second_pass_s: float
    tokens: int
    tokens_per_s: float
    finish: str
    packed_tokens: int
    context_used: int
    context_length: int


class Steering(TypedDict, total=False):
    """A chat's `controls` (`requests.controls_json`)."""

    strategy: str
    soft: bool
    above_chance: float
    threshold: float  # of older chats
    mixture: Mixed


@dataclass(frozen=True)
class Message:
    """One turn. `dispatch` (`Decided`) and `timing` (`Timed`): what the engine decided and took.

    `base_content`: the base model's answer, when both were asked. `steered`: where in `content`
    (characters) the mixture changed, and its JSON from there on. `images`: the paths of its
    pictures; the file holds their names alone, so that a home may be moved. `original`: what the
    model had said, where a person wrote over its answer.
    """

    role: str  # "user" | "assistant"
    content: str
    dispatch: Mapping[str, Any] | None = None
    timing: Mapping[str, Any] | None = None
    base_content: str | None = None
    steered: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    images: tuple[str, ...] = ()
    original: str | None = None


@dataclass(frozen=True)
class Chat:
    """A conversation and the settings it was last asked with; `updated` in seconds since 1970."""

    id: str
    title: str = UNTITLED
    messages: tuple[Message, ...] = ()
    system_prompt: str = ""
    controls: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    updated: float = 0.0

    def ask(self, text: str) -> "Chat":
        """This chat with one more user message; the first gives the chat its title.

        Raises `T2LocalError` when there is nothing in `text`.
        """
        if not text.strip():
            raise T2LocalError("The message is empty; write something first.")
        title = title_of(text) if self.title == UNTITLED else self.title
        return replace(self, title=title, messages=(*self.messages, Message("user", text)))

    def showing(self, images: Sequence[str]) -> "Chat":
        """This chat with pictures at its last message."""
        last = replace(self.messages[-1], images=tuple(images))
        return replace(self, messages=(*self.messages[:-1], last))

    def edit(self, index: int, text: str) -> "Chat":
        """As if message `index` had been `text`, with its pictures; what followed is left out."""
        if not (0 <= index < len(self.messages) and self.messages[index].role == "user"):
            raise T2LocalError(
                "That message is no longer there; reload the page and edit it again."
            )
        before = replace(self, messages=self.messages[:index])
        return before.ask(text).showing(self.messages[index].images)

    def rewrite(self, index: int, text: str) -> "Chat":
        """As if answer `index` had been `text`; nothing in it brings back what the model said."""
        message = self.messages[index]
        said = message.content if message.original is None else message.original
        text = text.strip()
        changed = replace(message, content=text or said, original=said if text else None)
        before, after = self.messages[:index], self.messages[index + 1 :]
        return replace(self, messages=(*before, replace(changed, steered=()), *after))

    def unanswered(self) -> "Chat":
        """This chat without the answers after its last user message.

        Raises `T2LocalError` when nothing was asked yet.
        """
        asked = [i for i, message in enumerate(self.messages) if message.role == "user"]
        if not asked:
            raise T2LocalError("There is nothing to answer yet; write a message first.")
        return replace(self, messages=self.messages[: asked[-1] + 1])

    @property
    def last_answer(self) -> Message | None:
        last = self.messages[-1] if self.messages else None
        return last if last is not None and last.role == "assistant" else None

    def turns(self, sees: bool = True) -> tuple[dict[str, Any], ...]:
        """Role, content and pictures of each message, the system prompt first: for a model.

        `sees`: whether that model does; pictures that are no longer on disk are left out.
        """
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return (*system, *(_turn(message, sees) for message in self.messages))


class Diverged(T2LocalError):
    """Somebody else went on with a chat since this copy of it was read."""


class ChatStore:
    """The chats of one folder; safe to call from several threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or paths.chats_dir()
        self.damaged: dict[str, str] = {}  # file name -> what is wrong with it
        self._index = ChatIndex(self.folder, _summary)
        self._written: dict[str, tuple[tuple[int, ...], float]] = {}  # as left here; `updated`
        self._claimed: set[str] = set()
        self._changed = threading.Condition()

    def list(self) -> list[ChatSummary]:
        """All readable chats, the newest first; unreadable ones are noted in `damaged`."""
        chats, self.damaged = self._index.look()
        return chats

    def new(self) -> Chat:
        """An empty chat; no file yet."""
        return Chat(id=uuid.uuid4().hex)

    def load(self, chat_id: str) -> Chat:
        """Raises `T2LocalError` when there is no such chat or its file is damaged."""
        return read_chat(self._path(chat_id))

    def load_or_new(self, chat_id: str | None) -> Chat:
        """The chat, or an empty one under the same id where nothing was saved yet."""
        if chat_id is None:
            return self.new()
        return self.load(chat_id) if self._path(chat_id).exists() else Chat(id=chat_id)

    def save(self, chat: Chat) -> Chat:
        """Write `chat` with the present time and give it back; an error leaves the old file.

        Within `claim`, wherever others may write. Raises `Diverged` where the file has messages
        that neither are in `chat` nor were known to it.
        """
        chat = replace(self._reconciled(chat), updated=time.time())
        self._write(chat)
        return chat

    def set_aside(self, chat: Chat) -> Chat:
        """Save a chat that has `Diverged` as one of its own, with its pictures."""
        copy = replace(chat, id=self.new().id, title=f"{chat.title} (copy)", updated=0.0)
        messages = tuple(
            replace(m, images=self.keep_pictures(copy.id, [i for i in m.images if _there(i)]))
            for m in chat.messages
        )
        return self.save(replace(copy, messages=messages))

    def _reconciled(self, chat: Chat) -> Chat:
        """What to write of `chat`: where somebody wrote meanwhile, under the title that they gave.

        A chat's `updated` says which copy of it this is.
        """
        path = self._path(chat.id)
        if not path.exists() or self._written.get(chat.id) == (_state(path), chat.updated):
            return chat
        try:
            there = read_chat(path)
        except T2LocalError as error:  # damaged meanwhile: it is left as it is
            raise Diverged(str(error)) from error
        known = chat.messages[: len(there.messages)] == there.messages
        if there.updated != chat.updated and not known:
            raise Diverged(
                "This chat was continued elsewhere since this page showed it; open it again from "
                "the list, then send your message."
            )
        return chat if there.title == UNTITLED else replace(chat, title=there.title)

    def _write(self, chat: Chat) -> None:
        path, content = self._path(chat.id), _bytes(chat)
        with paths.atomic_write(path) as temporary:
            temporary.write_bytes(content)
        self._written[chat.id] = (_state(path), chat.updated)

    def rename(self, chat_id: str, title: str) -> Chat:
        """Give a chat another title; refused when empty or while the chat is being answered."""
        if not title.strip():
            raise T2LocalError("The title is empty; write one, or leave the chat as it was.")
        with self.claim(chat_id):
            chat = replace(self.load(chat_id), title=" ".join(title.split())[:200])
            self._write(chat)  # keeps `updated`
            self._written.pop(chat_id, None)  # a copy from before has the old title
        return chat

    def delete(self, chat_id: str) -> None:
        """Remove a chat's file and pictures; nothing happens when it is already gone."""
        with self.claim(chat_id):
            self._path(chat_id).unlink(missing_ok=True)
            forget(self._pictures(chat_id))

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

    def _path(self, chat_id: str) -> Path:
        if not CHAT_ID.fullmatch(chat_id):
            raise T2LocalError(f"'{chat_id}' is no chat's id; choose a chat from the list.")
        return self.folder / f"{chat_id}.json"

    @property
    def pictures_folder(self) -> Path:
        """What is below it are pictures, and nothing else."""
        return self.folder / PICTURES

    def _pictures(self, chat_id: str) -> Path:
        return self.pictures_folder / self._path(chat_id).stem


def _state(path: Path) -> tuple[int, ...]:
    """Another one after every write: each makes a new file."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _there(image: str) -> bool:
    return Path(image).is_file()


def _turn(message: Message, sees: bool) -> dict[str, Any]:
    turn = {"role": message.role, "content": message.content}
    images = [image for image in message.images if _there(image)] if sees else []
    return {**turn, "images": images} if images else turn


def _bytes(chat: Chat) -> bytes:
    """A chat's file. Raises `T2LocalError` for what could not be read back."""
    messages = [
        {**asdict(message), "images": [Path(image).name for image in message.images]}
        for message in chat.messages
    ]
    content = {"schema": SCHEMA, **asdict(chat), "messages": messages}
    check_encodes(chat.title, "the title")
    check_encodes(chat.system_prompt, "the system prompt")
    for message in chat.messages:
        check_encodes(f"{message.content}{message.base_content}", "the message")
    found = json.dumps(content, ensure_ascii=False, indent=1).encode()
    if len(found) > MOST_CHAT_BYTES:
        raise T2LocalError(
            f"This chat would have {len(found) / 2**20:.0f} MB, the most is "
            f"{MOST_CHAT_BYTES // 2**20}; go on in a new chat."
        )
    return found


def title_of(text: str) -> str:
    """The first words of a message, at most `TITLE_CHARACTERS` long."""
    words = " ".join(text.split())
    if len(words) <= TITLE_CHARACTERS:
        return words
    return words[: TITLE_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"


def _summary(path: Path) -> ChatSummary:
    chat = read_chat(path)
    return ChatSummary(chat.id, chat.title, chat.updated)


def read_chat(path: Path) -> Chat:
    """Read one file. Raises `T2LocalError` when absent, damaged or from a newer t2local."""
    try:
        content = read_document(path, MOST_READ_BYTES, finite=False)
    except (ValueError, OSError) as error:
        if not os.path.lexists(path):
            raise T2LocalError(
                "That chat is no longer on disk; choose another, or start a new one."
            ) from None
        raise T2LocalError(f"The chat file '{path.name}' cannot be read ({error}).") from error
    try:
        chat = chat_from_json(content, path.parent / PICTURES / path.stem)
    except ValueError as error:
        raise T2LocalError(
            f"The chat file '{path.name}' is damaged ({error}); it was left as it is."
        ) from error
    if chat.id != path.stem:
        raise T2LocalError(
            f"The chat file '{path.name}' is a copy of another chat ('{word(chat.title)}'); "
            "rename or remove it."
        )
    return chat


def chat_from_json(content: Mapping[str, Any], pictures: Path) -> Chat:
    """`pictures`: the folder of the chat's own. What only decorates falls back to its default.

    Raises `T2LocalError` for a newer schema, `ValueError` where what was said cannot be read.
    """
    if typed(int, content.get("schema"), "schema") > SCHEMA:
        raise T2LocalError(
            f"Chat '{str(content.get('id'))[:40]}' was saved by a newer t2local (format "
            f"{content['schema']}); update t2local to open it."
        )
    chat_id = typed(str, content.get("id"), "id")
    if not CHAT_ID.fullmatch(chat_id):
        raise ValueError("its id is none of a chat")
    messages = typed(list[dict], content.get("messages"), "messages")
    title = readable(str, content.get("title"), UNTITLED)
    return Chat(
        id=chat_id,
        title=title if len(title) <= MOST_TITLE else UNTITLED,
        messages=tuple(message_from_json(m, pictures) for m in messages),
        system_prompt=readable(str, content.get("system_prompt"), ""),
        controls=readable(Steering, content.get("controls"), {}, controls_from_json),
        sampling=readable(dict, content.get("sampling"), {}, sampling_from_json),
        updated=readable(float, content.get("updated"), 0.0),
    )


def message_from_json(content: Mapping[str, Any], pictures: Path) -> Message:
    """Raises `ValueError` for what is no message; its decorations as in `chat_from_json`."""
    role = typed(str, content.get("role"), "messages.role")
    if role not in ROLES:
        raise ValueError(f"the role '{word(role)}' is none of {', '.join(ROLES)}")
    text = typed(str, content.get("content"), "messages.content")

    def check_places(steered: Sequence[tuple[int, Mixed]]) -> None:
        if any(not 0 <= at <= len(text) for at, _ in steered):
            raise ValueError("it was steered at a place that its text does not have")

    marks = tuple[tuple[int, Mixed], ...]
    images = readable(tuple[str, ...], content.get("images"), ())
    return Message(
        role,
        text,
        dispatch=readable(Decided | None, content.get("dispatch"), None),
        timing=readable(Timed | None, content.get("timing"), None),
        base_content=readable(str | None, content.get("base_content"), None),
        steered=readable(marks, content.get("steered"), (), check_places),
        images=tuple(str(pictures / Path(name).name) for name in images),
        original=readable(str | None, content.get("original"), None),
    )


def readable(kind: Any, value: Any, default: Any, check: Callable | None = None) -> Any:
    """`value` as `kind`; `default` where it is none, `check` refuses it, or NaN is in it."""
    try:
        json.dumps(value, allow_nan=False)
        found = typed(kind, value)
        if check is not None:
            check(found)
    except (ValueError, T2LocalError):
        return default
    return found


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

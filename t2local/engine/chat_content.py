"""What a chat is: its messages and what was decided for each, and the way to JSON and back.

What only decorates a message falls back to its default where it cannot be read; what was said does
not. The files of chats are `chats`.
"""

import contextlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from t2local.engine.attachments import Attachment, with_files
from t2local.engine.requests import controls_from_json, mixture_from_json, sampling_from_json
from t2local.errors import T2LocalError
from t2local.untrusted import check_encodes, typed, word

SCHEMA = 1
MOST_CHAT_BYTES = 32 * 2**20  # of one file; a page is sent all of it
MOST_TITLE = 1_000  # characters; every page is sent all titles
MOST_TAGS = 8  # of a chat
LONGEST_TAG = 24  # characters
ROLES = ("user", "assistant")
TITLE_CHARACTERS = 48
UNTITLED = "New chat"
JSON = json.JSONEncoder(ensure_ascii=False)
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
    sampling: Mapping[str, Any]


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
    pictures; the file holds their names alone, so that a home may be moved. `files`: the texts of
    those that are attached. `original`: what the
    model had said, where a person wrote over its answer. `id`: of one that has other versions, or
    whose followers have; 0 for others.
    """

    role: str  # "user" | "assistant"
    content: str
    dispatch: Mapping[str, Any] | None = None
    timing: Mapping[str, Any] | None = None
    base_content: str | None = None
    steered: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    images: tuple[str, ...] = ()
    original: str | None = None
    files: tuple[Attachment, ...] = ()
    id: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Version:
    """A message that the chat does not show now; it follows the one with the id `parent`, 0: none.

    All messages that were ever there are a tree, of which `Chat.messages` is one way.
    """

    parent: int
    message: Message


@dataclass(frozen=True)
class Chat:
    """A conversation and the settings it was last asked with; `updated` in seconds since 1970.

    `versions`: what it said elsewhere, before a message was edited or answered again. `pinned`: it
    stands at the top of the list. `tags`: each as `tag_of` gives it.
    """

    id: str
    title: str = UNTITLED
    messages: tuple[Message, ...] = ()
    system_prompt: str = ""
    controls: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    updated: float = 0.0
    versions: tuple[Version, ...] = ()
    pinned: bool = False
    tags: tuple[str, ...] = ()

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

    def attaching(self, files: Sequence[Attachment]) -> "Chat":
        """This chat with the texts of files at its last message."""
        last = replace(self.messages[-1], files=tuple(files))
        return replace(self, messages=(*self.messages[:-1], last))

    def edit(self, index: int, text: str) -> "Chat":
        """As if message `index` had been `text`, with its pictures; what was there is a version."""
        if not (0 <= index < len(self.messages) and self.messages[index].role == "user"):
            raise T2LocalError(
                "That message is no longer there; reload the page and edit it again."
            )
        before = self.messages[index]
        return self.without(index).ask(text).showing(before.images).attaching(before.files)

    def rewrite(self, index: int, text: str) -> "Chat":
        """As if answer `index` had been `text`; nothing in it brings back what the model said."""
        message = self.messages[index]
        said = message.content if message.original is None else message.original
        text = text.strip()
        changed = replace(message, content=text or said, original=said if text else None)
        before, after = self.messages[:index], self.messages[index + 1 :]
        return replace(self, messages=(*before, replace(changed, steered=()), *after))

    def unanswered(self) -> "Chat":
        """This chat without the answers after its last user message, which become versions.

        Raises `T2LocalError` when nothing was asked yet.
        """
        asked = [i for i, message in enumerate(self.messages) if message.role == "user"]
        if not asked:
            raise T2LocalError("There is nothing to answer yet; write a message first.")
        return self.without(asked[-1] + 1)

    def tagged(self, text: str) -> "Chat":
        """This chat with one more tag, or several between commas; one that it has is no second.

        Raises `T2LocalError` for what is no tag, and for too many.
        """
        tags = distinct((*self.tags, *map(tag_of, text.split(","))))
        if len(tags) > MOST_TAGS:
            raise T2LocalError(f"A chat has at most {MOST_TAGS} tags; take one off first.")
        return replace(self, tags=tags)

    def untagged(self, tag: str) -> "Chat":
        """This chat without a tag; nothing happens where it has none of that name."""
        kept = (own for own in self.tags if own.casefold() != tag.casefold())
        return replace(self, tags=tuple(kept))

    # --- versions

    def without(self, index: int) -> "Chat":
        """This chat without the messages from `index` on, which become versions."""
        if index >= len(self.messages):
            return self
        if self.messages[index].role == "assistant" and not self.messages[index].content.strip():
            return replace(self, messages=self.messages[:index])  # nothing was said
        chat = self._numbered()
        parents = (0, *(message.id for message in chat.messages))
        left = zip(parents[index:], chat.messages[index:], strict=False)
        versions = (*self.versions, *(Version(parent, message) for parent, message in left))
        return replace(chat, messages=chat.messages[:index], versions=versions)

    def version_of(self, index: int) -> tuple[int, int]:
        """Which of how many versions message `index` is, from 1, the oldest first.

        0 of those there are for a place behind the last message.
        """
        ids = self._ids_at(index)
        own = self.messages[index].id if index < len(self.messages) else None
        return (0 if own is None else ids.index(own) + 1), len(ids)

    def others(self, index: int) -> list[tuple[int, Message]]:
        """The versions of message `index` that are not shown, each behind its place."""
        there = {version.message.id: version.message for version in self.versions}
        ids = enumerate(self._ids_at(index), 1)
        return [(place, there[id]) for place, id in ids if id in there]

    def turned(self, index: int, step: int) -> "Chat":
        """With the version of message `index` that stands `step` further, and what followed it.

        Raises `T2LocalError` where there is none.
        """
        there = 0 <= index <= len(self.messages)
        place, count = self.version_of(index) if there else (0, 0)
        if not 1 <= place + step <= count:
            raise T2LocalError("There is no other version of that message; reload the page.")
        wanted, chat = self._ids_at(index)[place + step - 1], self.without(index)
        messages, versions = list(chat.messages), list(chat.versions)
        found = next((v for v in versions if v.message.id == wanted), None)
        if found is None:  # the one that is shown, without an id so far or with nothing in it
            return self
        while found is not None:
            versions = [version for version in versions if version is not found]
            messages.append(found.message)
            after = [v for v in versions if v.parent == found.message.id]
            found = max(after, key=lambda v: v.message.id, default=None)
        return replace(chat, messages=tuple(messages), versions=tuple(versions))

    def _ids_at(self, index: int) -> list[int]:
        """The ids of all versions of message `index`, the oldest first; a new one has 0."""
        own = [self.messages[index].id] if index < len(self.messages) else []
        parent = self.messages[index - 1].id if index else 0
        known = parent or not index  # a message without an id has no versions behind it
        others = [v.message.id for v in self.versions if v.parent == parent] if known else []
        return sorted([*others, *own], key=lambda id: id or math.inf)

    def _numbered(self) -> "Chat":
        """With an id for each message that it shows."""
        taken = [m.id for m in (*self.messages, *(v.message for v in self.versions))]
        fresh = itertools.count(1 + max(taken, default=0))
        messages = (m if m.id else replace(m, id=next(fresh)) for m in self.messages)
        return replace(self, messages=tuple(messages))

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


def title_of(text: str) -> str:
    """The first words of a message, at most `TITLE_CHARACTERS` long."""
    words = " ".join(text.split())
    if len(words) <= TITLE_CHARACTERS:
        return words
    return words[: TITLE_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"


def tag_of(text: str) -> str:
    """`text` as a tag: one word without "#". Raises `T2LocalError` for what is none."""
    check_encodes(text, "the tag")
    words = "".join(c if c.isprintable() else " " for c in text.replace("#", " ")).split()
    tag = "-".join(words)
    if not tag:
        raise T2LocalError("The tag is empty; write a word.")
    if len(tag) > LONGEST_TAG:
        raise T2LocalError(f"A tag has at most {LONGEST_TAG} characters; write a shorter one.")
    return tag


def distinct(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags in their order; of those that differ in capital letters alone the first."""
    found: dict[str, str] = {}
    for tag in tags:
        found.setdefault(tag.casefold(), tag)
    return tuple(found.values())


# --- To JSON and back.


def chat_bytes(chat: Chat) -> bytes:
    """A chat's file. Raises `T2LocalError` for what could not be read back."""
    messages = [_message_json(message) for message in chat.messages]
    versions = [{"parent": v.parent, **_message_json(v.message)} for v in chat.versions]
    values = {"schema": SCHEMA, **vars(chat), "messages": messages, "versions": versions}
    check_encodes(chat.title, "the title")
    check_encodes(chat.system_prompt, "the system prompt")
    for message in (*chat.messages, *(version.message for version in chat.versions)):
        check_encodes(f"{message.content}{message.base_content}", "the message")
        _check_files(message.files)
    found = _in_lines({name: _written(value) for name, value in values.items()}).encode()
    if len(found) > MOST_CHAT_BYTES:
        raise T2LocalError(
            f"This chat would have {len(found) / 2**20:.0f} MB, the most is "
            f"{MOST_CHAT_BYTES // 2**20}; go on in a new chat."
        )
    return found


def _written(value: Any) -> str:
    """JSON with each part of a list on a line of its own; json's own indent is ten times slower."""
    if isinstance(value, list):
        return "[" + ",\n  ".join(map(JSON.encode, value)) + "]"
    return JSON.encode(value)


def _in_lines(parts: Mapping[str, str]) -> str:
    return "{" + ",\n ".join(f'"{name}": {part}' for name, part in parts.items()) + "}"


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
        versions=_versions(content.get("versions"), pictures),
        pinned=readable(bool, content.get("pinned"), False),
        tags=_tags(content.get("tags")),
    )


def _message_json(message: Message) -> dict[str, Any]:
    images = [Path(image).name for image in message.images]
    return {**vars(message), "images": images, "files": [vars(file) for file in message.files]}


def _tags(content: Any) -> tuple[str, ...]:
    """Those that can be read, at most `MOST_TAGS`."""
    found = []
    for text in readable(list, content, []):
        with contextlib.suppress(ValueError, T2LocalError):
            found.append(tag_of(typed(str, text, "tags")))
    return distinct(found)[:MOST_TAGS]


def _versions(content: Any, pictures: Path) -> tuple[Version, ...]:
    """Those that can be read."""
    found: dict[int, Version] = {}
    for values in readable(list[dict], content, []):
        with contextlib.suppress(ValueError):
            message = message_from_json(values, pictures)
            if message.id > 0:
                version = Version(typed(int, values.get("parent"), "parent"), message)
                found.setdefault(message.id, version)
    return tuple(found.values())


def message_from_json(content: Mapping[str, Any], pictures: Path) -> Message:
    """Raises `ValueError` for what is no message; its decorations as in `chat_from_json`."""
    role = typed(str, content.get("role"), "messages.role")
    if role not in ROLES:
        raise ValueError(f"the role '{word(role)}' is none of {', '.join(ROLES)}")
    text = typed(str, content.get("content"), "messages.content")

    def check_places(steered: Sequence[tuple[int, Mixed]]) -> None:
        if any(not 0 <= at <= len(text) for at, _ in steered):
            raise ValueError("it was steered at a place that its text does not have")
        for _, mixture in steered:
            _check_mixed(mixture)

    marks = tuple[tuple[int, Mixed], ...]
    images = readable(tuple[str, ...], content.get("images"), ())
    return Message(
        role,
        text,
        dispatch=readable(Decided | None, content.get("dispatch"), None, _check_mixed),
        timing=readable(Timed | None, content.get("timing"), None),
        base_content=readable(str | None, content.get("base_content"), None),
        steered=readable(marks, content.get("steered"), (), check_places),
        images=tuple(str(pictures / Path(name).name) for name in images),
        original=readable(str | None, content.get("original"), None),
        files=readable(tuple[Attachment, ...], content.get("files"), (), _check_files),
        id=max(0, readable(int, content.get("id"), 0)),
    )


def _check_files(files: Sequence[Attachment]) -> None:
    """Raise `ValueError` for what could not be written again."""
    for file in files:
        check_encodes(f"{file.name}{file.text}{file.read}", "the file")


def _check_mixed(mixture: Mapping[str, Any] | None) -> None:
    """Raise `T2LocalError` for numbers that no mixture has."""
    mixture_from_json(mixture or {})


def readable(kind: Any, value: Any, default: Any, check: Callable | None = None) -> Any:
    """`value` as `kind`; `default` where it is none, `check` refuses it, or NaN is in it.

    A default is what stands for nothing: most of what most messages have.
    """
    if value is None or value == [] or value == {}:
        return default
    try:
        json.dumps(value, allow_nan=False)
        found = typed(kind, value)
        if check is not None:
            check(found)
    except (ValueError, T2LocalError):
        return default
    return found


def _turn(message: Message, sees: bool) -> dict[str, Any]:
    said = with_files(message.files, message.content) if message.files else message.content
    turn = {"role": message.role, "content": said}
    images = [image for image in message.images if is_there(image)] if sees else []
    return {**turn, "images": images} if images else turn


def is_there(image: str) -> bool:
    return Path(image).is_file()

"""Chats from files: our own exports, and those of other programs.

Read are what ChatGPT, Claude, Open WebUI, text-generation-webui, ShareGPT and OpenAI's messages
look like, alone, in lists, line by line or in the ZIP file of an export. Messages that were edited
or answered again come in as versions, where the file has them.
"""

import base64
import binascii
import io
import tempfile
import threading
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from t2local.engine.chat_content import UNTITLED, Chat, Message, Version, chat_from_json, title_of
from t2local.engine.chat_export import MARK, VERSION
from t2local.engine.chats import PICTURES, ChatStore
from t2local.errors import DiskFull, T2LocalError
from t2local.tasks.conversations import ASSISTANT, CALL, LABELS, RESULT, SYSTEM, USER, turns_of
from t2local.untrusted import file_bytes, parsed, typed, word

MOST_BYTES = 256 * 2**20  # of a file, unpacked
MOST_PARTS = 5_000_000  # lists and objects, each of which takes memory
ONE_AT_A_TIME = threading.Lock()  # a large file takes much of it
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)  # the last: a password
MOST_CHATS = 20_000
TITLES = ("title", "name", "summary")
TIMES = ("update_time", "updated_at", "create_time", "created_at", "timestamp")
HOLDERS = ("messages", "conversations", "conversation", "chat_messages", "turns", "history")
LISTS = ("chats", "conversations", "data", "items")
BEGUN = "<|BEGIN-VISIBLE-CHAT|>"  # what text-generation-webui writes for "the bot speaks first"
DATA = "data:"


@dataclass(frozen=True)
class Incoming:
    """What a file holds. `skipped`: what could not be read, a sentence each."""

    chats: tuple[Chat, ...]
    pictures: tuple[Mapping[str, bytes], ...]  # of each: file name -> content
    skipped: tuple[str, ...] = ()


def take_in(store: ChatStore, path: Path) -> tuple[list[Chat], tuple[str, ...]]:
    """Save the chats of a file among those of `store`; what was saved, and what was skipped.

    A chat that is there already comes in as a second one. Raises `T2LocalError` where the file
    holds no chat that can be read, then nothing is saved, and for a full disk.
    """
    with ONE_AT_A_TIME:
        found = read_chats(path)
        saved, skipped = [], list(found.skipped)
        for chat, pictures in zip(found.chats, found.pictures, strict=True):
            own = chat if store.is_free(chat.id) else replace(chat, id=store.new().id)
            try:
                with store.claim(own.id):
                    saved.append(store.bring(_with_pictures(store, own, pictures)))
            except DiskFull:
                raise
            except T2LocalError as error:
                skipped.append(f"'{chat.title}': {error}")
    return saved, tuple(skipped)


def _with_pictures(store: ChatStore, chat: Chat, pictures: Mapping[str, bytes]) -> Chat:
    """The chat with its pictures among those of `store`; those that are missing are left out."""
    kept: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in pictures.items():
            path = Path(folder) / f"picture {len(kept)}"
            path.write_bytes(content)
            try:
                (kept[name],) = store.keep_pictures(chat.id, [str(path)])
            except DiskFull:
                raise
            except T2LocalError:
                continue  # no picture, or too large: the chat comes in without it

    def placed(message: Message) -> Message:
        names = (Path(image).name for image in message.images)
        return replace(message, images=tuple(kept[name] for name in names if name in kept))

    versions = (replace(v, message=placed(v.message)) for v in chat.versions)
    return replace(chat, messages=tuple(map(placed, chat.messages)), versions=tuple(versions))


def read_chats(path: Path) -> Incoming:
    """The chats of a file. Raises `T2LocalError` where there is none that can be read."""
    chats, pictures, skipped = [], [], []
    try:
        for value in _values(path, skipped):
            for one in _conversations(value):
                if len(chats) == MOST_CHATS:
                    raise T2LocalError(
                        f"'{path.name}' has more than {MOST_CHATS:,} chats; import it in parts."
                    )
                try:
                    chat, own = _chat(one)
                except (ValueError, LookupError, TypeError, AttributeError, T2LocalError) as error:
                    skipped.append(f"'{_title(one) or 'a chat'}': {error}")
                    continue
                chats.append(chat)
                pictures.append(own)
    except (OSError, ValueError, *ZIP_ERRORS) as error:
        raise T2LocalError(
            f"'{path.name}' cannot be read ({error}); give a JSON, JSONL or ZIP file of chats."
        ) from error
    if not chats:
        why = f" The first that could not be read is {skipped[0]}." if skipped else ""
        raise T2LocalError(
            f"'{path.name}' holds no chats that are known here.{why} Known are the exports of "
            "t2local, ChatGPT, Claude, Open WebUI and text-generation-webui, ShareGPT and OpenAI's "
            "messages; export it as one of these."
        )
    return Incoming(tuple(chats), tuple(pictures), tuple(skipped))


def _values(path: Path, skipped: list[str]) -> Iterator[Any]:
    """The JSON values of a file: one, one a line, or those of the files in a ZIP.

    What cannot be read in a ZIP is added to `skipped`.
    """
    content = file_bytes(path, MOST_BYTES)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        yield from _json_values(content, path.name)
        return
    left = MOST_BYTES
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        for about in packed.infolist():
            name = PurePosixPath(about.filename).name
            if not name.lower().endswith((".json", ".jsonl")) or name.startswith("._"):
                continue  # the latter is what macOS notes beside a file
            try:
                with packed.open(about) as file:
                    inner = file.read(left + 1)
            except ZIP_ERRORS as error:
                skipped.append(f"'{word(name)}': {error}")
                continue
            left -= len(inner)
            if left < 0:
                raise ValueError(f"it has more than {MOST_BYTES / 2**20:.3g} MB, unpacked")
            try:
                yield from _json_values(inner, name)
            except ValueError as error:
                skipped.append(f"'{word(name)}': {error}")


def _json_values(content: bytes, name: str) -> Iterator[Any]:
    if content.count(b"[") + content.count(b"{") > MOST_PARTS:
        raise ValueError(f"it has more than {MOST_PARTS:,} lists and objects")
    text = content.decode("utf-8-sig")
    try:
        yield parsed(text, finite=False, once=False)
        return
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2 or name.lower().endswith(".json"):
            raise ValueError(f"{word(name)}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            yield parsed(line, finite=False, once=False)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error


def _conversations(value: Any) -> Iterator[Any]:
    """The chats in a value: itself, or those of a list that it is or holds."""
    if isinstance(value, list):
        if _are_turns(value):
            yield {"messages": value}
            return
        for one in value:
            yield from _conversations(one)
        return
    if not isinstance(value, Mapping):
        return
    if MARK in value:
        _check_version(value)
        for one in typed(list[dict], value.get("chats"), "chats"):
            yield {MARK: VERSION, **one}
        return
    if "mapping" in value or "internal" in value or isinstance(value.get("chat"), Mapping):
        yield value
        return
    if any(isinstance(value.get(name), list) and _are_turns(value[name]) for name in HOLDERS):
        yield value
        return
    for name in LISTS:
        if isinstance(value.get(name), list):
            yield from _conversations(value[name])


def _check_version(value: Mapping[str, Any]) -> None:
    if typed(int, value[MARK], MARK) > VERSION:
        raise T2LocalError("These chats come from a newer t2local; update this one to import them.")


def _are_turns(values: Sequence[Any]) -> bool:
    """Whether a list holds turns, and not chats."""
    if not values or not all(isinstance(value, Mapping) for value in values):
        return False
    if any(name in values[0] for name in ("mapping", "chat", *HOLDERS)):
        return False
    try:
        return bool(turns_of(list(map(_without_empty, values))))
    except ValueError:
        return False


def _without_empty(turn: Any) -> Any:
    """A turn without what says nothing: some have an empty `content` beside their `text`."""
    if not isinstance(turn, Mapping):
        return turn
    return {name: part for name, part in turn.items() if part not in (None, "", [], {})}


def _chat(value: Any) -> tuple[Chat, Mapping[str, bytes]]:
    """One chat of any kind, with its pictures. Raises `ValueError` where nothing is said in it."""
    if MARK in value:
        return _own(value)
    inner = value.get("chat") if isinstance(value.get("chat"), Mapping) else value
    if "mapping" in inner:
        nodes, leaf = _openai_nodes(inner)
    elif isinstance(inner.get("history"), Mapping) and "messages" in inner["history"]:
        nodes, leaf = _webui_nodes(inner["history"])
    elif "internal" in inner:
        nodes, leaf = _in_a_row(_pairs(inner["internal"]))
    else:
        held = next((inner[n] for n in HOLDERS if isinstance(inner.get(n), list)), None)
        if held is None:
            raise ValueError("it has no messages")
        turns = turns_of(list(map(_without_empty, held)))
        nodes, leaf = _in_a_row([_Node(turn.role, turn.text) for turn in turns])
    chat = _of_tree(nodes, leaf)
    title = _title(value) or _title(inner) or title_of(_first_question(chat))
    return replace(chat, title=title, updated=_time(value) or _time(inner)), {}


def _own(value: Mapping[str, Any]) -> tuple[Chat, Mapping[str, bytes]]:
    chat = chat_from_json(value, Path(PICTURES))
    pictures = {}
    for name, uri in typed(dict, value.get(PICTURES) or {}, PICTURES).items():
        head, _, body = typed(str, uri, PICTURES).partition(",")
        if not head.startswith(DATA):
            raise ValueError("a picture of it is no data URI")
        try:
            pictures[name] = base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise ValueError(f"a picture of it is damaged ({error})") from error
    return chat, pictures


@dataclass(frozen=True)
class _Node:
    """A message of a tree. `parent`: another's id, "" for none."""

    role: str
    text: str
    id: str = ""
    parent: str = ""


def _in_a_row(nodes: Sequence[_Node]) -> tuple[list[_Node], str]:
    chained = [
        replace(node, id=str(i), parent=str(i - 1) if i else "") for i, node in enumerate(nodes)
    ]
    return chained, chained[-1].id if chained else ""


def _pairs(rows: Any) -> list[_Node]:
    """Questions with their answers, as text-generation-webui has them."""
    return [
        _Node(role, text)
        for row in typed(tuple[tuple[str, ...], ...], rows, "internal")
        for role, text in zip((USER, ASSISTANT), row, strict=False)
        if text != BEGUN
    ]


def _openai_nodes(value: Mapping[str, Any]) -> tuple[list[_Node], str]:
    """ChatGPT's tree; what it hides (its own settings, a tool's work) is left out."""
    nodes = []
    for id, entry in typed(dict, value["mapping"], "mapping").items():
        message = entry.get("message") or {}
        role = (message.get("author") or {}).get("role") or ""
        hidden = (message.get("metadata") or {}).get("is_visually_hidden_from_conversation")
        spoken = role in (USER, ASSISTANT, SYSTEM) and message.get("recipient", "all") == "all"
        text = "" if hidden or not spoken else _text(message.get("content"))
        nodes.append(_Node(role, text, id, entry.get("parent") or ""))
    return nodes, value.get("current_node") or _newest_leaf(nodes)


def _webui_nodes(history: Mapping[str, Any]) -> tuple[list[_Node], str]:
    """Open WebUI's tree."""
    nodes = [
        _Node(str(entry.get("role")), _text(entry.get("content")), id, entry.get("parentId") or "")
        for id, entry in typed(dict, history["messages"], "messages").items()
    ]
    return nodes, history.get("currentId") or _newest_leaf(nodes)


def _text(content: Any) -> str:
    """The text of a content; parts that are none are left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        if content.get("content_type") not in (None, "text", "multimodal_text", "code"):
            return ""  # a model's thoughts and a tool's page
        content = content.get("parts") or content.get("text") or ""
    parts = content if isinstance(content, list) else [content]
    texts = [
        p if isinstance(p, str) else p.get("text") for p in parts if isinstance(p, str | Mapping)
    ]
    return "\n\n".join(text for text in texts if isinstance(text, str) and text.strip())


def _newest_leaf(nodes: Sequence[_Node]) -> str:
    parents = {node.parent for node in nodes}
    return next((node.id for node in reversed(nodes) if node.id not in parents), "")


def _of_tree(nodes: Sequence[_Node], leaf: str) -> Chat:
    """A chat that shows the way to `leaf`; all other messages are versions.

    What says nothing is left out, and what stands behind it follows what was before. Two messages
    of one role become one. The first system message is the chat's system prompt.
    """
    tree = {node.id: node for node in nodes}
    kept: dict[str, _Node] = {}
    merged: set[str] = set()  # what another one begins with
    system = ""
    for id in _from_the_root(tree):
        node = tree[id]
        parent = _kept_ancestor(tree, kept, node.parent)
        text, role = node.text.strip(), node.role
        if role in (CALL, RESULT) and text:
            role, text = (ASSISTANT if role == CALL else USER), f"{LABELS[node.role]}: {text}"
        if role == SYSTEM:
            system = system or text
            continue
        if not text or role not in (USER, ASSISTANT):
            continue
        before = kept.get(parent)
        if before is not None and before.role == role:
            kept[id] = replace(before, text=f"{before.text}\n\n{text}", id=id)
            merged.add(before.id)
        else:
            kept[id] = _Node(role, text, id, parent)
    for id in merged - {node.parent for node in kept.values()}:
        del kept[id]
    way = _way(tree, kept, leaf)
    if not way:
        raise ValueError("nothing is said in it")
    return _laid_out(kept, way, system)


def _from_the_root(tree: Mapping[str, _Node]) -> list[str]:
    """All ids, each after its parent; those in a circle are left out."""
    children: dict[str, list[str]] = {}
    for node in tree.values():
        children.setdefault(node.parent if node.parent in tree else "", []).append(node.id)
    order, waiting = [], list(reversed(children.get("", [])))
    while waiting:
        id = waiting.pop()
        order.append(id)
        waiting += reversed(children.get(id, []))
    return order


def _kept_ancestor(tree: Mapping[str, _Node], kept: Mapping[str, _Node], id: str) -> str:
    seen: set[str] = set()  # of a damaged file the parents may go round in a circle
    while id in tree and id not in kept and id not in seen:
        seen.add(id)
        id = tree[id].parent
    return id if id in kept else ""


def _way(tree: Mapping[str, _Node], kept: Mapping[str, _Node], leaf: str) -> list[str]:
    """The kept ids from the first message to `leaf`, or to the last one where there is no leaf."""
    id = _kept_ancestor(tree, kept, leaf) or next(reversed(kept), "")
    way = []
    while id:
        way.append(id)
        id = kept[id].parent
    return way[::-1]


def _laid_out(kept: Mapping[str, _Node], way: Sequence[str], system: str) -> Chat:
    numbers = {id: number for number, id in enumerate(kept, 1)}
    shown, alone = set(way), len(way) == len(kept)
    messages = (Message(kept[id].role, kept[id].text, id=0 if alone else numbers[id]) for id in way)
    versions = (
        Version(numbers.get(node.parent, 0), Message(node.role, node.text, id=numbers[id]))
        for id, node in kept.items()
        if id not in shown
    )
    return Chat(
        uuid.uuid4().hex,
        messages=tuple(messages),
        system_prompt=system,
        versions=tuple(versions),
    )


def _first_question(chat: Chat) -> str:
    return next((m.content for m in chat.messages if m.role == "user"), UNTITLED)


def _title(value: Any) -> str:
    if not isinstance(value, Mapping):
        return ""
    found = (value.get(name) for name in TITLES)
    text = next((t for t in found if isinstance(t, str) and t.strip()), "")
    return " ".join(text.split())[:200]


def _time(value: Any) -> float:
    """Seconds since 1970, 0.0 where the chat does not say."""
    for name in TIMES:
        found = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(found, str):
            try:
                found = datetime.fromisoformat(found.replace("Z", "+00:00")).timestamp()
            except ValueError:
                continue
        if isinstance(found, int | float) and not isinstance(found, bool) and found > 0:
            return found / (1e9 if found > 1e17 else 1e3 if found > 1e11 else 1)
    return 0.0

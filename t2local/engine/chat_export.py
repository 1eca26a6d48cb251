"""Chats as files for people and programs elsewhere.

As JSON that comes in again whole (versions, decisions, mixtures and pictures included), as Markdown
to read, or as the messages that OpenAI's API takes.
"""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.engine.chat_content import Chat, Message, chat_bytes, is_there
from t2local.engine.chats import PICTURES
from t2local.errors import T2LocalError
from t2local.pictures import data_uri, picture_bytes

MARK = "t2local_chats"  # the name by which a file of our own is known; its value is its version
VERSION = 1
JSON, MARKDOWN, OPENAI = KINDS = "json", "markdown", "openai"


def exported(chats: Sequence[Chat], kind: str) -> tuple[str, bytes]:
    """The name and the content of a file with these chats. Raises `T2LocalError`."""
    if not chats:
        raise T2LocalError("There is no chat to export yet; write a message first.")
    if kind not in KINDS:
        raise T2LocalError(f"Chats are exported as {', '.join(KINDS)}, not as '{kind}'.")
    name = paths.slug(chats[0].title)[:60] or "chat" if len(chats) == 1 else "chats"
    if kind == JSON:
        content = {MARK: VERSION, "chats": [_whole(chat) for chat in chats]}
        return f"{name}.json", json.dumps(content, ensure_ascii=False, indent=1).encode()
    if kind == OPENAI:
        lines = (json.dumps(openai_messages(chat), ensure_ascii=False) for chat in chats)
        return f"{name}.jsonl", "".join(f"{line}\n" for line in lines).encode()
    if len(chats) == 1:
        return f"{name}.md", markdown(chats[0]).encode()
    packed, taken = io.BytesIO(), set()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for chat in chats:
            slug = paths.slug(chat.title)[:60] or "chat"
            one = slug if slug not in taken else f"{slug}-{chat.id[:8]}"
            taken.add(one)
            file.writestr(f"{one}.md", markdown(chat))
    return f"{name}.zip", packed.getvalue()


def markdown(chat: Chat) -> str:
    """What was said, with a line on who answered; versions are left out."""
    parts = [f"# {chat.title}"]
    if chat.system_prompt:
        parts.append(f"> {chat.system_prompt}".replace("\n", "\n> "))
    for message in chat.messages:
        parts.append("## You" if message.role == "user" else "## Answer")
        if told := _decided(message):
            parts.append(f"*{told}*")
        parts += [f"![picture]({Path(image).name})" for image in message.images]
        parts += [f"{file.name} ({file.read}):\n\n{_fenced(file.text)}" for file in message.files]
        parts.append(message.content.strip())
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    """As a block of code, whatever is in it."""
    fence = max(["``", *re.findall(r"`{3,}", text)], key=len) + "`"
    return f"{fence}\n{text}\n{fence}"


def _decided(message: Message) -> str:
    """`classifier · math 0.86, code 0.09`, "" where nothing was decided."""
    decided = message.dispatch or {}
    alpha = decided.get("alpha") or {}
    mixed = ", ".join(f"{name} {a:.2f}" for name, a in alpha.items()) or "base model"
    return f"{decided['strategy']} · {mixed}" if decided.get("strategy") else ""


def openai_messages(chat: Chat) -> dict[str, Any]:
    """`{"messages": [...]}` as OpenAI's chat completions take them, pictures as data URIs."""
    messages: list[dict[str, Any]] = []
    for turn in chat.turns():
        text, images = turn["content"], turn.get("images", ())
        parts = [{"type": "image_url", "image_url": {"url": _uri(image)}} for image in images]
        content = [{"type": "text", "text": text}, *parts] if parts else text
        messages.append({"role": turn["role"], "content": content})
    return {"messages": messages}


def _whole(chat: Chat) -> dict[str, Any]:
    """A chat's own file as it is on disk, with its pictures in it."""
    messages = (*chat.messages, *(version.message for version in chat.versions))
    images = {image for message in messages for image in message.images if is_there(image)}
    content = json.loads(chat_bytes(chat))
    return {**content, PICTURES: {Path(image).name: _uri(image) for image in sorted(images)}}


def _uri(image: str) -> str:
    return data_uri(picture_bytes(image))

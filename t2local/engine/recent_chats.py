"""The long chats that were read or written last, which need not be understood again at every turn.

A chat of 2,000 messages takes 0.15 s to read and a turn reads it five times; to see that its file
has the same bytes as before takes 3 ms.
"""

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from t2local.engine.chat_content import Chat

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

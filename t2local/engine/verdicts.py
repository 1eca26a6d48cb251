"""What a person thought of answers: a thumb, what they wanted instead, the better of two. On disk.

A blind pair is laid down before its vote, so that a reload or a crash costs nobody the answers; it
says nothing until then, and is listed nowhere.

One JSON file a verdict, beside the chats. Its name follows from the chat, what was asked in it and
the answers that were judged: a second verdict takes the first one's place, so none is lost and none
is there twice. Its chat may be gone: a verdict holds all that was asked. A damaged file is left
where it is and told of (`Verdicts.damaged`).
"""

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from t2local import locks, paths
from t2local.engine.chat_content import CHAT_ID, Chat, Message
from t2local.errors import T2LocalError
from t2local.pictures import data_uri, picture_bytes
from t2local.thinking import split_thinking
from t2local.untrusted import check_encodes, read_document, typed, word

SCHEMA = 2  # 1 had no blind pairs
FOLDER = ".verdicts"  # beside the chats; no account is called so
UP, DOWN = THUMBS = "up", "down"
A, B = SIDES = "a", "b"  # of a blind pair
TIE, BAD, SAME = "tie", "both bad", "the same"  # no side; the last is noted without a vote
SAYINGS = (A, B, TIE, BAD)
KEPT_S = 7 * 86400  # a blind pair that waits for its vote
MOST_BYTES = 64 * 2**20  # of one file, its pictures included
BUSY = "Another t2local is writing down a verdict; try it again in a moment."
GONE = "That answer is no longer there; reload the page and judge it again."


@dataclass(frozen=True)
class Vote:
    """Of a blind pair: the answer and the `other` one, whose they are, and which was preferred.

    `contenders`: of the answer and of the other (keys of `engine.contenders`). `flipped`: the
    answer was shown as B. `said`: one of `SAYINGS` or `SAME`, "" while the vote is awaited. `kind`:
    of prompt.
    """

    contenders: tuple[str, str]
    other: str
    flipped: bool = False
    said: str = ""
    kind: str = ""

    @property
    def sides(self) -> tuple[str, str]:
        """Who wrote A and who wrote B."""
        return self.contenders[::-1] if self.flipped else self.contenders

    @property
    def winner(self) -> str:
        """The contender that was preferred, "" for none."""
        return dict(zip(SIDES, self.sides, strict=True)).get(self.said, "")


@dataclass(frozen=True)
class Verdict:
    """Of an `answer` to `turns` (role, content, pictures as data URIs; the system prompt first).

    `thumb`: up, down, or "" for none. `wanted`: what the person wrote over it, "" for nothing.
    `over`: the answer that it was preferred to. `again`: another answer was asked for in its place.
    `mixture`, `over_mixture`: what answered, as JSON. `given`: seconds since 1970. `vote`: where
    both were a blind pair; `over` is empty unless one of them was preferred, which is `answer`.
    """

    id: str
    chat: str
    turns: tuple[Mapping[str, Any], ...]
    answer: str
    thumb: str = ""
    wanted: str = ""
    over: str = ""
    again: bool = False
    mixture: Mapping[str, Any] = field(default_factory=dict)
    over_mixture: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    given: float = 0.0
    vote: Vote | None = None

    @property
    def says(self) -> bool:
        """Whether anything was said of the answer."""
        voted = self.vote is not None and self.vote.said
        return bool(self.thumb or self.wanted or self.over or self.again or voted)

    @property
    def sides(self) -> tuple[str, str]:
        """A and B of a blind pair."""
        assert self.vote is not None, self.id
        texts = self.answer, self.vote.other
        return texts[::-1] if self.vote.flipped else texts

    @property
    def question(self) -> str:
        return str(self.turns[-1].get("content", "")) if self.turns else ""


class Verdicts:
    """The verdicts on the chats of one folder; safe to call from threads and processes."""

    def __init__(self, chats_folder: Path) -> None:
        self.folder = chats_folder / FOLDER
        self.damaged: dict[str, str] = {}  # file name -> what is wrong with it
        self._lock = threading.Lock()  # around a look at a file and its change

    def all(self) -> list[Verdict]:
        """The newest first; files that cannot be read are noted in `damaged`."""
        return [verdict for verdict in self._read_all() if verdict.says]

    def votes(self) -> list[Verdict]:
        """Blind pairs that were voted on, the newest first."""
        return [v for v in self._read_all() if v.vote is not None and v.vote.said]

    def awaited(self) -> list[Verdict]:
        """Blind pairs that wait for their vote, the newest first."""
        return [v for v in self._read_all() if v.vote is not None and not v.vote.said]

    def _read_all(self) -> list[Verdict]:
        found, damaged = [], {}
        for path in sorted(self._files()):
            try:
                found.append(_read(path))
            except T2LocalError as error:
                damaged[path.name] = str(error)
        self.damaged = damaged
        return sorted(found, key=lambda verdict: -verdict.given)

    def counts(self) -> Mapping[str, int]:
        """Chat -> how many there are on its answers. No file is read."""
        return Counter(path.name.partition("-")[0] for path in self._files())

    def of(self, chat: Chat) -> Mapping[int, Verdict]:
        """The verdicts on the answers that a chat shows, by the answer's place among its messages.

        Of an answer that was judged alone and beside the base model's, both in one.
        """
        there, found = {path.stem for path in self._of(chat.id)}, {}
        chain = _chain(chat.messages) if there else ()
        for place, (before, message) in enumerate(zip(chain, chat.messages, strict=False)):
            ids = (_alone_id(chat, before, message), _pair_id(chat, before, message))
            known = [self._shown(id) for id in ids if id in there]
            known = [verdict for verdict in known if verdict is not None]
            if message.role == "assistant" and known:
                alone, pair = known[0], known[-1]
                found[place] = replace(alone, over=pair.over, answer=pair.answer)
        return found

    def thumb(self, chat: Chat, place: int, thumb: str, model: str) -> Verdict:
        """Up or down; "" takes it back. Raises `T2LocalError`.

        What is meant is said, not what is to be turned over: two tabs may show different states.
        """
        if thumb not in ("", *THUMBS):
            raise T2LocalError(f"'{word(thumb)}' is no verdict; give {' or '.join(THUMBS)}.")
        return self._judge(_fresh(chat, place, model), lambda v: replace(v, thumb=thumb))

    def rewrite(self, chat: Chat, place: int, text: str, model: str) -> Verdict:
        """What the person wanted instead; nothing, or the answer itself, takes it back."""
        message = _judged(chat, place)
        wanted = "" if text.strip() in ("", spoken(_said(message))) else text.strip()
        check_encodes(wanted, "what you wrote")
        return self._judge(_fresh(chat, place, model), lambda v: replace(v, wanted=wanted))

    def again(self, chat: Chat, model: str) -> None:
        """Note that another answer was asked for in the place of the last one."""
        place = len(chat.messages) - 1
        last = chat.last_answer
        if last is not None and last.content.strip() and last.timing:
            self._judge(_fresh(chat, place, model), lambda v: replace(v, again=True))

    def prefer(self, chat: Chat, place: int, base: bool | None, model: str) -> Verdict:
        """The better of the two answers that stand side by side: the base model's, or the other.

        None takes it back. Raises `T2LocalError` where there are no two different ones.
        """
        message = _judged(chat, place)
        adapted, plain = spoken(_said(message)), spoken(message.base_content or "")
        if not adapted or not plain:
            raise T2LocalError("There are no two answers to choose from; ask for both first.")
        if adapted == plain:
            raise T2LocalError("Both answers are the same; write what you wanted instead.")
        id = _pair_id(chat, _before(chat, place), message)
        fresh = replace(_fresh(chat, place, model), id=id)
        sides = {
            "answer": plain if base else adapted,
            "over": adapted if base else plain,
            "mixture": {} if base else fresh.mixture,
            "over_mixture": fresh.mixture if base else {},
        }

        def change(verdict: Verdict) -> Verdict:
            return replace(verdict, over="") if base is None else replace(verdict, **sides)

        return self._judge(fresh, change)

    def lay(self, pair: Verdict) -> Verdict:
        """Lay down a blind pair; old ones that nobody voted on go. Equal answers need no vote."""
        assert pair.vote is not None, pair.id
        vote = replace(pair.vote, said=SAME if pair.answer == pair.vote.other else "")
        laid = replace(pair, vote=vote, given=time.time())
        with self._changing():  # nobody votes meanwhile
            for verdict in self.awaited():
                if verdict.given < laid.given - KEPT_S:
                    with paths.saving(self._path(verdict.id)):
                        self._path(verdict.id).unlink(missing_ok=True)
            self._write(laid)
        return laid

    def pair(self, id: str) -> Verdict:
        """A blind pair, voted on or not. Raises `T2LocalError` where there is none."""
        found = _read(self._path(id))
        if found.vote is None:
            raise T2LocalError("That is no blind pair; ask for a new one.")
        return found

    def cast(self, id: str, said: str) -> Verdict:
        """Vote on a blind pair, once: whoever has seen the names votes blind no more.

        The same vote again changes nothing. Raises `T2LocalError`.
        """
        if said not in SAYINGS:
            raise T2LocalError(f"'{word(said)}' is no vote; give one of {', '.join(SAYINGS)}.")
        with self._changing():
            pair = self.pair(id)
            if pair.vote.said and pair.vote.said != said:
                raise T2LocalError(
                    "You have voted on this pair and seen the names; ask for a new one, or drop "
                    "the row in the tab Train."
                )
            if not pair.vote.said:
                pair = replace(_decided(pair, said), given=time.time())
                self._write(pair)
        return pair

    def change(self, id: str, wanted: str) -> Verdict:
        """Another text of what was wanted. Raises `T2LocalError` for an unknown verdict."""
        if not wanted.strip():
            raise T2LocalError("What you wanted is empty; write it, or drop the row.")
        check_encodes(wanted, "what you wrote")
        with self._changing():
            changed = replace(_read(self._path(id)), wanted=wanted.strip())
            self._write(changed)
        return changed

    def drop(self, id: str) -> None:
        """Delete one; nothing happens where it is gone."""
        with self._changing(), paths.saving(self._path(id)):
            self._path(id).unlink(missing_ok=True)

    def discard(self, name: str) -> None:
        """Delete a file that cannot be read. Raises `T2LocalError` for any other."""
        with self._changing():
            self._read_all()
            if name not in self.damaged:
                raise T2LocalError(f"'{word(name)}' is no damaged row; reload the page.")
            with paths.saving(self.folder / name):
                (self.folder / name).unlink(missing_ok=True)

    def forget(self, chat_id: str) -> None:
        """Delete those on one chat's answers."""
        with self._changing():
            for path in self._of(chat_id):
                with paths.saving(path):
                    path.unlink(missing_ok=True)

    def _shown(self, id: str) -> Verdict | None:
        """None for one that cannot be read: the list in the tab Train says why."""
        try:
            return _read(self._path(id))
        except T2LocalError:
            return None

    def _judge(self, fresh: Verdict, change: Callable[[Verdict], Verdict]) -> Verdict:
        path = self._path(fresh.id)
        with self._changing():
            there = _read(path) if path.exists() else fresh
            changed = replace(change(there), given=time.time())
            if changed.says:
                self._write(changed)
            else:
                with paths.saving(path):
                    path.unlink(missing_ok=True)
        return changed

    def _write(self, verdict: Verdict) -> None:
        content = {"schema": SCHEMA, **asdict(verdict)}
        found = json.dumps(content, ensure_ascii=False, indent=1).encode()
        if len(found) > MOST_BYTES:
            raise T2LocalError(
                f"This verdict would have {len(found) / 2**20:.0f} MB with its pictures, the most "
                f"is {MOST_BYTES // 2**20}; judge answers to smaller pictures."
            )
        with paths.atomic_write(self._path(verdict.id)) as temporary:
            temporary.write_bytes(found)

    def _files(self) -> list[Path]:
        return list(self.folder.glob("[0-9a-f]*.json"))

    def _of(self, chat_id: str) -> list[Path]:
        assert CHAT_ID.fullmatch(chat_id), chat_id
        return list(self.folder.glob(f"{chat_id}-*.json"))

    def _path(self, id: str) -> Path:
        chat, _, digest = id.partition("-")
        if not (CHAT_ID.fullmatch(chat) and CHAT_ID.fullmatch(digest)):
            raise T2LocalError(f"'{word(id)}' is no verdict's id; choose a row from the list.")
        return self.folder / f"{id}.json"

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock, locks.holding(self.folder / ".lock", BUSY):
            yield


def _decided(pair: Verdict, said: str) -> Verdict:
    """With the preferred answer as `answer`, where there is one, and the other as `over`."""
    assert pair.vote is not None, pair.id
    vote = replace(pair.vote, said=said)
    if vote.winner == vote.contenders[1] and vote.winner:
        vote = replace(
            vote, contenders=vote.contenders[::-1], other=pair.answer, flipped=not vote.flipped
        )
        pair = replace(
            pair,
            answer=pair.vote.other,
            mixture=pair.over_mixture,
            over_mixture=pair.mixture,
        )
    over = vote.other if vote.winner and pair.answer else ""  # nothing is nothing to learn from
    return replace(pair, vote=vote, over=over)


def pair_id(battle: str, answers: tuple[str, str]) -> str:
    """The id of a blind pair: `battle` has a chat's id's form, and is no chat's.

    It does not tell which answer is whose.
    """
    return f"{battle}-{_digest(battle, *sorted(answers)).hex()}"


def spoken(text: str) -> str:
    """An answer without what was thought before it."""
    return (split_thinking(text).answer or text).strip()


def _said(message: Message) -> str:
    """What the model had said, also where a person wrote over it."""
    return message.content if message.original is None else message.original


def _judged(chat: Chat, place: int) -> Message:
    """Raises `T2LocalError` where there is no answer at this place."""
    if 0 < place < len(chat.messages) and chat.messages[place].role == "assistant":
        return chat.messages[place]
    raise T2LocalError(GONE)


def _fresh(chat: Chat, place: int, model: str) -> Verdict:
    """One that says nothing yet."""
    message = _judged(chat, place)
    if not message.content.strip():
        raise T2LocalError("There is no answer to judge; let the model answer first.")
    before = replace(chat, messages=chat.messages[:place])
    turns = tuple(_kept(turn) for turn in before.turns())
    mixture = {n: v for n, v in (message.dispatch or {}).items() if n in _MIXTURE}
    id = _alone_id(chat, _before(chat, place), message)
    return Verdict(id, chat.id, turns, spoken(_said(message)), mixture=mixture, model=model)


_MIXTURE = ("alpha", "strength", "gains", "by_matrix")


def _kept(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """The turn with its pictures in it: the chat's own go when it is deleted."""
    if not turn.get("images"):
        return turn
    return {**turn, "images": [data_uri(picture_bytes(image)) for image in turn["images"]]}


def _chain(messages: Sequence[Message]) -> Iterator[bytes]:
    """Of each place what identifies all that was said before it; settings do not count."""
    before = b""
    for message in messages:
        yield before
        before = _digest(before.hex(), message.role, _said(message))


def _digest(*parts: str) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]


def _before(chat: Chat, place: int) -> bytes:
    return list(_chain(chat.messages[: place + 1]))[-1]


def _alone_id(chat: Chat, before: bytes, message: Message) -> str:
    return f"{chat.id}-{_digest(before.hex(), _said(message)).hex()}"


def _pair_id(chat: Chat, before: bytes, message: Message) -> str:
    both = _said(message), message.base_content or ""
    return f"{chat.id}-{_digest(before.hex(), *both).hex()}"


def _read(path: Path) -> Verdict:
    """Raises `T2LocalError` when absent, damaged or from a newer t2local."""
    try:
        content = read_document(path, MOST_BYTES + 1)
        schema = typed(int, content.get("schema"), "schema")
        if schema > SCHEMA:
            raise T2LocalError(
                f"The verdict '{path.name}' was written by a newer t2local (format {schema}); "
                "update t2local to see it."
            )
        verdict = typed(Verdict, content)
        if verdict.id != path.stem or verdict.thumb not in ("", *THUMBS):
            raise ValueError("it is none of this folder")
        if verdict.vote is not None and verdict.vote.said not in ("", *SAYINGS, SAME):
            raise ValueError("its vote is none")
        if not verdict.turns or not all(_is_turn(turn) for turn in verdict.turns):
            raise ValueError("what was asked is missing")
        return verdict
    except (OSError, ValueError) as error:
        if not os.path.lexists(path):
            raise T2LocalError("That row is no longer on disk; reload the page.") from None
        raise T2LocalError(
            f"The verdict '{path.name}' is damaged ({error}); it was left as it is."
        ) from error


def _is_turn(turn: Mapping[str, Any]) -> bool:
    pictures = turn.get("images", [])
    return (
        isinstance(turn.get("role"), str)
        and isinstance(turn.get("content"), str)
        and isinstance(pictures, Sequence)
        and all(isinstance(one, str) and one.startswith("data:") for one in pictures)
    )

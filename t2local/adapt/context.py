"""Fitting a chat into the model's context, and saying what was cut.

The oldest turns go first, the system prompt never; if the last message alone is too long, its
middle goes. One of which most would go is refused: an answer would be to something else. What the
model thought before its earlier answers is not read again.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2local.errors import T2LocalError
from t2local.models.chat_format import INCOMPLETE, encode_text, opening_of, render_prompt, whole
from t2local.models.load.loader import LoadedModel
from t2local.pictures import check_picture
from t2local.thinking import split_thinking
from t2local.untrusted import check_encodes

CUT_MARK = "\n[…]\n"
MOST_ROOMS = 2  # as long as that, of which half is then read, a question may be
TOKENS_ARE = 16  # characters at most, in any text that people write; a guess that only saves time


WHOSE = {"system": "system prompt", "assistant": "answer"}  # a text is, by its role


class TooLong(T2LocalError):
    """More than this model reads, or than it reads in the time that there is."""


@dataclass(frozen=True)
class Fitted:
    """`ids`: the prompt as tokens. `cut_tokens`: how many of the chat's tokens were left out.

    `note`: one sentence that says what fits and what is cut, "" where all of it fits. `opening`:
    what the template has written of the answer already, `<think>` for one.
    """

    ids: list[int]
    cut_tokens: int
    note: str = ""
    opening: str = ""


def check_messages(messages: Sequence[Mapping[str, str]]) -> None:
    """Raise `T2LocalError` for a chat without a question, or with an empty one or no text."""
    for message in messages:
        check_encodes(message["content"], f"the {WHOSE.get(message['role'], 'message')}")
    asked = [m for m in messages if m["role"] == "user"]
    if not asked or not asked[-1]["content"].strip():
        raise T2LocalError("The message is empty; write a question or a request.")


def check_length(
    loaded: LoadedModel, messages: Sequence[Mapping[str, str]], answer_tokens: int
) -> None:
    """Raise `TooLong` for a question of which less than half would be read."""
    room = _room(loaded, answer_tokens)
    most = MOST_ROOMS * room
    asked = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    if len(asked.encode("utf-8", "surrogatepass")) <= most:
        return
    for part in (asked[: TOKENS_ARE * most], asked):  # the beginning says it at once, mostly
        if len(encode_text(loaded.tokenizer, part, "user")) > most:
            raise TooLong(
                f"This message has more than {most:,} tokens, and {loaded.name} reads {room:,} at "
                "most; shorten it, or send it in parts."
            )


def check_pictures(loaded: LoadedModel, messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise `T2LocalError` for pictures before a model that reads text only, or damaged ones."""
    pictures = [picture for message in messages for picture in message.get("images", ())]
    if pictures and loaded.pictures is None:
        raise T2LocalError(
            f"{loaded.name} reads text only and cannot see the picture; load a vision-language "
            "model (LLaVA, for one), or ask without it."
        )
    for picture in pictures:
        check_picture(picture)


def fit(
    loaded: LoadedModel,
    messages: Sequence[Mapping[str, str]],
    answer_tokens: int,
    continue_last: bool = False,
) -> Fitted:
    """The chat as token ids that leave room for `answer_tokens` (at most a quarter is reserved).

    Raises `T2LocalError` where pictures alone are longer.
    """
    room = _room(loaded, answer_tokens)
    turns, cut = without_thoughts(messages, continue_last), []
    begins = not continue_last or not turns[-1]["content"].strip()

    def rendered() -> list[int]:
        return render_prompt(loaded, turns, continue_last=continue_last)

    ids = rendered()
    total = len(ids)
    if total > room and len(shorter := _without_oldest(loaded, turns, room)) < len(turns):
        turns, cut = shorter, ["the oldest messages"]
        ids = rendered()
    while len(ids) > room:
        longest = max(range(len(turns)), key=lambda i: len(turns[i]["content"]))
        excess = len(ids) - room + 16  # the mark, and tokens that split differently at the cut
        turns[longest] = _without_middle(loaded, turns[longest], excess)
        ids, before = rendered(), len(ids)
        cut = [*cut, "the middle of a long message"]
        if len(ids) >= before and any(turn.get("images") for turn in turns):
            raise T2LocalError(
                f"The pictures alone take more tokens than this model's {room:,}; send fewer."
            )
        assert len(ids) < before, "the template alone is longer than the context"
    opening = opening_of(loaded.tokenizer, ids) if begins else ""
    if not cut:
        return Fitted(ids, 0, opening=opening)
    parts = " and ".join(dict.fromkeys(cut))
    note = (
        f"Too long for this model: {len(ids):,} of {total:,} tokens fit; {parts} "
        f"({total - len(ids):,} tokens) was left out."
    )
    return Fitted(ids, total - len(ids), note, opening)


def without_thoughts(
    messages: Sequence[Mapping[str, Any]], continue_last: bool = False
) -> list[Mapping[str, Any]]:
    """The messages with the answers alone of what a model said; one that is continued is whole."""
    n_earlier = len(messages) - continue_last

    def answer(turn: Mapping[str, Any]) -> Mapping[str, Any]:
        spoken = split_thinking(turn["content"])
        thought = spoken.thinking or not spoken.closed
        return {**turn, "content": spoken.answer} if thought else turn

    return [
        answer(turn) if turn["role"] == "assistant" and place < n_earlier else turn
        for place, turn in enumerate(messages)
    ]


def _room(loaded: LoadedModel, answer_tokens: int) -> int:
    """Tokens of a prompt that leaves room for its answer."""
    return loaded.context_length - min(answer_tokens, loaded.context_length // 4)


def _without_oldest(
    loaded: LoadedModel, turns: list[Mapping[str, str]], room: int
) -> list[Mapping[str, str]]:
    """Without as many of the oldest questions and answers as it takes, all but the last if needed.

    Tried as in a sorted list: a chat of a thousand messages is written ten times, not a thousand.
    """
    first = 1 if turns[0]["role"] == "system" else 0
    most = max(0, (len(turns) - first - 1) // 2)

    def left(pairs: int) -> list[Mapping[str, str]]:
        return [*turns[:first], *turns[first + 2 * pairs :]]

    def fits(pairs: int) -> bool:
        return len(render_prompt(loaded, left(pairs))) <= room

    return left(bisect.bisect_left(range(most), True, key=fits))


def _without_middle(loaded: LoadedModel, turn: Mapping[str, str], excess: int) -> dict[str, str]:
    tokens = encode_text(loaded.tokenizer, turn["content"], turn["role"])
    keep = max(2, len(tokens) - excess)
    head, tail = tokens[: keep // 2], tokens[len(tokens) - (keep - keep // 2) :]
    begins, ends = map(loaded.tokenizer.decode, (head, tail))
    return {**turn, "content": whole(begins) + CUT_MARK + ends.lstrip(INCOMPLETE)}

"""Rewards for words: `exact`, `contains`, `regex`, `choice`, `length`."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from t2local.errors import T2LocalError

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Where an answer letter stands, surest first; a pattern counts only if it names one letter.
_LETTER_PLACES = (
    r"\\boxed\{\s*\(?([A-Z])\)?\s*\}",
    r"(?i:answer|option|choice)\s*(?i:is|:)?\s*:?\s*(?i:option\s*)?[*_\"'(]*([A-Z])\b(?!['’])",
    r"^[*_\s(]*([A-Z])[*_]*\s*(?:[).:,]|$)",
    r"\(([A-Z])\)",
    r"\b(?!A (?!or |and )[a-z])([A-HJ-Z])\b(?!['’])",  # not the articles "A" and "I"
)


def exact(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """+1 where the completion *is* the answer (or one of a list of answers), else −1.

    Case, spaces, markup and closing punctuation do not count.

    >>> exact(["Capital of France?"], ["**Paris**."], answer=["paris"])
    [1.0]
    """

    def right(text: str, answer: Any) -> bool:
        return tidy(text) in [tidy(str(one)) for one in _several(answer)]

    return _each(completions, columns.get("answer"), right)


def contains(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 where the answer (or one of a list) stands in the completion as whole words, else −1.

    >>> contains(["Capital of France?"], ["It is **Paris**, of course."], answer=["Paris"])
    [1.0]
    """

    def right(text: str, answer: Any) -> bool:
        words = [re.escape(tidy(str(one))) for one in _several(answer)]
        return any(re.search(rf"(?<!\w){word}(?!\w)", tidy(text)) for word in words if word)

    return _each(completions, columns.get("answer"), right)


def regex(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """+1 where the pattern in `answer` matches somewhere in the completion, else −1.

    Raises `T2LocalError` for an answer that is no regular expression.

    >>> regex(["A date?"], ["On 2024-05-01."], answer=[r"\\d{4}-\\d\\d-\\d\\d"])
    [1.0]
    """

    def right(text: str, answer: Any) -> bool:
        try:
            return re.search(str(answer), text) is not None
        except re.error as error:
            raise T2LocalError(
                f"The answer '{answer}' is no regular expression ({error}); "
                "mend it, or use the reward 'contains'."
            ) from error

    return _each(completions, columns.get("answer"), right)


def choice(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 where the completion names the right choice, by letter or by its text, else −1.

    Columns: `choices` (texts) and `label` (index), or `answer` (letter or text). Naming several
    choices counts as none.

    >>> choice(["?"], ["The answer is (B)."], choices=[["a cat", "a dog"]], label=[1])
    [1.0]
    """
    count = len(completions)
    rows = zip(
        completions,
        *(column(columns.get(name), count) for name in ("choices", "label", "answer")),
        strict=True,
    )
    rewards: list[float | None] = []
    for completion, choices, label, answer in rows:
        texts = [str(text) for text in choices] if choices is not None else []
        right = _right_choice(texts, label, answer)
        if right is None:
            rewards.append(None)
        else:
            rewards.append(1.0 if named_choice(said(completion), texts) == right else -1.0)
    return rewards


def named_choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the one choice that a completion names, or `None`.

    The whole text of a choice first, then a letter where answers stand, then a choice's words
    somewhere in the text (the longest, where one choice is part of another).
    """
    tidied = [tidy(one) for one in choices]
    if tidy(text) in tidied:
        return tidied.index(tidy(text))
    for place in _LETTER_PLACES:
        letters = set(re.findall(place, text.strip(), re.MULTILINE))
        indices = {_LETTERS.index(letter) for letter in letters}
        if len(indices) == 1 and (not choices or max(indices) < len(choices)):
            return indices.pop()
    found = [i for i, one in enumerate(tidied) if one and _stands_in(one, tidy(text))]
    longest = [i for i in found if not any(i != j and tidied[i] in tidied[j] for j in found)]
    return longest[0] if len(longest) == 1 else None


def length(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 within a number of words, falling evenly to −1 at twice too long or at nothing said.

    `answer`: the most words ("20"), a range ("10-20"), or a text whose own length is the most.

    >>> length(["Say it short."] * 2, ["One two.", "One two three."], answer=["2", "2"])
    [1.0, 0.0]
    """
    answers = column(columns.get("answer"), len(completions))
    return [
        None if answer in (None, "") else _length(len(said(completion).split()), str(answer))
        for completion, answer in zip(completions, answers, strict=True)
    ]


def _length(words: int, answer: str) -> float:
    limits = re.fullmatch(r"\s*(?:(\d+)\s*[-–]\s*)?(\d+)\s*", answer)
    least = max(1, int(limits[1] or 1)) if limits else 1
    most = max(least, int(limits[2]) if limits else len(answer.split()))
    if words < least:
        return 2.0 * words / least - 1.0
    return max(-1.0, 1.0 - 2.0 * max(0, words - most) / most)


def _right_choice(choices: Sequence[str], label: Any, answer: Any) -> int | None:
    if label is not None and label != "":
        return int(label)
    if answer is None or not str(answer).strip():
        return None
    tidied = [tidy(one) for one in choices]
    if tidy(str(answer)) in tidied:
        return tidied.index(tidy(str(answer)))
    letter = str(answer).strip().strip("().").upper()
    return _LETTERS.index(letter) if len(letter) == 1 and letter in _LETTERS else None


def _stands_in(words: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _several(answer: Any) -> list[Any]:
    return list(answer) if isinstance(answer, (list, tuple)) else [answer]


def _each(
    completions: Sequence[Any], answers: Sequence[Any] | None, right: Callable[[str, Any], bool]
) -> list[float | None]:
    rows = zip(completions, column(answers, len(completions)), strict=True)
    return [
        None if answer in (None, "") else 1.0 if right(said(completion), answer) else -1.0
        for completion, answer in rows
    ]


# --- What a completion says, whatever form it came in.

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S
)


def said(completion: Any) -> str:
    """The text of a completion: a string, or TRL's list of chat messages (the last one's words)."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion:
        content = completion[-1].get("content") or ""
        return content if isinstance(content, str) else _parts(content)
    return ""


def column(values: Sequence[Any] | None, count: int) -> list[Any]:
    """A column with one value a row; `None` everywhere where the column is missing."""
    if values is None:
        return [None] * count
    assert len(values) == count, (len(values), count)
    return list(values)


def blocks(text: str) -> list[tuple[str, str]]:
    """Fenced blocks as (language, content); the last one may be cut off before its end."""
    return [(match[2].lower(), match[3]) for match in _FENCE.finditer(text)]


def tidy(text: str) -> str:
    """For comparing words: case, spaces, markup and a closing full stop do not count."""
    text = re.sub(r"[*_`]+", "", text).strip().casefold()
    return re.sub(r"\s+", " ", text).strip(" .!\"'“”‘’")


def _parts(content: Sequence[Any]) -> str:
    return "".join(part.get("text", "") for part in content if part.get("type") == "text")

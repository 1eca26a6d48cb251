"""Rewards for numbers and formulas: `numeric`, and `math` through the package math-verify."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from t2local.tasks.rewards import math_worker
from t2local.tasks.rewards.words import column, said

TOLERANCE = Fraction(1, 10**6)  # relative, for broken numbers; whole ones must be equal
_MOST_DIGITS = 400

_PLAIN = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_FRAC = r"\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
_NUMBER = re.compile(
    rf"(?P<sign>[-−–]\s?)?[$€£¥]?\s?(?:(?P<frac>{_FRAC})"
    rf"|(?P<whole>{_PLAIN})(?:[eE](?P<power>[+-]?\d{{1,3}}))?(?:\s?/\s?(?P<below>{_PLAIN}))?)"
    r"(?P<percent>\s?\\?%)?"
)
_MARKS = (
    re.compile(r"####\s*(.+)"),
    re.compile(r"(?i)\b(?:final\s+)?answer\b\s*(?:is|are|was|=|:)*\s*:?\s*(.+)"),
)


def numeric(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 where the completion's final number equals the answer's, else −1; `None` without one.

    The final number stands after "####", in the last `\\boxed{}`, after "the answer is", or last.

    >>> numeric(["?"] * 2, ["The answer is **1,234.00**.", "12"], answer=["1234", "13"])
    [1.0, -1.0]
    """
    answers = column(columns.get("answer"), len(completions))
    rewards: list[float | None] = []
    for completion, answer in zip(completions, answers, strict=True):
        wanted = final_numbers(str(answer)) if answer is not None else set()
        if not wanted:
            rewards.append(None)
        else:
            rewards.append(1.0 if _agree(final_numbers(said(completion)), wanted) else -1.0)
    return rewards


def math(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """+1 where the completion's final value or formula equals the answer's, else −1.

    Plain numbers are compared here; everything else by math-verify in a process of its own, which
    is ended when it takes too long (that counts as wrong). `None` for a row without an answer.

    >>> math(["?"], ["So it is \\\\boxed{\\\\frac12}."], answer=["1/2"])
    [1.0]
    """
    answers = column(columns.get("answer"), len(completions))
    rewards: list[float | None] = []
    for completion, answer in zip(completions, answers, strict=True):
        text = said(completion)
        if answer is None or not str(answer).strip():
            rewards.append(None)
        elif not text.strip():
            rewards.append(-1.0)
        else:
            rewards.append(1.0 if _same_value(str(answer), text) else -1.0)
    return rewards


def _same_value(answer: str, text: str) -> bool:
    if plain_number(answer):
        if _agree(final_numbers(text), final_numbers(answer)):
            return True
        if "\\" not in text:  # no formula that could have this value
            return False
    return math_worker.equal(answer, text)


def plain_number(text: str) -> bool:
    """Whether a text is a number and nothing else."""
    return _NUMBER.fullmatch(text.strip().strip("$").strip()) is not None


def final_numbers(text: str) -> set[Fraction]:
    """What the final number of a text may mean: "50%" is 50 as well as 1/2; empty without one."""
    text = re.sub(r"[*`]|\\[,!;]|\\\$|(?<=\d)_", lambda m: "$" if m[0] == r"\$" else "", text)
    for marked in _marked(text):
        numbers = [number for match in _NUMBER.finditer(marked) if (number := _meanings(match))]
        if numbers:
            return numbers[0] if "=" not in marked else numbers[-1]
    numbers = [number for match in _NUMBER.finditer(text) if (number := _meanings(match))]
    return numbers[-1] if numbers else set()


def _marked(text: str) -> list[str]:
    """Places that say they hold the answer, surest first, the last of each kind."""
    hashes, phrase = (mark.findall(text)[-1:] for mark in _MARKS)
    return [place for place in (*hashes, _last_boxed(text), *phrase) if place]


def _last_boxed(text: str) -> str:
    start = text.rfind(r"\boxed{")
    if start < 0:
        return ""
    depth, begin = 0, start + len(r"\boxed")
    for at in range(begin, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[begin + 1 : at]
    return text[begin + 1 :]


def _meanings(match: re.Match[str]) -> set[Fraction]:
    if len(match[0]) > _MOST_DIGITS:
        return set()
    value = _value(match)
    if value is None:
        return set()
    # "10-3" is a difference; a sign right after a digit or a word belongs to neither number
    before = match.string[: match.start()][-1:]
    if match["sign"] and not (before.isalnum() or before == ")"):
        value = -value
    return {value, value / 100} if match["percent"] else {value}


def _value(match: re.Match[str]) -> Fraction | None:
    if match["frac"]:
        parts = re.fullmatch(_FRAC, match["frac"])
        above, below = Fraction(parts[1] or parts[2]), Fraction(parts[3] or parts[4])
    else:
        above = _plain(match["whole"]) * Fraction(10) ** int(match["power"] or 0)
        below = _plain(match["below"] or "1")
    return above / below if below else None


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _agree(found: set[Fraction], wanted: set[Fraction]) -> bool:
    def tolerance(value: Fraction) -> Fraction:
        return TOLERANCE * abs(value) if value.denominator != 1 else Fraction(0)

    return any(abs(a - b) <= tolerance(b) for a in found for b in wanted)

"""Rewards: plain functions with TRL's signature, by name in `REWARDS`.

`f(prompts, completions, **columns) -> list[float | None]`, one value a completion: +1 right, −1
wrong, between where partial credit is asked for, `None` where a row cannot be scored. Completions
are strings or lists of chat messages.

A new reward is a function and one `Reward` in the table below: sums, the command line, the page,
what is suggested for a person's rows and the room for answers follow from it.

A person names one, or a weighted sum such as `numeric+0.2*length` (`named`). A sum is divided by
its weights: all parts right is +1, all wrong −1. A row that one part cannot score is scored by
none.
"""

import difflib
import json as json_text
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.rewards.documents import json
from t2local.tasks.rewards.figures import math, numeric, plain_number
from t2local.tasks.rewards.programs import code, code_partial
from t2local.tasks.rewards.words import choice, contains, exact, length, regex
from t2local.tasks.rows import Example, as_columns
from t2local.tasks.sandbox import check_allowed

Score = Callable[..., list[float | None]]
Reason = Callable[[Sequence[Example]], str]  # why a reward fits the rows, "" where it does not

MOST_CHOICES = 12
ROWS_A_CHOICE = 3  # on average: fewer, and the answers are no kinds that repeat
SHORT_WORDS = 5
CHARACTERS_A_TOKEN, TOKENS_A_WORD = 3, 1.5
JSON_CHARACTERS_A_TOKEN = 1.5  # models spread it over lines
_TERM = re.compile(r"(?:(\d{1,6}(?:\.\d{1,6})?)\s*\*\s*)?([a-z_]+)")
_RANGE = re.compile(r"\d+\s*[-–]\s*\d+")
_FORMULA = re.compile(r"\\frac|\\sqrt|\\boxed|\^|\$[^$]+\$")


class Sure(IntEnum):
    """What a suggestion goes by; the surest one wins, of equals the first in the table."""

    ANYTHING = 0  # fits whatever no other reward fits
    SHORT = 1
    FORMULA = 2
    KINDS = 3  # few answers that repeat
    FORM = 4  # all answers are numbers, ranges or JSON
    COLUMN = 5  # a column that only this reward reads
    TESTS = 6


@dataclass(frozen=True)
class Reward:
    """A reward as it is called, and what is told of it.

    `explanation`: what earns, for a person. `needs`: columns, one of which every row must have.
    `suggested`: for which rows, and how surely. `answer_tokens`: about how long a right answer is,
    where all that is said counts and more would be wrong; None where thinking aloud is free.
    `runs_programs`: it runs what the model and the rows' tests say (`t2local.tasks.sandbox`).
    """

    name: str
    score: Score
    explanation: str
    needs: tuple[str, ...] = ()
    suggested: tuple[tuple[Sure, Reason], ...] = ()
    answer_tokens: Callable[[str], float] | None = None
    runs_programs: bool = False

    @property
    def __name__(self) -> str:
        """TRL logs a reward under it."""
        return self.name

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        return self.score(prompts, completions, **columns)


def every_row_has(column: str, reason: str) -> Reason:
    """`reason` where no row lacks the column."""
    return lambda rows: reason if all(row.columns.get(column) for row in rows) else ""


def every_answer(fits: Callable[[str], object], reason: str) -> Reason:
    """`reason` where all answers fit."""
    return lambda rows: reason if all(fits(row.answer.strip()) for row in rows) else ""


def distinct_answers(examples: Sequence[Example]) -> list[str]:
    """The different answers, the commonest first, where they are few and repeat; else empty."""
    counts = Counter(example.answer.strip() for example in examples)
    few = 2 <= len(counts) <= min(MOST_CHOICES, len(examples) // ROWS_A_CHOICE)
    return [answer for answer, _ in counts.most_common()] if few and "" not in counts else []


def _few_kinds(examples: Sequence[Example]) -> str:
    kinds = distinct_answers(examples)
    shown = ", ".join(f"'{kind}'" for kind in kinds[:4]) + (" …" if len(kinds) > 4 else "")
    told = f"There are only {len(kinds)} different answers ({shown}): the model picks one."
    return told if kinds else ""


def _json_object(text: str) -> bool:
    try:
        return isinstance(json_text.loads(text), dict)
    except ValueError:
        return False


def _text_tokens(answer: str) -> float:
    return len(answer) / CHARACTERS_A_TOKEN


def _json_tokens(answer: str) -> float:
    return len(answer) / JSON_CHARACTERS_A_TOKEN


def _length_tokens(answer: str) -> float:
    """Of a text, or of as many words as a range such as 5-20 allows."""
    numbers = re.findall(r"\d+", answer)
    if numbers and not re.search(r"[^\d\s–-]", answer):
        return TOKENS_A_WORD * int(numbers[-1])
    return _text_tokens(answer)


REWARDS: dict[str, Reward] = {
    reward.name: reward
    for reward in (
        Reward(
            "exact", exact, "it says the answer and nothing else", answer_tokens=_text_tokens
        ),
        Reward(
            "contains", contains, "the answer stands in what it says",
            suggested=((Sure.SHORT, every_answer(
                lambda answer: len(answer.split()) <= SHORT_WORDS,
                "The answers are short: they must stand in what it says.",
            )),),
        ),
        Reward(
            "numeric", numeric, "its final number is the answer",
            suggested=((Sure.FORM, every_answer(
                plain_number, "All answers are numbers: the final number must agree."
            )),),
        ),
        Reward(
            "choice", choice, "one of a few choices is right", needs=("choices", "label"),
            suggested=(
                (Sure.COLUMN, every_row_has(
                    "choices", "Every row lists its choices: one of them is right."
                )),
                (Sure.KINDS, _few_kinds),
            ),
        ),
        Reward("regex", regex, "a pattern in the answer column matches"),
        Reward(
            "math", math, "its final value or formula equals the answer",
            suggested=((Sure.FORMULA, every_answer(
                _FORMULA.search, "All answers are formulas: an equal value counts as right."
            )),),
        ),
        Reward(
            "code", code, "its program passes the row's tests", needs=("tests",),
            runs_programs=True,
            suggested=((Sure.TESTS, every_row_has(
                "tests", "Every row has tests: an answer is right when they pass."
            )),),
        ),
        Reward(
            "code_partial", code_partial, "as code, with credit on the way", needs=("tests",),
            runs_programs=True,
        ),
        Reward(
            "json", json, "JSON with the right fields", answer_tokens=_json_tokens,
            suggested=(
                (Sure.COLUMN, every_row_has(
                    "schema", "Every row has a schema that the answer's JSON must fit."
                )),
                (Sure.FORM, every_answer(
                    _json_object, "All answers are JSON: each field that agrees earns a part."
                )),
            ),
        ),
        Reward(
            "length", length, "a number of words, such as 5-20", answer_tokens=_length_tokens,
            suggested=(
                (Sure.FORM, every_answer(
                    _RANGE.fullmatch, "All answers are ranges such as 5-20: a number of words."
                )),
                (Sure.ANYTHING, lambda rows: (
                    "The answers are texts, which cannot be right word for word; "
                    "this one asks for answers no longer than yours."
                )),
            ),
        ),
    )
}  # fmt: skip


def named(text: str) -> Score:
    """The reward that `text` names. Raises `T2LocalError` for what is no reward.

    >>> named("exact+contains")(["2 + 2?"], ["It is 4."], answer=["4"])
    [0.0]
    """
    terms = parts_of(text)
    if len(terms) == 1:
        return REWARDS[terms[0][1]]
    return partial(_sum, terms)


def parts_of(text: str) -> list[tuple[float, str]]:
    """(weight, reward) of each part. Raises `T2LocalError`."""
    terms = []
    for part in text.split("+"):
        match = _TERM.fullmatch(part.strip())
        if match is None or float(match[1] or 1) == 0:
            raise T2LocalError(
                f"'{part.strip()}' is no part of a reward; "
                "write names joined by +, with a weight above 0, such as numeric+0.2*length."
            )
        if match[2] not in REWARDS:
            near = difflib.get_close_matches(match[2], REWARDS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose among {', '.join(REWARDS)}."
            raise T2LocalError(f"There is no reward '{match[2]}'; {hint}")
        terms.append((float(match[1] or 1), match[2]))
    return terms


def check_reward(text: str, examples: Sequence[Example]) -> None:
    """Raise `T2LocalError` where `text` is no reward, needs a column that rows do not have, or runs
    programs where none may be run.
    """
    if runs_programs(text):
        check_allowed()
    for _, name in parts_of(text):
        needed = REWARDS[name].needs
        without = [e for e in examples if not any(_has(e, column) for column in needed)]
        if needed and without:
            columns = " or ".join(f"'{column}'" for column in needed)
            raise T2LocalError(
                f"The reward '{name}' needs a column {columns}, which {len(without)} of "
                f"{len(examples)} rows lack; add it, or choose another reward."
            )


def runs_programs(text: str) -> bool:
    """Whether a part of the reward runs programs. Raises `T2LocalError` for what is no reward."""
    return any(REWARDS[name].runs_programs for _, name in parts_of(text))


def rewards_of(
    text: str, examples: Sequence[Example], completions: Sequence[str]
) -> list[float | None]:
    """The reward of one completion an example."""
    prompts = [example.prompt for example in examples]
    return named(text)(prompts, list(completions), **as_columns(examples))


def _has(example: Example, column: str) -> bool:
    return example.columns.get(column) not in (None, "", [])


def _sum(
    terms: Sequence[tuple[float, str]],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    **columns: Any,
) -> list[float | None]:
    scored = [REWARDS[name](prompts, completions, **columns) for _, name in terms]
    total = sum(weight for weight, _ in terms)
    return [
        None
        if None in row
        else sum(weight * value for (weight, _), value in zip(terms, row, strict=True)) / total
        for row in zip(*scored, strict=True)
    ]

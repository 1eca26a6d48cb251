"""Which reward fits a person's examples, and why; answers of few kinds become choices.

Pure functions of examples. Knows nothing of files, models or training.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from t2local.errors import T2LocalError
from t2local.tasks.examples import Example
from t2local.tasks.rewards.figures import plain_number

MOST_CHOICES = 12
ROWS_A_CHOICE = 3  # on average: fewer, and the answers are no kinds that repeat
_SHORT_WORDS = 5
_RANGE = re.compile(r"\d+\s*[-–]\s*\d+")
_FORMULA = re.compile(r"\\frac|\\sqrt|\\boxed|\^|\$[^$]+\$")


class Suggestion(NamedTuple):
    reward: str
    reason: str


def suggest_reward(examples: Sequence[Example]) -> Suggestion:
    """The reward that fits the examples best, with the reason as a sentence.

    >>> suggest_reward([Example("2 + 2?", "4"), Example("3 + 5?", "8")]).reward
    'numeric'
    """
    assert examples, "no examples"
    answers = [example.answer.strip() for example in examples]
    kinds = distinct_answers(examples)
    if _all_have(examples, "tests"):
        return Suggestion("code", "Every row has tests: an answer is right when they pass.")
    if _all_have(examples, "choices"):
        return Suggestion("choice", "Every row lists its choices: one of them is right.")
    if _all_have(examples, "schema"):
        return Suggestion("json", "Every row has a schema that the answer's JSON must fit.")
    if all(_RANGE.fullmatch(answer) for answer in answers):
        return Suggestion("length", "All answers are ranges such as 5-20: a number of words.")
    if all(plain_number(answer) for answer in answers):
        return Suggestion("numeric", "All answers are numbers: the final number must agree.")
    if all(_json_object(answer) for answer in answers):
        return Suggestion("json", "All answers are JSON: each field that agrees earns a part.")
    if kinds:
        shown = ", ".join(f"'{kind}'" for kind in kinds[:4]) + (" …" if len(kinds) > 4 else "")
        reason = f"There are only {len(kinds)} different answers ({shown}): the model picks one."
        return Suggestion("choice", reason)
    if all(_FORMULA.search(answer) for answer in answers):
        return Suggestion("math", "All answers are formulas: an equal value counts as right.")
    if all(len(answer.split()) <= _SHORT_WORDS for answer in answers):
        return Suggestion("contains", "The answers are short: they must stand in what it says.")
    return Suggestion(
        "length",
        "The answers are texts, which cannot be right word for word; "
        "this one asks for answers no longer than yours.",
    )


def distinct_answers(examples: Sequence[Example]) -> list[str]:
    """The different answers, the commonest first, where they are few and repeat; else empty."""
    counts = Counter(example.answer.strip() for example in examples)
    few = 2 <= len(counts) <= min(MOST_CHOICES, len(examples) // ROWS_A_CHOICE)
    return [answer for answer, _ in counts.most_common()] if few and "" not in counts else []


def with_choices(examples: Sequence[Example]) -> list[Example]:
    """The examples ready for the reward `choice`: a row without choices gets all answers' kinds.

    Raises `T2LocalError` when a row has no choices and the answers are too many to be kinds.
    """
    if _all_have(examples, "choices"):
        return list(examples)
    kinds = sorted(distinct_answers(examples))
    if not kinds:
        many = len({example.answer.strip() for example in examples})
        raise T2LocalError(
            f"The reward 'choice' needs a column 'choices' or 2 to {MOST_CHOICES} answers that "
            f"repeat, but {len(examples)} rows have {many} different ones; choose another reward."
        )
    return [
        replace(e, columns={**e.columns, "choices": kinds, "label": kinds.index(e.answer.strip())})
        for e in examples
    ]


def _all_have(examples: Sequence[Example], column: str) -> bool:
    return all(example.columns.get(column) for example in examples)


def _json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False

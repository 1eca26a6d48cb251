"""Rewards by what a person writes: a name, or a weighted sum such as `numeric+0.2*length`.

A sum is divided by its weights: all parts right is +1, all wrong −1. A row that one part cannot
score is scored by none. Also says before a run which column a reward lacks.
"""

import difflib
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.rewards import REWARDS, Score
from t2local.tasks.rows import Example, as_columns

_TERM = re.compile(r"(?:(\d{1,6}(?:\.\d{1,6})?)\s*\*\s*)?([a-z_]+)")


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
    """Raise `T2LocalError` where `text` is no reward or needs a column that rows do not have."""
    for _, name in parts_of(text):
        needed = REWARDS[name].needs
        without = [e for e in examples if not any(_has(e, column) for column in needed)]
        if needed and without:
            columns = " or ".join(f"'{column}'" for column in needed)
            raise T2LocalError(
                f"The reward '{name}' needs a column {columns}, which {len(without)} of "
                f"{len(examples)} rows lack; add it, or choose another reward."
            )


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

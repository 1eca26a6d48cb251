"""Rewards: plain functions with TRL's signature, by name in `REWARDS`.

`f(prompts, completions, **columns) -> list[float | None]`, one value a completion: +1 right, −1
wrong, between where partial credit is asked for, `None` where a row cannot be scored. Completions
are strings or lists of chat messages.
"""

from collections.abc import Callable

from t2local.tasks.rewards.documents import json
from t2local.tasks.rewards.figures import math, numeric
from t2local.tasks.rewards.programs import code, code_partial
from t2local.tasks.rewards.words import choice, contains, exact, length, regex

Reward = Callable[..., list[float | None]]

REWARDS: dict[str, Reward] = {
    "exact": exact,
    "contains": contains,
    "numeric": numeric,
    "choice": choice,
    "regex": regex,
    "math": math,
    "code": code,
    "code_partial": code_partial,
    "json": json,
    "length": length,
}

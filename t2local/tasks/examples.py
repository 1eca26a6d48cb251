"""One example of a task: what is asked, what is right, and the columns a reward reads.

A plain frozen value; it knows nothing of files, rewards or models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """`answer` is "" where a row has none (a reward such as `length` or `json` needs none).

    `columns`: `choices` and `label` for a choice; `tests`, `test_setup`, `entry_point` for a
    program; anything else a row brought along.
    """

    prompt: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict)


def as_columns(examples: Sequence[Example]) -> dict[str, list[Any]]:
    """The keyword columns of a reward: `answer` and every column, `None` where a row lacks it."""
    names = dict.fromkeys(name for example in examples for name in example.columns)
    table: dict[str, list[Any]] = {"answer": [example.answer for example in examples]}
    for name in names:
        if name != "answer":
            table[name] = [example.columns.get(name) for example in examples]
    return table

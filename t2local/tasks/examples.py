"""One example of a task: what is asked, what is right, and the columns a reward reads.

A plain frozen value; it knows nothing of files, rewards or models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from t2local.pictures import COLUMNS


@dataclass(frozen=True)
class Example:
    """`answer` is "" where a row has none (a reward such as `length` or `json` needs none).

    `columns`: `choices` and `label` for a choice; `tests`, `test_setup`, `entry_point` for a
    program; `image` and `images`, paths or data URIs; anything else a row brought along.
    """

    prompt: str
    answer: str
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> tuple[str, ...]:
        """Paths or data URIs of the pictures that the prompt is about, in order."""
        found = [self.columns.get(name) or () for name in COLUMNS]
        return tuple(p for value in found for p in ((value,) if isinstance(value, str) else value))

    @property
    def key(self) -> str:
        """Equal only where the same is asked: the prompt, with its pictures."""
        return "\n".join([self.prompt, *self.pictures])

    @property
    def group(self) -> str:
        """Rows of one group are set aside together: one prompt's, or one picture's."""
        return "\n".join(self.pictures) or self.prompt


def as_columns(examples: Sequence[Example]) -> dict[str, list[Any]]:
    """The keyword columns of a reward: `answer` and every column, `None` where a row lacks it."""
    names = dict.fromkeys(name for example in examples for name in example.columns)
    table: dict[str, list[Any]] = {"answer": [example.answer for example in examples]}
    for name in names:
        if name != "answer":
            table[name] = [example.columns.get(name) for example in examples]
    return table

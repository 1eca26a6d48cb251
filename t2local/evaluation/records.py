"""Scored prompts on disk: a line of JSON each, appended as they come, read back when resumed.

One file for each task and strategy below the user's home, under a hash of all that its numbers
depend on (`key_of`). A line is written whole or, where a machine went down in the middle, dropped
when it is read. Knows nothing of models.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from t2local import paths

SCHEMA = 1  # raise it when the way answers are scored changes


@dataclass(frozen=True)
class Record:
    """One scored prompt. `index`: its place among the task's questions.

    `wanted`: the right answer. `chosen`, `probabilities`: what pass 1 said, "" and {} where nothing
    was asked. Seconds are the prompt's share of its batch. `failed`: why it could not be answered
    (it counts as wrong), else "".
    """

    index: int
    prompt: str
    answer: str
    wanted: str
    right: bool
    alpha: Mapping[str, float] = field(default_factory=dict)
    chosen: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    first_pass_s: float = 0.0
    second_pass_s: float = 0.0
    tokens: int = 0
    failed: str = ""


def key_of(*parts: Any) -> str:
    """A file name for what `parts` (JSON values) say."""
    text = json.dumps([SCHEMA, *parts], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


@dataclass(frozen=True)
class RecordFile:
    """`path` need not exist yet."""

    path: Path

    @classmethod
    def of(cls, key: str) -> "RecordFile":
        return cls(paths.home() / "evaluations" / f"{key}.jsonl")

    def read(self) -> dict[int, Record]:
        """Index -> record; of two lines for one prompt the first counts."""
        found: dict[int, Record] = {}
        for line in self._whole_lines():
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError):
                continue  # a damaged line: its prompt is answered again
            found.setdefault(record.index, record)
        return found

    def append(self, records: Sequence[Record]) -> None:
        """Add lines in one write. Raises `T2LocalError` when the disk is full or not writable."""
        lines = "".join(json.dumps(asdict(r), ensure_ascii=True) + "\n" for r in records)
        with paths.saving(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                torn = file.tell() > 0 and file.seek(-1, 2) >= 0 and file.read(1) != b"\n"
                file.write((("\n" if torn else "") + lines).encode())

    def _whole_lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return text.split("\n")[:-1]

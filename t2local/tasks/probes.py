"""Sixty questions of our own for the task of each shipped expert: what an expert may have spoilt.

The project ships no benchmark rows, so these were written for it, in the form that the experts were
trained on: equations for word problems, answers to science questions, short programs of which one
passes its tests, messages with their kind. No prompt is from a benchmark. They are for comparing a
model with itself, not with published numbers. Knows nothing of models.
"""

import json
from pathlib import Path

from t2local.errors import T2LocalError
from t2local.paths import PROJECT_ROOT
from t2local.tasks.examples import Example

PROBES = PROJECT_ROOT / "assets" / "probes"
DECIDING = "classifier"  # the shipped expert that decides in pass 1
FILES = {  # shipped expert -> the file of its task
    "math": "math.jsonl",
    "code": "code.jsonl",
    "reasoning": "reasoning.jsonl",
    DECIDING: "topics.jsonl",
}


def probes(folder: Path = PROBES) -> dict[str, tuple[Example, ...]]:
    """Name of a shipped expert -> the questions of its task, each a choice.

    `answer` is one of `choices`, `label` its index. The classifier's prompts are the bare messages.
    Raises `T2LocalError` for a file that is missing or damaged.
    """
    return {expert: _read(folder / file) for expert, file in FILES.items()}


def _read(path: Path) -> tuple[Example, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = tuple(_example(json.loads(line)) for line in lines if line.strip())
        if not rows:
            raise ValueError("it has no rows")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise T2LocalError(
            f"The questions in '{path}' cannot be read ({error}); "
            "restore the file from the project's assets."
        ) from error
    return rows


def _example(row: dict) -> Example:
    prompt, answer, choices, label = (row[k] for k in ("prompt", "answer", "choices", "label"))
    if not prompt or choices[label] != answer or choices.count(answer) != 1:
        raise ValueError(f"the label of '{prompt[:40]}' does not point to its answer")
    return Example(prompt, answer, {"choices": choices, "label": label})

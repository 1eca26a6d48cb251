"""The catalogue of benchmark tasks, read from a folder of normalised JSONL files.

A file is `<task>.<split>.jsonl`, one object a line with `prompt` and `answer`; every other field
becomes a column. The project ships no benchmark rows: the folder is the user's, given as an
argument or by `T2LOCAL_DATA`. Knows nothing of rewards or models.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from t2local.errors import T2LocalError
from t2local.tasks.examples import Example

DATA_VARIABLE = "T2LOCAL_DATA"


@dataclass(frozen=True)
class Task:
    """`reward`: the name in `t2local.tasks.rewards.REWARDS` that scores this task."""

    name: str
    title: str
    reward: str
    splits: tuple[str, ...]


_THREE = ("train", "validation", "test")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("gsm8k", "grade-school mathematics", "math", ("train", "test")),
        Task("svamp", "one-step word problems", "numeric", ("train", "test")),
        Task("mbpp", "small Python functions", "code", (*_THREE, "prompt")),
        Task("mbppplus", "small Python functions, many more tests", "code", ("test",)),
        Task("humaneval", "Python functions to complete", "code", ("test",)),
        Task("arc_easy", "science questions", "choice", _THREE),
        Task("arc_challenge", "harder science questions", "choice", _THREE),
        Task("easy_vqa", "questions on pictures of shapes", "exact", ("train", "test")),
    )
}


def data_folder(folder: Path | None = None) -> Path:
    """`folder`, or what `T2LOCAL_DATA` names. Raises `T2LocalError` where neither exists."""
    named = folder or os.environ.get(DATA_VARIABLE)
    if not named:
        raise T2LocalError(
            "No folder of benchmark files was given; "
            f"name one with {DATA_VARIABLE} (files such as gsm8k.test.jsonl)."
        )
    path = Path(named).expanduser()
    if not path.is_dir():
        raise T2LocalError(
            f"The benchmark folder '{path}' does not exist; name another with {DATA_VARIABLE}."
        )
    return path


def load_task(name: str, split: str = "test", folder: Path | None = None) -> list[Example]:
    """All rows of one split in file order.

    A `humaneval` row gets the column `prefix`: its answer is the body that follows the prompt.
    Raises `T2LocalError` for an unknown task or split, and for a missing or damaged file.
    """
    task = TASKS.get(name)
    if task is None:
        raise T2LocalError(f"There is no task '{name}'; choose one of {', '.join(TASKS)}.")
    if split not in task.splits:
        raise T2LocalError(
            f"Task '{name}' has no split '{split}'; choose one of {', '.join(task.splits)}."
        )
    path = data_folder(folder) / f"{name}.{split}.jsonl"
    if not path.is_file():
        raise T2LocalError(
            f"'{path.parent}' lacks '{path.name}'; put that file there, "
            f"or name another folder with {DATA_VARIABLE}."
        )
    examples = [_example(path, number, line) for number, line in _lines(path)]
    if name == "humaneval":
        return [replace(e, columns={**e.columns, "prefix": e.prompt}) for e in examples]
    return examples


def show_first_test(example: Example) -> Example:
    """A program task whose prompt also shows its first test, so that the name asked for is known.

    MBPP's own prompts describe a function without naming it; its authors show tests for that.
    """
    tests = example.columns["tests"]
    return replace(
        example, prompt=f"{example.prompt.strip()}\nYour code should pass this test:\n{tests[0]}"
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    with path.open(encoding="utf-8") as file:
        return [(n, line) for n, line in enumerate(file, 1) if line.strip()]


def _example(path: Path, number: int, line: str) -> Example:
    try:
        row = json.loads(line)
        prompt, answer = row.pop("prompt"), row.pop("answer")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise T2LocalError(
            f"Line {number} of '{path.name}' is no benchmark row ({error}); "
            "each line must be a JSON object with 'prompt' and 'answer'."
        ) from error
    return Example(str(prompt), str(answer), row)

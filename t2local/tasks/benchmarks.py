"""Benchmark tasks, from a folder of normalised JSONL files or from the Hugging Face Hub.

The prompts that were used to choose something are kept as hashes, so that a measurement on the same
prompts can be refused.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from t2local.errors import T2LocalError
from t2local.tasks.rows import Example

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


# --- The same tasks from the Hub, where no folder of files is given.
#
# Through the package `datasets`, which is optional (`pip install datasets`) and keeps what it
# fetched for later runs without a network. Differences from the files: SVAMP has the Hub's own
# split (700 / 300); MATH is the 500-problem test set of "Let's verify step by step", since the
# redistribution of the whole set is contested.

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubTask:
    """Where a task is on the Hub, and how one of its rows becomes an example."""

    path: str
    config: str | None
    read: Callable[[Row], Example]


def _gsm8k(row: Row) -> Example:
    answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
    return Example(row["question"], answer, {"solution": row["answer"]})


def _math(row: Row) -> Example:
    return Example(row["problem"], str(row["answer"]), {"type": row.get("subject", "")})


def _svamp(row: Row) -> Example:
    question = f"{row['Body'].strip()} {row['Question'].strip()}"
    return Example(question, f"{float(row['Answer']):g}", {"equation": row["Equation"]})


def _mbppplus(row: Row) -> Example:
    tests = list(row["test_list"])
    function = tests[0].split("(")[0].split()[-1] if tests else ""
    if "set" in tests[0][:12]:  # assert set(f(...)) == ...
        function = tests[0].split("(")[1]
    columns = {
        "id": f"Mbpp/{row['task_id']}", "text": row["prompt"], "tests": tests,
        "test_setup": "\n".join(row.get("test_imports") or ()), "entry_point": function,
    }  # fmt: skip
    return Example(row["prompt"], row["code"], columns)


def _humaneval(row: Row) -> Example:
    tests = [f"{row['test']}\ncheck({row['entry_point']})\n"]
    columns = {"id": row["task_id"], "tests": tests, "entry_point": row["entry_point"]}
    return Example(row["prompt"], row["canonical_solution"], columns)


def _arc(row: Row) -> Example:
    choices, letters = list(row["choices"]["text"]), list(row["choices"]["label"])
    label = letters.index(row["answerKey"])
    columns = {"id": row["id"], "choices": choices, "label": label}
    return Example(row["question"], chr(ord("A") + label), columns)


HUB: dict[str, HubTask] = {
    "gsm8k": HubTask("openai/gsm8k", "main", _gsm8k),
    "math": HubTask("HuggingFaceH4/MATH-500", None, _math),
    "svamp": HubTask("ChilleD/SVAMP", None, _svamp),
    "mbppplus": HubTask("evalplus/mbppplus", None, _mbppplus),
    "humaneval": HubTask("openai/openai_humaneval", None, _humaneval),
    "arc_easy": HubTask("allenai/ai2_arc", "ARC-Easy", _arc),
    "arc_challenge": HubTask("allenai/ai2_arc", "ARC-Challenge", _arc),
}


def load_from_hub(name: str, split: str = "test") -> list[Example]:
    """All rows of a task's split. Raises `T2LocalError`: `datasets` is not installed, no network,
    or the Hub's rows are not what they were.
    """
    task = HUB[name]
    try:
        import datasets
    except ImportError as error:
        raise T2LocalError(
            f"'{name}' would come from the Hub, for which the package `datasets` is missing; "
            "run `pip install datasets`."
        ) from error
    try:
        rows = datasets.load_dataset(task.path, task.config, split=split, trust_remote_code=False)
        return [task.read(row) for row in rows]
    except (OSError, ValueError, RuntimeError, httpx.HTTPError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise T2LocalError(
            f"'{name}' could not be had from the Hub ({task.path}: {reason}); go online once."
        ) from error
    except (KeyError, IndexError, TypeError) as error:
        raise T2LocalError(
            f"The Hub's rows of '{task.path}' have changed ({type(error).__name__}: {error}); "
            "use a folder of files."
        ) from error


# --- Prompts that were used to choose something.
#
# One hash a prompt, of its letters and digits alone, so that other spaces or punctuation do not
# hide it.

DIGITS = 24


def prompt_hash(prompt: str) -> str:
    """24 hexadecimal digits, the same however the prompt is spaced or punctuated.

    >>> prompt_hash("What is 2+2?") == prompt_hash("what is 2 + 2 ?")
    True
    """
    letters = re.sub(r"[\W_]+", "", prompt).casefold() or prompt
    return hashlib.sha256(letters.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def prompt_hashes(examples: Sequence[Example]) -> tuple[str, ...]:
    return tuple(prompt_hash(example.key) for example in examples)


def overlapping(examples: Sequence[Example], hashes: Collection[str]) -> list[Example]:
    """The examples whose prompts are among `hashes`."""
    known = set(hashes)
    return [example for example in examples if prompt_hash(example.key) in known]

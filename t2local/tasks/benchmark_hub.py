"""Benchmark tasks from the Hugging Face Hub, where no folder of files is given.

Through the package `datasets`, which is optional (`pip install datasets`) and keeps what it fetched
for later runs without a network. Rows come out as those of `tasks.benchmarks`. Differences from the
files: SVAMP's split is the Hub's own (700 / 300), MATH is the 500-problem test set of "Let's verify
step by step" since the whole set's redistribution is contested. Knows nothing of models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from t2local.errors import T2LocalError
from t2local.tasks.examples import Example

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
        rows = datasets.load_dataset(task.path, task.config, split=split)
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

"""The tasks that can be evaluated, each a function that builds its questions.

System text, prompt, beginning of the answer, token budget and verdict are those of the paper's code
(the reference repository's `tasks/` and `evaluation/fishfarm`), zero-shot and greedy, under the
model's own chat template (departure: the reference has templates for Llama and Mistral only). Rows
come from a folder (`T2LOCAL_DATA`) or from the Hub. Departure: ARC is answered by likelihood of the
choices' texts unless `written`, for a small model that must name a letter stays at chance.
"""

import difflib
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from t2local.adapt.dispatch import classification_prompt
from t2local.errors import T2LocalError
from t2local.evaluation.questions import (
    FORMULA,
    LETTER,
    LIKELIHOOD,
    NUMBER,
    PROGRAM,
    Question,
    QuestionSet,
)
from t2local.tasks.benchmarks import (
    DATA_VARIABLE,
    HUB,
    TASKS,
    data_folder,
    load_from_hub,
    load_task,
)
from t2local.tasks.datasets import DECIDING, probes
from t2local.tasks.files import read_examples
from t2local.tasks.rewards import runs_programs
from t2local.tasks.rows import Example
from t2local.tasks.sandbox import check_allowed
from t2local.tasks.uploads import read_upload, suggest_reward, with_choices

INSTRUCTION = (
    "Below is an instruction that describes a task."
    " Write a response that appropriately completes the request.\n\n"
)
BOXED = (
    "Solve the question below by reasoning step by step,and put the final answer within \\boxed{}."
)
CHOOSE = (
    "The following are multiple choice questions (with answers). Think step by step and then "
    'finish your answer with "the answer is (X)" where X is the correct letter choice.'
)
STEPS = "Let's think step by step"
PROGRAMMER = (
    "You are an exceptionally intelligent coding assistant that "
    " consistently delivers accurate and reliable responses to user instructions."
)
TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx")  # of a person's own
FILE_TOKENS = 256  # of an answer to a row of the user's own
PAPERS_TRAINING_ROWS = 300  # of MBPP+, in the reference's `mbpp2.py`
MBPP_TEST = range(11, 511)  # MBPP's own test split, by task id


def gsm8k(written: bool) -> QuestionSet:
    """GSM8K test, 1,319 problems; reference `tasks/gsm8k.py`: 512 tokens, the last number."""
    return _numbers("gsm8k")


def svamp(written: bool) -> QuestionSet:
    """SVAMP test, 300 problems, asked as GSM8K is; not in the paper."""
    return _numbers("svamp")


def math(written: bool) -> QuestionSet:
    """MATH; reference `tasks/math.py`: 1,024 tokens, the formula in the last box counts.

    Departure: the Hub's 500-problem test set where the folder has no `math.test.jsonl`.
    """
    questions = [Question(e, e.prompt, BOXED) for e in rows_of("math")]
    return QuestionSet("math", "math", tuple(questions), FORMULA, 1024, _source(math))


def mbppplus(written: bool) -> QuestionSet:
    """MBPP+ problems of MBPP's own test split; prompt and tests as in reference `tasks/mbpp2.py`.

    Departure: the paper's test rows are MBPP's *training* rows, which an expert may have seen.
    """
    rows = [e for e in rows_of("mbppplus") if _mbpp_id(e) in MBPP_TEST]
    return _mbpp("mbppplus", rows, mbppplus)


def mbppplus_paper(written: bool) -> QuestionSet:
    """MBPP+ rows 300 and up, the paper's test set (`mbpp_base_pass@1`): 78 of 378 problems.

    Only for experts that were not trained on MBPP's train split, which these rows are from.
    """
    return _mbpp("mbppplus_paper", rows_of("mbppplus")[PAPERS_TRAINING_ROWS:], mbppplus_paper)


def humaneval(written: bool) -> QuestionSet:
    """HumanEval, 164 problems; reference `tasks/mbpp2.py` (transfer) and `evalplus/data.py`.

    512 tokens; the answer is begun with the function's head. HumanEval's own tests decide.
    """
    questions = []
    for example in rows_of("humaneval"):
        head = example.prompt.strip()
        user = f"Write a solution to the following problem:\n```python\n{head}\n```"
        questions.append(Question(example, user, PROGRAMMER, f"```python\n{head}"))
    return QuestionSet("humaneval", "code", tuple(questions), PROGRAM, 512, _source(humaneval))


def arc_easy(written: bool) -> QuestionSet:
    """ARC-Easy test, 2,376 questions; reference `tasks/arc.py`, the paper's training task."""
    return _arc("arc_easy", written, arc_easy)


def arc_challenge(written: bool) -> QuestionSet:
    """ARC-Challenge test, 1,172 questions; reference `tasks/arc.py`, the paper's unseen task."""
    return _arc("arc_challenge", written, arc_challenge)


def easy_vqa(written: bool) -> QuestionSet:
    """easy-VQA test, 300 questions; without their pictures where the model reads text only.

    Not in the paper. The likeliest of all answers that occur counts. Without the pictures it is a
    set that no expert comes near.
    """
    rows = rows_of("easy_vqa")
    kinds = sorted({row.answer for row in rows})
    columns = [{**e.columns, "choices": kinds, "label": kinds.index(e.answer)} for e in rows]
    pairs = zip(rows, columns, strict=True)
    questions = [Question(replace(e, columns=c), e.prompt) for e, c in pairs]
    return QuestionSet("easy_vqa", "other", tuple(questions), LIKELIHOOD, 1, _source(easy_vqa))


def probes_math(written: bool) -> QuestionSet:
    """Our own word problems with four answers each, 60; no network needed. Not in the paper."""
    return _probes("math", probes_math)


def probes_code(written: bool) -> QuestionSet:
    """Our own questions on small programs, 60; no network needed. Not in the paper."""
    return _probes("code", probes_code)


def probes_reasoning(written: bool) -> QuestionSet:
    """Our own science questions, 60; no network needed. Not in the paper."""
    return _probes("reasoning", probes_reasoning)


def probes_kinds(written: bool) -> QuestionSet:
    """Our own messages in the question of pass 1: which kind? 60; no network. Not in the paper."""
    return _probes(DECIDING, probes_kinds)


OWN = (probes_math, probes_code, probes_reasoning, probes_kinds)
BENCHMARKS: dict[str, Callable[[bool], QuestionSet]] = {
    task.__name__: task
    for task in (
        gsm8k, math, svamp, mbppplus, mbppplus_paper, humaneval, arc_easy, arc_challenge, easy_vqa,
        *OWN,
    )
}  # fmt: skip


RUN_PROGRAMS = frozenset(task.__name__ for task in (mbppplus, mbppplus_paper, humaneval))


def question_set(
    name: str, limit: int | None = None, seed: int = 0, written: bool = False, reward: str = ""
) -> QuestionSet:
    """The questions of a task, or of a user's file; `limit` of them are drawn by `seed`.

    `written`: choices are answered in words, as in the paper's code. `reward`: for a file; what
    fits its answers where it is not given. Raises `T2LocalError`: unknown task, no rows, no net,
    programs to run where none may be run.
    """
    if limit is not None and limit < 1:
        raise T2LocalError(f"The limit is {limit}; it must be 1 or more.")
    known = re.sub(r"[\s-]+", "_", name.strip().lower()).removesuffix("+")
    known = {"mbpp": "mbppplus"}.get(known, known)
    if known in BENCHMARKS and not Path(name).is_file():
        chosen = BENCHMARKS[known](written)
    else:
        chosen = _file(name, reward)
    if chosen.verdict == PROGRAM:
        check_allowed()
    questions = chosen.questions
    if limit is not None and limit < len(questions):
        places = sorted(random.Random(seed).sample(range(len(questions)), limit))
        questions = tuple(questions[place] for place in places)
    return replace(chosen, questions=questions)


def available_offline() -> list[str]:
    """Our own tasks, and those whose rows are in the folder that `T2LOCAL_DATA` names."""
    own = {task.__name__ for task in OWN}
    return [name for name in BENCHMARKS if name in own or _path(_rows_name(name)) is not None]


def files_of_the_folder() -> list[Path]:
    """Other tables in the folder that `T2LOCAL_DATA` names, by name; a split of a task is none."""
    named = os.environ.get(DATA_VARIABLE)
    folder = Path(named).expanduser() if named else None
    if folder is None or not folder.is_dir():
        return []
    splits = {f"{task.name}.{split}" for task in TASKS.values() for split in task.splits}
    splits |= {f"{name}.test" for name in BENCHMARKS}
    found = (path for path in folder.iterdir() if path.suffix.lower() in TABLES and path.is_file())
    return sorted(path for path in found if path.stem.lower() not in splits)


def rows_of(name: str) -> list[Example]:
    """A task's test rows from the folder, else from the Hub. Raises `T2LocalError`."""
    path = _path(name)
    if path is not None:
        return load_task(name) if name in TASKS else list(read_examples(path).examples)
    here = ", ".join(available_offline()) or f"none (name a folder with {DATA_VARIABLE})"
    if name not in HUB:
        raise T2LocalError(f"'{name}' is not in a folder of {DATA_VARIABLE}; here are: {here}.")
    try:
        return load_from_hub(name)
    except T2LocalError as error:
        raise T2LocalError(f"{error} Available without a network: {here}.") from error


def _file(name: str, reward: str) -> QuestionSet:
    path = Path(name).expanduser()
    if not path.is_file():
        near = difflib.get_close_matches(name.lower().replace("-", "_"), BENCHMARKS, 1, 0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"choose among {', '.join(BENCHMARKS)}."
        raise T2LocalError(f"There is no task and no file '{name}'; {hint}")
    read = read_upload(path)
    if read.bad_rows:
        row, reason = read.bad_rows[0]
        raise T2LocalError(
            f"'{path.name}' has {len(read.bad_rows)} bad rows, the first is row {row} "
            f"({reason}); mend or remove them and start again."
        )
    reward = reward or suggest_reward(read.examples)[0]
    if runs_programs(reward):
        check_allowed()
    return questions_of(path, read.examples, reward)


def questions_of(path: Path, examples: Sequence[Example], reward: str = "") -> QuestionSet:
    """The rows of a person's file as questions; `reward` as in `question_set`.

    Raises `T2LocalError` where the reward does not fit them.
    """
    reward = reward or suggest_reward(examples)[0]
    rows = with_choices(examples) if reward == "choice" else examples
    questions = tuple(Question(e, e.prompt) for e in rows)
    if reward == "choice":
        rewarded = [_with_label(q) for q in questions]
        return QuestionSet(path.stem, path.stem, tuple(rewarded), LIKELIHOOD, 1, path.name)
    return QuestionSet(path.stem, path.stem, questions, reward, FILE_TOKENS, path.name)


def _with_label(question: Question) -> Question:
    """A choice whose right one is given by its text or letter, with its place."""
    columns, answer = question.example.columns, question.example.answer.strip()
    if columns.get("label") is not None:
        return question
    choices = [str(choice).strip() for choice in columns["choices"]]
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    places = [i for i in range(len(choices)) if answer in (choices[i], letters[i])]
    if len(places) != 1:
        raise T2LocalError(
            f"The answer '{answer[:60]}' is none of the choices of "
            f"'{question.user[:60]}'; write it as one of them, or as its letter."
        )
    example = replace(question.example, columns={**columns, "label": places[0]})
    return replace(question, example=example)


def _numbers(name: str) -> QuestionSet:
    questions = tuple(Question(e, e.prompt, INSTRUCTION) for e in rows_of(name))
    return QuestionSet(name, "math", questions, NUMBER, 512, _source(BENCHMARKS[name]))


def _arc(name: str, written: bool, task: Callable) -> QuestionSet:
    rows = rows_of(name)
    if not written:
        questions = tuple(Question(e, e.prompt) for e in rows)
        return QuestionSet(name, "reasoning", questions, LIKELIHOOD, 1, _source(task))
    questions = tuple(Question(e, _with_options(e), CHOOSE, STEPS) for e in rows)
    return QuestionSet(name, "reasoning", questions, LETTER, 512, _source(task))


def _with_options(example: Example) -> str:
    options = enumerate(example.columns["choices"])
    lines = "".join(f"{chr(ord('A') + i)}. {text}\n" for i, text in options)
    return f"{example.prompt}\nOptions:\n{lines}"


def _probes(expert: str, task: Callable) -> QuestionSet:
    """The questions by which forgetting is measured, for `expert`; answered by likelihood."""
    rows = probes()[expert]
    asked = classification_prompt if expert == DECIDING else str
    questions = tuple(Question(e, asked(e.prompt)) for e in rows)
    return QuestionSet(task.__name__, expert, questions, LIKELIHOOD, 1, _source(task))


def _mbpp(name: str, rows: Sequence[Example], task: Callable) -> QuestionSet:
    questions = tuple(Question(e, _asked(e), PROGRAMMER, "```python") for e in rows)
    return QuestionSet(name, "code", questions, PROGRAM, 512, _source(task))


def _asked(example: Example) -> str:
    text = str(example.columns.get("text") or example.prompt).strip()
    text = text if text.endswith(".") else f"{text}."
    test = example.columns["tests"][0].strip()
    return f"{text} Your code should satisfy the following assertion:\n```python\n{test}\n```"


def _mbpp_id(example: Example) -> int:
    return int(str(example.columns["id"]).rpartition("/")[2])


def _source(task: Callable) -> str:
    return task.__doc__.splitlines()[0]


def _rows_name(name: str) -> str:
    return name.removesuffix("_paper")


def _path(name: str) -> Path | None:
    """The file with a task's rows; None where there is no folder or it lacks the file."""
    if not os.environ.get(DATA_VARIABLE):
        return None
    path = data_folder() / f"{name}.test.jsonl"
    return path if path.is_file() else None

"""What is asked and scored: a question, a task's questions, and the verdict on an answer.

Extraction and comparison are those of the paper's code, task by task.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from t2local.tasks.rewards import REWARDS, rewards_of
from t2local.tasks.rows import Example

LIKELIHOOD = "likelihood"  # the verdict of a question whose answer is the likeliest of its choices


@dataclass(frozen=True)
class Question:
    """`example`: the row that is scored; its prompt is what pass 1 reads.

    `user`: the message of pass 2, with `system` before it and the answer begun by `prefill`.
    """

    example: Example
    user: str
    system: str = ""
    prefill: str = ""


@dataclass(frozen=True)
class QuestionSet:
    """`topic`: what a dispatcher should call these prompts. `verdict`: one of the verdicts below.

    `max_new_tokens`: of an answer, as the source has it.
    """

    name: str
    topic: str
    questions: tuple[Question, ...]
    verdict: str
    max_new_tokens: int = 1
    source: str = ""

    def sha256(self) -> str:
        """Equal only where the same is asked and scored in the same way."""
        rows = [
            [q.user, q.system, q.prefill, q.example.answer, dict(q.example.columns)]
            for q in self.questions
        ]
        text = json.dumps([self.verdict, self.max_new_tokens, rows], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --- Is an answer right? The extraction and comparison of the paper's code, task by task.
#
# Source: the reference repository's `evaluation/fishfarm/fishfarm/tasks`
# (`language_restricted_math`, `competation_math`, `ai2_arc`, `evalplus`). Departures: thousands
# separators are read (there "1,000" is 0), an ARC answer without a letter is wrong (there it is
# guessed), and formulas are compared by math-verify (there by sympy alone). Pure, but for the
# sandbox that runs programs.

STOPS = ("Instruction", "Response")  # what the reference's generation stops at
FENCE = "```"

Verdict = Callable[[Sequence[Question], Sequence[str]], list[bool]]


def last_number(text: str) -> float | None:
    """`extract_answer_number`: the last number of a text, without its sign.

    >>> last_number("So 3 bags cost $1,200.50.")
    1200.5
    """
    found = re.findall(r"\d*\.?\d+", re.sub(r"(?<=\d),(?=\d{3})", "", text))
    return float(found[-1]) if found else None


def letter(text: str) -> str | None:
    """`ai2_arc.extract_answer`: "answer is (B)", else "Answer: B", else the last lone letter.

    >>> letter("A cat purrs, so the answer is (B).")
    'B'
    """
    for pattern in (r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])"):
        if match := re.search(pattern, text):
            return match[1]
    match = re.search(r"\b[A-J]\b(?!.*\b[A-J]\b)", text, re.DOTALL)
    return match[0] if match else None


def final_formula(text: str) -> str | None:
    """`competation_math.extract_ans`: after "The answer is: ", else in the last `\\boxed{}`.

    >>> final_formula(r"It is \\boxed{\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    """
    _, said, rest = text.rpartition("The answer is: ")
    if said:
        return rest.split(".\n")[0].strip().removesuffix(".").strip()
    start = text.rfind(r"\boxed{")
    depth, begin = 0, start + len(r"\boxed")
    for at in range(begin, len(text) if start >= 0 else 0):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[begin + 1 : at]
    return None


def _numbers(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    wanted = [{last_number(right) for right in q.example.answers} for q in questions]
    found = [last_number(_until_stop(answer)) for answer in answers]
    return [f is not None and f in w for w, f in zip(wanted, found, strict=True)]


def _letters(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    wanted = [chr(ord("A") + int(q.example.columns["label"])) for q in questions]
    found = [letter(_until_stop(answer)) for answer in answers]
    return [w == f for w, f in zip(wanted, found, strict=True)]


def _formulas(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    found = [final_formula(_until_stop(answer)) for answer in answers]
    boxed = ["" if f is None else f"\\boxed{{{f}}}" for f in found]
    return _rewarded("math", questions, boxed)


def _programs(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    """What was begun for the model and what it wrote up to the closing fence, run on the tests."""
    pairs = zip(questions, answers, strict=True)
    written = [f"{q.prefill}\n{a.split(FENCE)[0].lstrip(chr(10))}\n{FENCE}" for q, a in pairs]
    return _rewarded("code", questions, written)


def _likeliest(questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    choices = (q.example.columns["choices"][int(q.example.columns["label"])] for q in questions)
    return [choice == answer for choice, answer in zip(choices, answers, strict=True)]


def _rewarded(name: str, questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    examples = [replace(q.example, prompt=q.user) for q in questions]
    rewards = rewards_of(name, examples, answers)
    return [reward is not None and reward >= 1 for reward in rewards]


def _until_stop(answer: str) -> str:
    ends = [at for stop in STOPS if (at := answer.find(stop)) >= 0]
    return answer[: min(ends, default=len(answer))]


PROGRAM, NUMBER, LETTER, FORMULA = "program", "last number", "letter", "formula"
_VERDICTS: dict[str, Verdict] = {
    NUMBER: _numbers,
    LETTER: _letters,
    FORMULA: _formulas,
    PROGRAM: _programs,
    LIKELIHOOD: _likeliest,
}


def judge(verdict: str, questions: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    """Right or wrong, an answer a question; `verdict` is one of ours or a reward (full reward)."""
    if verdict in _VERDICTS:
        return _VERDICTS[verdict](questions, answers)
    assert verdict.partition("+")[0].rpartition("*")[2] in REWARDS, verdict
    return _rewarded(verdict, questions, answers)


def right_answer(verdict: str, question: Question) -> str:
    """What would have been right, for a person to read."""
    example = question.example
    choices, label = example.columns.get("choices"), example.columns.get("label")
    if choices and label is not None:
        text = choices[int(label)]
        return f"{chr(ord('A') + int(label))}. {text}" if verdict == LETTER else text
    return example.wanted

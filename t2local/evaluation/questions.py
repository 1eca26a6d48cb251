"""What is asked and scored: one question of a task, and a task's questions.

Frozen values without I/O.
"""

import hashlib
import json
from dataclasses import dataclass

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
    """`topic`: what a dispatcher should call these prompts. `verdict`: see `evaluation.verdicts`.

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

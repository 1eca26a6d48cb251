"""A batch of questions answered under what is in force: the likeliest choice, or greedy text.

A model that gives NaN is noticed: those answers are marked as failed. Knows nothing of strategies,
files or what is right.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from t2local.evaluation.questions import LIKELIHOOD, Question, QuestionSet, prompt_ids
from t2local.models.generate import Around, Sampling, generate_batch
from t2local.models.load import LoadedModel
from t2local.models.scoring import choice_scores
from t2local.progress import CancelToken

NOT_FINITE = "the model gave NaN"
TOO_LONG = "longer than the model's context"


@dataclass(frozen=True)
class Answer:
    """`tokens`: written ones, 0 for a choice. `failed`: why there is none, else ""."""

    text: str = ""
    tokens: int = 0
    failed: str = ""


def answers(
    loaded: LoadedModel,
    asked: QuestionSet,
    questions: Sequence[Question],
    around: Around,
    rows_differ: bool,
    max_new_tokens: int,
    cancel: CancelToken | None = None,
) -> list[Answer]:
    """An answer a question of `asked`, in one batch. `rows_differ`: `around` sets a z a row.

    Raises `Cancelled` between tokens, `T2LocalError` where the chat template refuses a question.
    """
    if asked.verdict == LIKELIHOOD:
        return _likeliest(loaded, questions, around)
    return _written(loaded, questions, around, rows_differ, max_new_tokens, cancel)


@torch.no_grad()
def _likeliest(loaded: LoadedModel, questions: Sequence[Question], around: Around) -> list[Answer]:
    encode = loaded.tokenizer.encode
    choices = [q.example.columns["choices"] for q in questions]
    tokens = [[encode(str(c), add_special_tokens=False) for c in row] for row in choices]
    ids = [prompt_ids(loaded, question) for question in questions]
    with around():
        scored = [scores.float().cpu() for scores in choice_scores(loaded.model, ids, tokens)]
    return [
        Answer(str(row[int(scores.argmax())]))
        if bool(torch.isfinite(scores).all())
        else Answer(failed=NOT_FINITE)
        for row, scores in zip(choices, scored, strict=True)
    ]


def _written(
    loaded: LoadedModel,
    questions: Sequence[Question],
    around: Around,
    rows_differ: bool,
    max_new_tokens: int,
    cancel: CancelToken | None,
) -> list[Answer]:
    ids = [prompt_ids(loaded, question) for question in questions]
    if any(len(prompt) >= loaded.context_length for prompt in ids):
        return _apart(loaded, questions, ids, around, rows_differ, max_new_tokens, cancel)
    sampling = Sampling(
        temperature=0.0, max_new_tokens=max_new_tokens, repetition_penalty=1.0, seed=0
    )
    seen: list[torch.Tensor] = []
    watched = _watching(loaded, around, seen)
    said = generate_batch(loaded, ids, sampling, cancel, around=watched, rows_differ=rows_differ)
    if not bool(torch.isfinite(torch.stack(seen)).all()):
        return [Answer(failed=NOT_FINITE)] * len(questions)
    decode = loaded.tokenizer.decode
    return [Answer(decode(row, skip_special_tokens=True), len(row)) for row in said]


def _apart(loaded, questions, ids, around, rows_differ, max_new_tokens, cancel) -> list[Answer]:
    """The batch without what does not fit; a z a row cannot lose rows, so there all fail."""
    fits = [len(prompt) < loaded.context_length for prompt in ids]
    kept = [question for question, fit in zip(questions, fits, strict=True) if fit]
    if rows_differ or not kept:
        return [Answer(failed=TOO_LONG)] * len(questions)
    rest = iter(_written(loaded, kept, around, rows_differ, max_new_tokens, cancel))
    return [next(rest) if fit else Answer(failed=TOO_LONG) for fit in fits]


def _watching(loaded: LoadedModel, around: Around, seen: list[torch.Tensor]) -> Around:
    """`around`, noting the sum of each forward's logits: NaN or infinite if any of them is."""
    head = loaded.model.get_output_embeddings()

    @contextmanager
    def watched() -> Iterator[None]:
        with around():  # holds the model, so that no other's forward is seen
            hook = head.register_forward_hook(
                lambda module, inputs, logits: seen.append(logits[:, -1].float().sum())
            )
            try:
                yield
            finally:
                hook.remove()

    return watched

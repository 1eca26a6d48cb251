"""A batch of questions answered under what is in force: the likeliest choice, or greedy text.

A model that gives NaN is noticed: those answers are marked as failed. Knows nothing of strategies,
files or what is right.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from t2local.evaluation.questions import LIKELIHOOD, Question, QuestionSet, prompt_ids
from t2local.models.generate import Around, AroundRows, Sampling, generate_batch
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
    around_rows: AroundRows | None,
    max_new_tokens: int,
    cancel: CancelToken | None = None,
) -> list[Answer]:
    """An answer a question of `asked`, in one batch. `around_rows`: where each has its own z.

    Raises `Cancelled` between tokens, `T2LocalError` where the chat template refuses a question.
    """
    if asked.verdict == LIKELIHOOD:
        return _likeliest(loaded, questions, around, around_rows)
    return _written(loaded, questions, around, around_rows, max_new_tokens, cancel)


@torch.no_grad()
def _likeliest(
    loaded: LoadedModel,
    questions: Sequence[Question],
    around: Around,
    around_rows: AroundRows | None,
) -> list[Answer]:
    encode = loaded.tokenizer.encode
    choices = [q.example.columns["choices"] for q in questions]
    tokens = [[encode(str(c), add_special_tokens=False) for c in row] for row in choices]
    ids = [prompt_ids(loaded, question) for question in questions]
    with around() if around_rows is None else around_rows(range(len(questions))):
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
    around_rows: AroundRows | None,
    max_new_tokens: int,
    cancel: CancelToken | None,
) -> list[Answer]:
    """Questions that are longer than the context have failed; the others are answered."""
    ids = [prompt_ids(loaded, question) for question in questions]
    fit = [place for place, prompt in enumerate(ids) if len(prompt) < loaded.context_length]
    given = [Answer(failed=TOO_LONG)] * len(questions)
    if not fit:
        return given
    sampling = Sampling(
        temperature=0.0, max_new_tokens=max_new_tokens, repetition_penalty=1.0, seed=0
    )
    seen: list[torch.Tensor] = []

    def hold(rows: Sequence[int] = ()) -> AbstractContextManager:
        own = around() if around_rows is None else around_rows([fit[row] for row in rows])
        return _watched(loaded, own, seen)

    prompts, rows = [ids[place] for place in fit], hold if around_rows else None
    said = generate_batch(loaded, prompts, sampling, cancel, around=hold, around_rows=rows)
    if not bool(torch.isfinite(torch.cat(seen)).all()):
        return [Answer(failed=NOT_FINITE)] * len(questions)
    decode = loaded.tokenizer.decode
    for place, row in zip(fit, said, strict=True):
        given[place] = Answer(decode(row, skip_special_tokens=True), len(row))
    return given


@contextmanager
def _watched(
    loaded: LoadedModel, own: AbstractContextManager, seen: list[torch.Tensor]
) -> Iterator[None]:
    """`own`, noting the sum of each row's logits: NaN or infinite if any of them is."""
    head = loaded.model.get_output_embeddings()
    with own:  # holds the model, so that no other's forward is seen
        hook = head.register_forward_hook(
            lambda module, inputs, logits: seen.append(logits[:, -1].float().sum(-1))
        )
        try:
            yield
        finally:
            hook.remove()

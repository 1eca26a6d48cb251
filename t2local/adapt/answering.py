"""The one way to answer rows: the likeliest of their choices, or greedy text.

Training's held-out measures, evaluations, mixture searches and the proof all come here, so the same
rows under the same mixture get the same answers. A model that gives NaN is noticed: those answers
have `failed`. The model is used under whatever `z` the caller's `around` puts in force for each
forward, or `around_rows` where each row has its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from t2local.errors import T2LocalError
from t2local.models.chat_format import (
    answer_text,
    encode_text,
    end_of_turn,
    opening_of,
    render_prompt,
)
from t2local.models.decode.generate import (
    Around,
    AroundRows,
    Batch,
    Sampling,
    generate_batch,
    most_tokens,
)
from t2local.models.decode.scoring import choice_scores
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.tasks.rows import WHOLE, Example

CHOICE, TEXT = "choice", "text"
CHOICE_ROWS, TEXT_ROWS = 16, 32  # of a batch
BETA = 0.1  # of a difference of log-likelihoods of whole answers, as in DPO (arXiv 2305.18290)
UNMOVED = 1e-4  # nats a token, by which two batches of one model may differ
NOT_FINITE = "the model gave NaN"
TOO_LONG = "longer than the model's context"

Ids = Sequence[int]
Watched = list[tuple[Sequence[int], Tensor]]  # rows of a forward, the sum of each one's logits


class Choices(NamedTuple):
    """`ids`: the tokens of each of `texts`."""

    texts: Sequence[str]
    ids: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Answer:
    """`tokens`: written ones, 0 for a choice. `failed`: why there is none, else ""."""

    text: str = ""
    tokens: int = 0
    failed: str = ""


def action_of(examples: Sequence[Example]) -> str:
    """`CHOICE` when every example lists its choices, to be chosen from, else `TEXT`."""
    return CHOICE if all(e.columns.get("choices") and not e.written for e in examples) else TEXT


def prompt_ids(
    loaded: LoadedModel,
    example: Example,
    user: str | None = None,
    system: str = "",
    prefill: str = "",
) -> list[int]:
    """The example's turns under the model's chat template, with its pictures.

    `user`: instead of the prompt. `system`: said before all. `prefill`: how the answer begins.
    """
    *before, asked = example.turns
    asked = asked if user is None else {**asked, "content": user}
    first = [{"role": "system", "content": system}] if system else []
    after = [{"role": "assistant", "content": prefill}] if prefill else []
    return render_prompt(loaded, [*first, *before, asked, *after], continue_last=bool(prefill))


def check_sees(loaded: LoadedModel, examples: Sequence[Example]) -> None:
    """Raise `T2LocalError` where the examples ask about pictures and the model reads text only."""
    with_pictures = sum(bool(example.pictures) for example in examples)
    if with_pictures and loaded.pictures is None:
        raise T2LocalError(
            f"{with_pictures} rows have a picture, but {loaded.name} reads text only; load a "
            "vision-language model (LLaVA, for one), or remove the column 'image'."
        )


def choice_tokens(loaded: LoadedModel, example: Example) -> int:
    """How many tokens one forward reads for an example: its prompt once and every choice."""
    return len(prompt_ids(loaded, example)) + sum(map(len, choices_of(loaded, example).ids))


def choice_ids(loaded: LoadedModel, choices: Sequence[str]) -> list[list[int]]:
    """The tokens of each choice."""
    return [encode_text(loaded.tokenizer, str(choice)) for choice in choices]


def choices_of(loaded: LoadedModel, example: Example) -> Choices:
    """What an example lists. Of whole answers the end of the turn is a token too.

    Without it a long answer cut short would be as likely as its beginning is.
    """
    texts = [str(choice) for choice in example.columns["choices"]]
    ids = choice_ids(loaded, texts)
    if not example.columns.get(WHOLE):
        return Choices(texts, ids)
    return Choices(texts, [[*one, end_of_turn(loaded.tokenizer)] for one in ids])


def score_choices(loaded: LoadedModel, examples: Sequence[Example]) -> list[Tensor]:
    """A differentiable `[K]` tensor an example: length-normalised log-likelihoods. One forward."""
    choices = [choices_of(loaded, e).ids for e in examples]
    return choice_scores(loaded.model, [prompt_ids(loaded, e) for e in examples], choices)


# --- Whole answers, of which one was preferred: measured by what moved from the base model.


def are_preferences(examples: Sequence[Example]) -> bool:
    """Whether all choices that the examples list are whole answers."""
    chosen = bool(examples) and action_of(examples) == CHOICE
    return chosen and all(e.columns.get(WHOLE) for e in examples)


def risen(moved: Tensor, right: int, longest: int) -> Tensor:
    """Whether the right one of K answers rose, `[...]` of `moved` `[..., K]`: log π_z − log π_base.

    1 where it became likelier than with the base model, and more so than any other, 0.5 where
    nothing moved (the base model, by definition), else 0. `longest`: tokens of an answer.
    """
    others = torch.cat([moved[..., :right], moved[..., right + 1 :]], dim=-1)
    best = others.amax(-1).clamp(min=0.0)
    rose = (moved[..., right] > best).float()
    still = moved.abs().amax(-1) < UNMOVED * longest
    return torch.where(still, 0.5, rose)


def batches(prompts: Sequence[str], action: str) -> list[list[int]]:
    """Places of prompts of similar length, as many as run together."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    rows = CHOICE_ROWS if action == CHOICE else TEXT_ROWS
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def answer_examples(
    loaded: LoadedModel,
    examples: Sequence[Example],
    max_new_tokens: int = 128,
    cancel: CancelToken | None = None,
    around: Around = nullcontext,
) -> list[Answer]:
    """An answer an example, by the kind of action they have. Raises `Cancelled`."""
    action, given = action_of(examples), [Answer()] * len(examples)
    for places in batches([example.prompt for example in examples], action):
        if cancel is not None:
            cancel.raise_if_cancelled()
        rows = [examples[place] for place in places]
        prompts = [prompt_ids(loaded, row) for row in rows]
        choices = [choices_of(loaded, row) for row in rows] if action == CHOICE else None
        found = answer_batch(loaded, prompts, choices, max_new_tokens, cancel, around=around)
        for place, answer in zip(places, found, strict=True):
            given[place] = answer
    return given


def answer_batch(
    loaded: LoadedModel,
    prompts: Sequence[Ids],
    choices: Sequence[Choices] | None,
    max_new_tokens: int,
    cancel: CancelToken | None = None,
    *,
    around: Around = nullcontext,
    around_rows: AroundRows | None = None,
) -> list[Answer]:
    """An answer a prompt, in one batch. `choices`: those of each; None: answered in text.

    `around_rows`: instead of `around`, where each row has its own z. Raises `Cancelled`.
    """
    if choices is not None:
        return _likeliest(loaded, prompts, choices, around, around_rows)
    return write(loaded, prompts, max_new_tokens, cancel, around=around, around_rows=around_rows)


@torch.no_grad()
def _likeliest(
    loaded: LoadedModel,
    prompts: Sequence[Ids],
    choices: Sequence[Choices],
    around: Around,
    around_rows: AroundRows | None,
) -> list[Answer]:
    tokens = [row.ids for row in choices]
    with around() if around_rows is None else around_rows(range(len(prompts))):
        scored = [scores.float().cpu() for scores in choice_scores(loaded.model, prompts, tokens)]
    return [
        Answer(row.texts[int(scores.argmax())])
        if bool(sound(scores))
        else Answer(failed=NOT_FINITE)
        for row, scores in zip(choices, scored, strict=True)
    ]


def sound(scores: Tensor) -> Tensor:
    """Whether the last axis of `scores` `[..., K]` says which choice is the likeliest: `[...]`."""
    return torch.isfinite(scores).all(-1)


def write(
    loaded: LoadedModel,
    prompts: Sequence[Ids],
    max_new_tokens: int,
    cancel: CancelToken | None = None,
    *,
    around: Around = nullcontext,
    around_rows: AroundRows | None = None,
    begun: Batch | None = None,
) -> list[Answer]:
    """Greedy text a prompt. Those that are longer than the context have failed.

    One NaN under `around` fails all, for they share a z; under `around_rows` its own row alone.
    `begun`: the prompts as they have been read already. Raises `Cancelled` between tokens.
    """
    fit = [place for place, prompt in enumerate(prompts) if len(prompt) < loaded.context_length]
    given = [Answer(failed=TOO_LONG)] * len(prompts)
    if not fit:
        return given
    assert begun is None or len(fit) == len(prompts), "a prompt that was read is too long"
    sampling = Sampling(
        temperature=0.0, max_new_tokens=max_new_tokens, repetition_penalty=1.0, seed=0
    )
    every = range(len(fit))
    seen: Watched = [] if begun is None else [(every, begun.logits.float().sum(-1))]

    def hold_all() -> AbstractContextManager:
        return _watched(loaded, around(), seen, ())

    def hold_rows(rows: Sequence[int]) -> AbstractContextManager:
        return _watched(loaded, around_rows([fit[row] for row in rows]), seen, rows)

    read = [prompts[place] for place in fit]
    longest = max(map(len, read)) if begun is None else begun.ids.shape[1]
    most = most_tokens(loaded, longest, sampling)
    said = generate_batch(
        loaded, read, sampling, cancel, around=hold_all,
        around_rows=None if around_rows is None else hold_rows, begun=begun,
    )  # fmt: skip
    broken = _broken(seen, every)
    for row, (place, ids) in enumerate(zip(fit, said, strict=True)):
        opening = opening_of(loaded.tokenizer, prompts[place])  # else thinking is taken for said
        text = opening + answer_text(loaded.tokenizer, ids, complete=len(ids) < most)
        given[place] = Answer(failed=NOT_FINITE) if row in broken else Answer(text, len(ids))
    return given


@contextmanager
def _watched(
    loaded: LoadedModel, own: AbstractContextManager, seen: Watched, rows: Sequence[int]
) -> Iterator[None]:
    """`own`, noting the sum of each row's logits: NaN or infinite if any of them is."""
    head, rows = loaded.model.get_output_embeddings(), list(rows)
    with own:  # holds the model, so that no other's forward is seen
        hook = head.register_forward_hook(
            lambda module, inputs, logits: seen.append((rows, logits[:, -1].float().sum(-1)))
        )
        try:
            yield
        finally:
            hook.remove()


def _broken(seen: Watched, every: Sequence[int]) -> set[int]:
    """Rows whose logits were not finite; `every` one where a forward does not say whose they were.

    Looked at once in the end: on a GPU each look waits for it.
    """
    finite = torch.isfinite(torch.cat([sums for _, sums in seen])).tolist()
    found, at = set(), 0
    for rows, sums in seen:
        part, at = finite[at : at + len(sums)], at + len(sums)
        if rows:
            found |= {row for row, fine in zip(rows, part, strict=True) if not fine}
        elif not all(part):
            found |= set(every)
    return found

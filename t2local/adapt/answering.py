"""What a policy does with an example: pick one of its choices, or write free text.

The same functions score training batches, validation, few-shot mixtures and benchmarks. They use
the model under whatever `z` is in force, or `around()` puts in force for each forward, and know
nothing of experts or rewards.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from t2local.errors import T2LocalError
from t2local.models.generate import Around, Sampling, generate_batch
from t2local.models.load import LoadedModel
from t2local.models.picture_prompt import render_prompt
from t2local.models.scoring import choice_scores
from t2local.progress import CancelToken
from t2local.tasks.examples import Example

CHOICE, TEXT = "choice", "text"
ROWS_PER_FORWARD = 16


def action_of(examples: Sequence[Example]) -> str:
    """`CHOICE` when every example lists its choices, else `TEXT`."""
    return CHOICE if all(e.columns.get("choices") for e in examples) else TEXT


def prompt_ids(loaded: LoadedModel, example: Example) -> list[int]:
    """The example's prompt as one user turn under the model's chat template."""
    turn = {"role": "user", "content": example.prompt, "images": example.pictures}
    return render_prompt(loaded, [turn])


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
    encode = loaded.tokenizer.encode
    choices = sum(len(encode(c, add_special_tokens=False)) for c in example.columns["choices"])
    return len(prompt_ids(loaded, example)) + choices


def score_choices(loaded: LoadedModel, examples: Sequence[Example]) -> list[torch.Tensor]:
    """A differentiable `[K]` tensor an example: length-normalised log-likelihoods. One forward."""
    choices = [
        [loaded.tokenizer.encode(c, add_special_tokens=False) for c in e.columns["choices"]]
        for e in examples
    ]
    prompts = [prompt_ids(loaded, example) for example in examples]
    return choice_scores(loaded.model, prompts, choices)


@torch.no_grad()
def likeliest_choices(
    loaded: LoadedModel,
    examples: Sequence[Example],
    cancel: CancelToken | None = None,
    around: Around = nullcontext,
) -> list[str]:
    """The choice with the highest score for each example, in batches of similar length."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
    answers = [""] * len(examples)
    for start in range(0, len(order), ROWS_PER_FORWARD):
        if cancel is not None:
            cancel.raise_if_cancelled()
        rows = order[start : start + ROWS_PER_FORWARD]
        with around():
            scored = score_choices(loaded, [examples[i] for i in rows])
        for i, scores in zip(rows, scored, strict=True):
            answers[i] = examples[i].columns["choices"][int(scores.argmax())]
    return answers


def greedy_texts(
    loaded: LoadedModel,
    examples: Sequence[Example],
    max_new_tokens: int,
    cancel: CancelToken | None = None,
    around: Around = nullcontext,
    rows_per_batch: int = 32,
) -> list[str]:
    """Greedy free-text answers, in batches of similar length."""
    sampling = Sampling(
        temperature=0.0, max_new_tokens=max_new_tokens, repetition_penalty=1.0, seed=0
    )
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
    answers = [""] * len(examples)
    for start in range(0, len(order), rows_per_batch):
        rows = order[start : start + rows_per_batch]
        prompts = [prompt_ids(loaded, examples[i]) for i in rows]
        completions = generate_batch(loaded, prompts, sampling, cancel, around=around)
        for i, ids in zip(rows, completions, strict=True):
            answers[i] = loaded.tokenizer.decode(ids, skip_special_tokens=True)
    return answers


def greedy_answers(
    loaded: LoadedModel,
    examples: Sequence[Example],
    max_new_tokens: int = 128,
    cancel: CancelToken | None = None,
    around: Around = nullcontext,
) -> list[str]:
    """The policy's best answer to each example, by the kind of action the examples have."""
    if action_of(examples) == CHOICE:
        return likeliest_choices(loaded, examples, cancel, around)
    return greedy_texts(loaded, examples, max_new_tokens, cancel, around)

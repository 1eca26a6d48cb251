"""What a message is about, as a vector: the mean of its tokens' hidden states at one layer.

A message is embedded where it stands in its chat, under whatever `z` is in force. The template's
own tokens are left out, and so is the opening of the answer. `listening` takes the states out of
any forward of the model, so a prompt that is read anyway is embedded without a second one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from t2local.errors import T2LocalError
from t2local.models.chat_format import render_prompt
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel

DEPTH_SHARE = 0.8  # of the layers; measured: assets/results/README.md
MOST_TOKENS = 96  # of a message: what it begins with; the mean of whole pages is like no prompt's
PLACEHOLDER = "\U00100000"  # a private character: no message begins or ends like it


def depth_of_embedding(loaded: LoadedModel) -> int:
    """How many layers a state has passed when it is taken."""
    return max(1, round(DEPTH_SHARE * len(_layers(loaded.model))))


@contextmanager
def listening(model: PreTrainedModel, depth: int) -> Iterator[list[Tensor]]:
    """The states `[B, T, d]` after `depth` layers of each forward inside, in order."""
    heard: list[Tensor] = []

    def hear(_: nn.Module, __: Any, output: Any) -> None:
        heard.append((output[0] if isinstance(output, tuple) else output).detach())

    handle = _layers(model)[depth - 1].register_forward_hook(hear)
    try:
        yield heard
    finally:
        handle.remove()


def message_span(
    loaded: LoadedModel, messages: Sequence[Mapping[str, Any]], ids: Sequence[int]
) -> tuple[int, int]:
    """Where the last message stands in `ids`: `(first, end)`, counted from the end of `ids`.

    `ids`: `messages` as the model reads them, the oldest perhaps left out. Both numbers are
    negative or 0 (the end itself); the span holds a token at least.
    """
    *before, last = messages
    other = render_prompt(loaded, [*before, {**last, "content": PLACEHOLDER}])
    whole = render_prompt(loaded, messages)
    end = -min(_same(whole[::-1], other[::-1]), len(ids) - 1)
    first = _same(whole, other) - len(whole)
    return max(min(first, end - 1), -len(ids)), end


@torch.no_grad()
def embed(
    loaded: LoadedModel,
    chats: Sequence[Sequence[Mapping[str, Any]]],
    around: Around = nullcontext,
) -> Tensor:
    """The last message of each chat as a float32 vector: `[n, d]`, on the CPU. One forward each.

    `around()` is entered around each forward: what holds the model. Of a message longer than
    `MOST_TOKENS` its beginning is read.
    """
    depth, rows = depth_of_embedding(loaded), []
    for messages in chats:
        ids = render_prompt(loaded, messages)
        first, end = (len(ids) + place for place in message_span(loaded, messages, ids))
        n_tokens = min(end - first, MOST_TOKENS, loaded.context_length - 1)
        ids = ids[max(0, first + n_tokens - loaded.context_length + 1) : first + n_tokens]
        with around(), listening(loaded.model, depth) as heard:
            loaded.model.base_model(
                input_ids=torch.tensor([ids], device=loaded.model.device), use_cache=False
            )
        rows.append(pooled(heard, n_tokens))
    return torch.stack(rows)


def pooled(heard: Sequence[Tensor], n_tokens: int, end: int = 0) -> Tensor:
    """The mean `[d]` of the `n_tokens` states before `end` (0 or negative) of `heard`."""
    if not heard or any(part.dim() != 3 for part in heard):
        raise T2LocalError(
            "The states of this model cannot be read, so its messages cannot be compared; choose "
            "another strategy than similarity."
        )
    states = torch.cat([part[0] for part in heard])  # [T, d]
    last = len(states) + end
    return states[max(0, last - n_tokens) : last].float().mean(dim=0).cpu()


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's layers in order. Raises `T2LocalError` where a model keeps them elsewhere."""
    count = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().modules():  # not in a vision tower, which may be as deep
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise T2LocalError(
        "The layers of this model are not found, so its messages cannot be compared; choose "
        "another strategy than similarity."
    )


def _same(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))

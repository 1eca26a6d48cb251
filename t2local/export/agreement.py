"""How far an approximation of an expert is from the expert, in logits.

Measured on a few fixed prompts, at every position, all of the vocabulary.
"""

from dataclasses import dataclass

import torch

from t2local.models.chat_format import render_chat
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, Z

PROMPTS = (
    "Tom has 3 boxes with 12 pencils each and gives 7 pencils away. How many are left?",
    "Which part of a plant takes in most of the water it needs?",
    "Write a function to count the vowels in a string.",
    "Hello, how are you today?",
)


@dataclass(frozen=True)
class LogitErrors:
    """Norms of the difference: `relative` to the expert's logits, `of_change` to what it changes.

    `of_change` is 0 for the expert itself and 1 for the base model.
    """

    relative: float
    of_change: float


@torch.no_grad()
def logit_errors(loaded: LoadedModel, svf: SVFModel, expert: Z, approximation: Z) -> LogitErrors:
    """Of the model under `approximation` against the model under `expert`, both `z`."""
    off = size = change = 0.0
    for prompt in PROMPTS:
        ids = torch.tensor([render_chat(loaded.tokenizer, [{"role": "user", "content": prompt}])])
        base, exact, near = (
            _logits(loaded, svf, z, ids.to(loaded.model.device))
            for z in ({}, expert, approximation)
        )
        off += float((near - exact).square().sum())
        size += float(exact.square().sum())
        change += float((exact - base).square().sum())
    return LogitErrors((off / size) ** 0.5, (off / change) ** 0.5 if change else 0.0)


def _logits(loaded: LoadedModel, svf: SVFModel, z: Z, ids: torch.Tensor) -> torch.Tensor:
    with svf.using(z):
        return loaded.model(input_ids=ids, use_cache=False).logits.double()  # [1, T, vocabulary]

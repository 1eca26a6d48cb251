"""The prompt print of an expert: embeddings of some prompts that it was trained on.

By it the strategy *similarity* knows for which messages the expert is. The texts are not in it. It
is kept with the card, as text: the tensors of an expert's file are its `z` and nothing else.
"""

import base64
import binascii
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2local.models.decode.embedding import depth_of_embedding, embed
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.tasks.datasets import everyday_messages
from t2local.untrusted import parsed, typed

MOST_PROMPTS, FEWEST_PROMPTS = 64, 4  # of an expert; fewer do not say where a subject ends
MOST_ROWS = 256  # of any print: that of everyday messages has 224
LONGEST = 6 * 2**20  # characters: 256 embeddings of a width of 8,192, and some room
LARGEST = 60_000.0  # of float16


@dataclass(frozen=True)
class PromptPrint:
    """`embeddings` `[n, d]` float16, of the base model's states after `depth` layers.

    `data`: the hash of the dataset whose rows they are, "" where it is of other prompts.
    """

    embeddings: Tensor
    depth: int
    data: str = ""

    def __len__(self) -> int:
        """How many prompts are in it."""
        return len(self.embeddings)

    def fits(self, loaded: LoadedModel) -> bool:
        """Whether messages that this model reads can be compared with it."""
        width = loaded.model.config.get_text_config().hidden_size
        return self.depth == depth_of_embedding(loaded) and self.embeddings.shape[1] == width

    def text(self) -> str:
        """As one line of JSON."""
        content = self.embeddings.to("cpu", torch.float16).contiguous()
        return json.dumps(
            {
                "depth": self.depth,
                "data": self.data,
                "shape": list(content.shape),
                "float16": base64.b64encode(content.numpy().tobytes()).decode(),
            }
        )

    @classmethod
    def from_text(cls, text: str) -> "PromptPrint":
        """Raises `ValueError` for what is no print."""
        if len(text) > LONGEST:
            raise ValueError(f"its prompt print has {len(text):,} characters")
        content = typed(dict[str, Any], parsed(text), "print")
        depth = typed(int, content.get("depth"), "depth")
        data = typed(str, content.get("data", ""), "data")[:64]
        rows, width = typed(tuple[int, int], content.get("shape"), "shape")
        try:
            raw = base64.b64decode(typed(str, content.get("float16"), "float16"), validate=True)
        except binascii.Error as error:
            raise ValueError(f"its prompt print is garbled ({error})") from error
        right = 0 < rows <= MOST_ROWS and width > 0 and len(raw) == 2 * rows * width
        if not right or depth < 1:
            raise ValueError("its prompt print has another size than it says")
        embeddings = torch.frombuffer(bytearray(raw), dtype=torch.float16).view(rows, width)
        if not torch.isfinite(embeddings).all():
            raise ValueError("its prompt print holds numbers that are not finite")
        return cls(embeddings, depth, data)


def sampled(prompts: Sequence[Any], seed: int = 0, most: int = MOST_PROMPTS) -> list[Any]:
    """`most` of `prompts` at random, in their order."""
    places = sorted(random.Random(seed).sample(range(len(prompts)), min(most, len(prompts))))
    return [prompts[place] for place in places]


def print_of(
    loaded: LoadedModel,
    chats: Sequence[Sequence[Mapping[str, Any]]],
    around: Around = nullcontext,
) -> PromptPrint:
    """Of the last messages of `chats`; `around` puts the base model in force for each forward."""
    rows = embed(loaded, chats, around).clamp(-LARGEST, LARGEST)
    return PromptPrint(rows.half(), depth_of_embedding(loaded))


def print_of_others(loaded: LoadedModel, around: Around = nullcontext) -> PromptPrint:
    """Of everyday messages, which are no expert's: what an expert is told apart from."""
    return print_of(loaded, [[_said(text)] for text in everyday_messages("train")], around)


def _said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}

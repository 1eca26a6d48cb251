"""Vision-language models: pictures become token ids, so whatever reads token ids reads pictures.

A family that no test has proven is tried with small pictures when it is loaded; a model that fails
answers text only.
"""

import hashlib
import io
import logging
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from t2local.errors import T2LocalError
from t2local.pictures import data_uri, open_picture, picture_bytes

PROVEN = {  # by tests, with the processor that they use
    "llava": "LlavaProcessor",
    "llava_next": "LlavaNextProcessor",
    "vipllava": "LlavaProcessor",
    "idefics3": "Idefics3Processor",
}
FIRST_ID = 1_000_000_000  # above any vocabulary, and still a tokenizer's 32 bits
FEATURE_BYTES = 512 * 2**20  # of features kept; those let go are computed again when asked for
# In front of a template that reads parts only: a plain text, with its placeholders, as parts.
AS_PARTS = (
    "{%- set turns = namespace(all=[]) -%}{%- for message in messages -%}"
    "{%- if message.content is string -%}{%- set pieces = message.content.split('PLACE') -%}"
    "{%- set parts = namespace(all=[]) -%}{%- for piece in pieces -%}"
    "{%- if not loop.first -%}{%- set parts.all = parts.all + [{'type': 'image'}] -%}{%- endif -%}"
    "{%- if piece.strip() -%}{%- set parts.all = parts.all + "
    "[{'type': 'text', 'text': piece.lstrip('\n')}] -%}{%- endif -%}{%- endfor -%}"
    "{%- set turns.all = turns.all + [{'role': message.role, 'content': parts.all}] -%}"
    "{%- else -%}{%- set turns.all = turns.all + [message] -%}{%- endif -%}{%- endfor -%}"
    "{%- set messages = turns.all -%}"
)


def is_vision(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint holds a tower beside its language model that is to be loaded."""
    kind = config.model_type
    text_too = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return kind in PROVEN or (kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not text_too)


def auto_class(config: PreTrainedConfig) -> type:
    """The class of transformers that loads what `config` describes."""
    return AutoModelForImageTextToText if is_vision(config) else AutoModelForCausalLM


def pictures_for(
    where: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> "tuple[Pictures | None, str]":
    """What reads pictures for a model from the folder or Hub id `where`; None: it reads text only.

    Then a sentence says why, where it was made to see. Gives the tokenizer the processor's chat
    template where it has none. Raises `T2LocalError` for a checkpoint without a processor.
    """
    kind = model.config.model_type
    if not is_vision(model.config):
        return None, ""
    try:
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next(iter(str(error).strip().splitlines()), "no reason given")[:160]
        if kind in PROVEN:
            raise T2LocalError(
                f"'{where}' reads pictures, but its processor cannot be loaded ({reason}); "
                "fetch the whole model again."
            ) from error
        return None, f"This model answers text only: its processor cannot be loaded ({reason})."
    return seeing(model, tokenizer, processor)


def seeing(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, processor: ProcessorMixin
) -> "tuple[Pictures | None, str]":
    """`pictures_for` with the processor at hand; a model that cannot see is left as it was."""
    kind, template = model.config.model_type, tokenizer.chat_template
    unseen = f"This model answers text only: t2local cannot show pictures to '{kind}' models."
    if getattr(processor, "image_token", None) is None:
        return None, unseen
    pictures = Pictures(model, tokenizer, processor)
    proven = PROVEN.get(kind) == type(processor).__name__  # Pixtral calls itself llava, too
    if proven or sees_as_itself(model, tokenizer, processor, pictures):
        return pictures, ""
    pictures.let_go()
    tokenizer.chat_template = template
    return None, unseen


class Pictures:
    """The pictures that a model has been shown, as token ids.

    Changes the model's embedding layer to answer for these ids too, and nothing else of it.
    `token`: what stands for a picture in a text. `language_model`: the name of the text-only model
    that this one was made from, "" where its config does not say.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        processor: ProcessorMixin,
    ) -> None:
        self.token: str = processor.image_token
        self.language_model: str = model.config.get_text_config().name_or_path or ""
        self._model, self._processor = model, processor
        self._token_id = tokenizer.convert_tokens_to_ids(self.token)
        self._blocks: dict[str, list[int]] = {}  # digest -> the ids in a prompt
        self._starts: list[tuple[int, str]] = []  # first id and path or data URI, rising
        self._features: OrderedDict[int, Tensor] = OrderedDict()  # first id -> [N, d]
        self._lock = Lock()
        _share_template(tokenizer, processor, self.token)
        self._embedding = model.get_input_embeddings()
        self._embedding.forward = self._reading(self._embedding.forward)

    def let_go(self) -> None:
        """Give the embedding layer its own forward back."""
        del self._embedding.forward

    def expand(self, ids: Sequence[int], pictures: Sequence[str]) -> list[int]:
        """`ids` with each placeholder replaced by the ids of its picture, in order.

        Raises `T2LocalError` for a picture that cannot be read.
        """
        assert list(ids).count(self._token_id) == len(pictures), (len(pictures), "placeholders")
        blocks = iter([self._block(picture) for picture in pictures])
        return [i for t in ids for i in (next(blocks) if t == self._token_id else (t,))]

    def _block(self, picture: str) -> list[int]:
        """The ids of one picture, with whatever the processor writes around and between them."""
        digest = hashlib.sha256(picture_bytes(picture)).hexdigest()
        with self._lock:
            if digest in self._blocks:
                return self._blocks[digest]
        read = self._processed(picture)
        places = [int(i) for i in read["input_ids"][0]]
        count = places.count(self._token_id)
        with self._lock:
            first = FIRST_ID + sum(b >= FIRST_ID for ids in self._blocks.values() for b in ids)
            numbers = iter(range(first, first + count))
            block = [next(numbers) if i == self._token_id else i for i in places]
            if digest not in self._blocks:
                self._blocks[digest] = block
                self._starts.append((first, picture))
            return self._blocks[digest]

    def _processed(self, picture: str) -> Any:
        return self._processor(
            images=[open_picture(picture)],
            text=[self.token],
            add_special_tokens=False,
            return_tensors="pt",
        )

    def _reading(self, plain):
        """The embedding layer's forward, `[B, T]` to `[B, T, d]`, for pictures' ids too."""

        def forward(ids: Tensor) -> Tensor:
            # A single token was generated: no picture, and nothing to wait for on a GPU.
            if ids.shape[-1] == 1 or not bool((seen := ids >= FIRST_ID).any()):
                return plain(ids)
            embedded = plain(ids.masked_fill(seen, 0))
            return embedded.index_put((seen,), self._features_of(ids[seen]).to(embedded))

        return forward

    def _features_of(self, ids: Tensor) -> Tensor:
        """A feature `[d]` for each of `ids` `[N]`."""
        firsts = torch.tensor([first for first, _ in self._starts])
        found = torch.searchsorted(firsts, ids.cpu(), right=True) - 1  # [N], which picture
        owners = found.unique_consecutive()
        rows = [self._feature(*self._starts[owner])[ids[found == owner] - firsts[owner].item()]
                for owner in owners.unique().tolist()]  # fmt: skip
        if len(rows) == 1:
            return rows[0]
        features = torch.empty(len(ids), rows[0].shape[1], dtype=rows[0].dtype, device=ids.device)
        for owner, row in zip(owners.unique().tolist(), rows, strict=True):
            features[found == owner] = row
        return features

    @torch.no_grad()
    def _feature(self, first: int, picture: str) -> Tensor:
        """All features `[N, d]` of one picture, from memory or from the tower."""
        if first in self._features:
            self._features.move_to_end(first)
            return self._features[first]
        read = self._processed(picture)
        text = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {
            name: value.to(self._model.device, self._model.dtype)
            if value.is_floating_point()
            else value.to(self._model.device)
            for name, value in read.items()
            if name not in text
        }
        found = self._model.get_image_features(**inputs).pooler_output
        parts = [found] if isinstance(found, Tensor) else found
        feature = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
        expected = [int(i) for i in read["input_ids"][0]].count(self._token_id)
        assert len(feature) == expected, (len(feature), expected)
        self._features[first] = feature
        while len(self._features) > 1 and self._bytes() > FEATURE_BYTES:
            self._features.popitem(last=False)
        return feature

    def _bytes(self) -> int:
        return sum(f.numel() * f.element_size() for f in self._features.values())


def _share_template(
    tokenizer: PreTrainedTokenizerBase, processor: ProcessorMixin, token: str
) -> None:
    """Let the tokenizer's chat template read plain texts in which `token` stands for a picture."""
    template = processor.chat_template or tokenizer.chat_template
    if not template:
        return
    tokenizer.chat_template = template
    turn = {"role": "user", "content": f"{token}\nword"}
    said = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    if said.count(token) != 1 or "word" not in said:
        tokenizer.chat_template = AS_PARTS.replace("PLACE", token) + template


# --- The trial: do pictures as token ids give what the model's own forward gives?
#
# One small picture between words, then two different ones (some families tile a picture only when
# it is alone), once through the processor and the model's own forward, once through `Pictures`.
# Equal computations differ by rounding alone, since they read the same embeddings; a family with
# other positions or masks for pictures, or with a forward that cannot be called like this, differs
# by more. Evidence for small pictures, not proof for all. Costs four forwards.

LOG = logging.getLogger(__name__)
TOLERANCE = 1e-3  # relative, of the logits after the picture
SIZES = ((56, 40), (40, 72))  # pixels
BEFORE, AFTER = "Look: ", " What is it?"


def sees_as_itself(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    processor: ProcessorMixin,
    pictures,
) -> bool:
    """`pictures`: the model's `vision.Pictures`."""
    return all(
        _agrees(model, tokenizer, processor, pictures, shown)
        for shown in ([trial_picture(SIZES[0])], [trial_picture(size) for size in SIZES])
    )


def _agrees(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    processor: ProcessorMixin,
    pictures,
    shown: list[str],
) -> bool:
    text = BEFORE + pictures.token * len(shown) + AFTER
    try:
        expected = _own(model, processor, text, shown)
        ours = _ours(model, tokenizer, pictures, text, shown)
    except Exception:  # of any family's own code, in its own words
        LOG.warning("A trial picture could not be read.", exc_info=True)
        return False
    if expected.shape != ours.shape:
        return False
    lost = (ours - expected).norm() / expected.norm()
    LOG.info("the logits of %d trial pictures differ by %.1e", len(shown), lost)
    return bool(lost <= TOLERANCE)


def trial_picture(size: tuple[int, int]) -> str:
    """A small picture that is neither square nor even, as a data URI."""
    image = Image.new("RGB", size, (200, 40, 30))
    ImageDraw.Draw(image).rectangle((8, 5, 30, 28), fill=(20, 90, 220))
    held = io.BytesIO()
    image.save(held, format="PNG")
    return data_uri(held.getvalue())


@torch.no_grad()
def _own(
    model: PreTrainedModel, processor: ProcessorMixin, text: str, shown: list[str]
) -> torch.Tensor:
    """Logits `[T, V]` of the model's own way."""
    read = processor(
        images=[[open_picture(picture) for picture in shown]],
        text=[text],
        add_special_tokens=False,
        return_tensors="pt",
    )
    inputs = {
        name: value.to(model.device, model.dtype)
        if value.is_floating_point()
        else value.to(model.device)
        for name, value in read.items()
    }
    return model(**inputs).logits[0].float()


@torch.no_grad()
def _ours(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pictures,
    text: str,
    shown: list[str],
) -> torch.Tensor:
    ids = pictures.expand(tokenizer.encode(text, add_special_tokens=False), shown)
    return model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float()

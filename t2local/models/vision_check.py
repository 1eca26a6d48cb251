"""Whether a picture read as token ids gives a model what its own forward gives it.

Done when a model of an unproven family is loaded: one small picture between words and then two
different ones (some families tile a picture only when it is alone), through its processor and its
own forward, and through `vision.Pictures`. Equal computations differ by rounding alone, since they
read the same embeddings; a family that gives pictures other positions or masks differs by as much
as the picture says. A family whose forward cannot be called like this differs too. Evidence for
small pictures, not proof for all; costs four forwards.
"""

import io
import logging

import torch
from PIL import Image, ImageDraw
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from t2local.pictures import data_uri, open_picture

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

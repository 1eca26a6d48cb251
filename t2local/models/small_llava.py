"""A small LLaVA made from any loaded Llama-like model and a tiny random vision tower.

It proves the path of pictures where no real vision-language model can be had: the language model's
weights are the given ones, bit for bit; the tower (CLIP's architecture) and the projector are
random, seeded and untrained, scaled so that a feature is as long as a token's embedding.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from t2local.models.load.loader import LoadedModel

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Tower:
    """The sizes of a random vision tower; a picture takes (`image` / `patch`)² tokens."""

    image: int = 64  # pixels a side
    patch: int = 32
    hidden: int = 128
    layers: int = 2
    seed: int = 0


def save_small_llava(
    text: LoadedModel, folder: Path, tower: Tower | None = None, anyres: bool = False
) -> Path:
    """Write the checkpoint with tokenizer and processor into `folder`, and give it back.

    `anyres`: LLaVA-NeXT's architecture, which looks at several tiles of a picture.
    """
    tower = tower or Tower()
    tokenizer = copy.deepcopy(text.tokenizer)
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False
    )
    model = _model(text, tokenizer, tower, anyres)
    model.save_pretrained(folder)
    _processor(tokenizer, tower, anyres).save_pretrained(folder)
    return folder


def _model(
    text: LoadedModel, tokenizer: PreTrainedTokenizerBase, tower: Tower, anyres: bool
) -> PreTrainedModel:
    vision = CLIPVisionConfig(
        hidden_size=tower.hidden,
        intermediate_size=2 * tower.hidden,
        num_hidden_layers=tower.layers,
        num_attention_heads=4,
        image_size=tower.image,
        patch_size=tower.patch,
    )
    text_config = copy.deepcopy(text.model.config)
    text_config.name_or_path = text.name
    sizes = {
        "vision_config": vision,
        "text_config": text_config,
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        "vision_feature_layer": -1,
        "tie_word_embeddings": text_config.tie_word_embeddings,
    }
    side = tower.image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tower.seed)
        if anyres:
            pinpoints = [[side, 2 * side], [2 * side, side]]
            config = LlavaNextConfig(**sizes, image_grid_pinpoints=pinpoints)
            model = LlavaNextForConditionalGeneration(config)
        else:
            model = LlavaForConditionalGeneration(LlavaConfig(**sizes))
        model = model.to(text.model.dtype).eval()
        model.model.language_model.load_state_dict(text.model.base_model.state_dict())
        model.lm_head.load_state_dict(text.model.get_output_embeddings().state_dict())
        rows = max(len(tokenizer), text_config.vocab_size)
        model.resize_token_embeddings(rows, mean_resizing=False)
        _scale_projector(model, tower)
    model.generation_config = copy.deepcopy(text.model.generation_config)
    return model


@torch.no_grad()
def _scale_projector(model: PreTrainedModel, tower: Tower) -> None:
    """Features of noise get the root mean square of the embeddings."""
    noise = torch.randn(8, 3, tower.image, tower.image).to(model.dtype)
    seen = model.model.vision_tower(noise).last_hidden_state
    projector = model.model.multi_modal_projector
    wanted = model.get_input_embeddings().weight.square().mean().sqrt()
    projector.linear_2.weight *= wanted / projector(seen).square().mean().sqrt()


def _processor(tokenizer: PreTrainedTokenizerBase, tower: Tower, anyres: bool):
    side = tower.image
    common = {
        "patch_size": tower.patch,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": IMAGE_TOKEN,
        "chat_template": tokenizer.chat_template,
    }
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if anyres:
        pinpoints = [[side, 2 * side], [2 * side, side]]
        images = LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=pinpoints)
        return LlavaNextProcessor(images, tokenizer, **common)
    return LlavaProcessor(CLIPImageProcessorPil(**sizes), tokenizer, **common)

"""Two-layer vision-language models of several families with their own configs and processors."""

import copy

import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from tests.conftest import SIZES, byte_tokenizer

TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
CROP = {"height": 32, "width": 32}
Built = tuple[PreTrainedModel, ProcessorMixin]


def build(family: str) -> Built:
    """A random model and its processor, whose tokenizer is `.tokenizer`."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family]()
    return model.float().eval(), processor


def _idefics3() -> Built:
    tiles = [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]
    around = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    tokenizer = _tokenizer("<image>", *around, *tiles)
    config = Idefics3Config(
        vision_config=Idefics3VisionConfig(**TOWER), text_config=_llama(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2,
        tie_word_embeddings=False, pad_token_id=0,
    )  # fmt: skip
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4)
    return Idefics3ForConditionalGeneration(config), processor


def _vipllava() -> Built:
    tokenizer = _tokenizer("<image>")
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER), text_config=_llama(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layers=[-1, -2],
    )  # fmt: skip
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=CROP)
    processor = LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token="<image>",
    )  # fmt: skip
    return VipLlavaForConditionalGeneration(config), processor


def _gemma3() -> Built:
    names = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = _tokenizer(*names.values())
    ids = {}
    for name, token in names.items():
        ids[name] = tokenizer.convert_tokens_to_ids(token)
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", ids[name])
    text = SIZES | {"vocab_size": len(tokenizer), "head_dim": 16, "sliding_window": 64}
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**TOWER), text_config=Gemma3TextConfig(**text).to_dict(),
        image_token_index=ids["image_token"], boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"], mm_tokens_per_image=4,
    )  # fmt: skip
    processor = Gemma3Processor(Gemma3ImageProcessorPil(size=CROP), tokenizer, image_seq_length=4)
    return Gemma3ForConditionalGeneration(config), processor


FAMILIES = {"idefics3": _idefics3, "vipllava": _vipllava, "gemma3": _gemma3}


def _tokenizer(*special: str) -> PreTrainedTokenizerBase:
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.add_special_tokens(
        {"extra_special_tokens": list(special)}, replace_extra_special_tokens=False
    )
    return tokenizer


def _llama(tokenizer: PreTrainedTokenizerBase) -> dict:
    return LlamaConfig(**SIZES | {"vocab_size": len(tokenizer)}).to_dict()

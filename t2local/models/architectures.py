"""The catalogue's models as configurations: enough to build each on the meta device, offline.

Numbers from each checkpoint's published config.json; nothing here is downloaded. What does not
change a size (rotary bases and scaling, end tokens, norms' epsilon) is left at its family's
default, so a model is never *loaded* from these. Knows nothing of memory.
"""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

Sizes = dict[str, Any]


def _decoder(
    model_type: str,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: tuple[int, int],  # query, key-value
    vocabulary: int,
    context: int,
    **more: Any,
) -> Sizes:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "pad_token_id": None,  # a family's default may lie outside a smaller vocabulary
        "tie_word_embeddings": True,
        **more,
    }


UNTIED = {"tie_word_embeddings": False}
LLAMA_3_8B = _decoder("llama", 4096, 14336, 32, (32, 8), 128256, 8192, **UNTIED)
CLIP_LARGE_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}

ARCHITECTURES: dict[str, Sizes] = {
    "embedded": _decoder("llama", 576, 1536, 30, (9, 3), 49152, 8192),
    "HuggingFaceTB/SmolLM2-360M-Instruct": _decoder("llama", 960, 2560, 32, (15, 5), 49152, 8192),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": _decoder("llama", 2048, 8192, 24, (32, 32), 49152, 8192),
    "Qwen/Qwen2.5-0.5B-Instruct": _decoder("qwen2", 896, 4864, 24, (14, 2), 151936, 32768),
    "Qwen/Qwen2.5-1.5B-Instruct": _decoder("qwen2", 1536, 8960, 28, (12, 2), 151936, 32768),
    "Qwen/Qwen2.5-3B-Instruct": _decoder("qwen2", 2048, 11008, 36, (16, 2), 151936, 32768),
    "Qwen/Qwen3-0.6B": _decoder("qwen3", 1024, 3072, 28, (16, 8), 151936, 40960, head_dim=128),
    "Qwen/Qwen3-1.7B": _decoder("qwen3", 2048, 6144, 28, (16, 8), 151936, 40960, head_dim=128),
    "Qwen/Qwen3-4B": _decoder("qwen3", 2560, 9728, 36, (32, 8), 151936, 40960, head_dim=128),
    "meta-llama/Llama-3.2-1B-Instruct": _decoder(
        "llama", 2048, 8192, 16, (32, 8), 128256, 131072, head_dim=64
    ),
    "meta-llama/Llama-3.2-3B-Instruct": _decoder(
        "llama", 3072, 8192, 28, (24, 8), 128256, 131072, head_dim=128
    ),
    "meta-llama/Meta-Llama-3-8B-Instruct": LLAMA_3_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_3_8B | {"max_position_embeddings": 131072},
    "mistralai/Mistral-7B-Instruct-v0.3": _decoder(
        "mistral", 4096, 14336, 32, (32, 8), 32768, 32768, sliding_window=None, **UNTIED
    ),
    "google/gemma-2-2b-it": _decoder(
        "gemma2", 2304, 9216, 26, (8, 4), 256000, 8192, head_dim=256, sliding_window=4096
    ),
    "google/gemma-2-9b-it": _decoder(
        "gemma2", 3584, 14336, 42, (16, 8), 256000, 8192, head_dim=256, sliding_window=4096
    ),
    "microsoft/Phi-3.5-mini-instruct": _decoder(
        "phi3", 3072, 8192, 32, (32, 32), 32064, 131072, **UNTIED
    ),
    "meta-llama/Meta-Llama-3-70B-Instruct": _decoder(
        "llama", 8192, 28672, 80, (64, 8), 128256, 8192, **UNTIED
    ),
    "llava-hf/llama3-llava-next-8b-hf": {
        "model_type": "llava_next",
        "text_config": LLAMA_3_8B | {"vocab_size": 128320},
        "vision_config": CLIP_LARGE_336,
        "image_token_index": 128256,
        **UNTIED,
    },
}


def architecture(model_id: str) -> PreTrainedConfig:
    """A transformers configuration with the sizes of a catalogue model."""
    return AutoConfig.for_model(**ARCHITECTURES[model_id])

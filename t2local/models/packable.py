"""Which models can be packed in 8 bits for decoding on a CPU, from their configuration alone.

Knows nothing of weights, devices or memory.
"""

import torch
from transformers import PreTrainedConfig

from t2local.models.positions import positions_problem

FAMILIES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}
ENGINES = {"x86", "fbgemm"}


def packing_problem(family: str, config: PreTrainedConfig) -> str:
    """Why a model of the class `family` is not packed, in a few words; "" when it can be."""
    if family not in FAMILIES or config.hidden_act != "silu":
        return f"{family} is not among the families that are packed"
    return positions_problem(config)


def eight_bit_products() -> bool:
    """Whether this processor multiplies 8-bit numbers fast."""
    return torch.backends.quantized.engine in ENGINES and torch.cpu._is_vnni_supported()

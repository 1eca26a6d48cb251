"""Models of a real one's shape with random weights: to measure speed and memory without weights.

Built layer by layer, each quantised before the next is made, so that nothing larger than the result
is ever in memory. They speak nonsense, at the speed of the real model. Knows nothing of adaptation.
"""

import math

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from t2local.models.load.loader import LoadedModel, describe
from t2local.models.load.quantized import keep_weights_as_loaded, require_bitsandbytes

SPECIAL = ("<pad>", "<s>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
)
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHAPES = {
    "tiny": LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, **TOKENS,
    ),
    "llama3-8b": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, rms_norm_eps=1e-5,
        **TOKENS,
    ),
}  # fmt: skip


def random_shape(name: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A model of the shape `SHAPES[name]` in NF4 on `device`, computing in `dtype`.

    Raises `T2LocalError` where bitsandbytes does not load.
    """
    require_bitsandbytes()
    config = LlamaConfig.from_dict(SHAPES[name].to_dict())
    n_layers, config.num_hidden_layers = config.num_hidden_layers, 0
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config)
            for index in range(n_layers):
                layer = LlamaDecoderLayer(config, index)
                _quantise(layer, device, dtype)
                model.model.layers.append(layer)
    finally:
        torch.set_default_dtype(before)
    model.config.num_hidden_layers = n_layers
    keep_weights_as_loaded(model)
    return describe(model, _byte_tokenizer(), f"random-{name}", "nf4")


def _quantise(layer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Every linear layer inside becomes an NF4 one of random weights of a usual size."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    linear = {name: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}
    for name, old in linear.items():
        m, n = old.out_features, old.in_features
        new = Linear4bit(n, m, False, dtype, quant_type="nf4", device="meta")
        weight = torch.randn(m, n, device=device, dtype=dtype) / math.sqrt(n)
        new.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", module=new)
        parent, _, child = name.rpartition(".")
        setattr(layer.get_submodule(parent), child, new.to(device))


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: enough to make prompts of a length."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        chat_template=TEMPLATE,
    )

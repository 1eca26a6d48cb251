"""GGUF files of small Llamas, written as llama.cpp's converter writes them."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import gguf
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    eight_bits: bool = False,
    ends: Mapping[str, int] = MappingProxyType({}),
    begins: bool = False,
) -> Path:
    """`model` as a `.gguf` file, its matrices in float32 or, `eight_bits`, as Q8_0.

    `ends`: further end tokens, `eot` and `eom`. `begins`: each text begins with `<s>`.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    tokens += ["ab", *(f"<unused{i}>" for i in range(config.vocab_size - len(tokens) - 1))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * (len(tokens) - 4))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for kind, token in ends.items():
        writer.add_uint32(f"tokenizer.ggml.{kind}_token_id", token)
    if begins:
        writer.add_add_bos_token(True)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    _add_tensors(writer, model, eight_bits)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: gguf.GGUFWriter, model: PreTrainedModel, eight_bits: bool) -> None:
    weights, config = model.state_dict(), model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}

    def add(name: str, weight: torch.Tensor) -> None:
        numbers, kind = weight.float().contiguous().numpy(), gguf.GGMLQuantizationType.Q8_0
        if eight_bits and weight.dim() == 2:
            writer.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, numbers)

    add("token_embd.weight", weights["model.embed_tokens.weight"])
    add("output_norm.weight", weights["model.norm.weight"])
    add("output.weight", weights["lm_head.weight"])
    for layer in range(config.num_hidden_layers):
        for ours, theirs in TENSORS.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            if theirs in heads:
                weight = _interleaved(weight, heads[theirs])
            add(f"blk.{layer}.{theirs}.weight", weight)


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Query and key rows in the order GGUF files keep them for rotary positions."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)

"""A GGUF file gives the model it was written from."""

import gguf
import pytest
import torch

from t2local.models.anatomy import anatomy
from t2local.models.load import load_model
from t2local.models.sources import anatomy_of
from t2local.progress import drain
from tests.conftest import SIZES, build_tiny, byte_tokenizer

IDS = torch.tensor([[5, 80, 81, 82, 9]])
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


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Query and key rows in the order GGUF files keep them for rotary positions."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture
def gguf_file(tmp_path):
    """A two-layer llama, float32, with the byte tokenizer."""
    model, tokenizer = build_tiny("llama"), byte_tokenizer()
    writer = gguf.GGUFWriter(tmp_path / "Tiny-Llama.gguf", "llama")
    writer.add_block_count(2)
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(SIZES["vocab_size"])
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocabulary]
    tokens += ["ab", *(f"<unused{i}>" for i in range(SIZES["vocab_size"] - len(tokens) - 1))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * (len(tokens) - 4))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)
    add_tensors(writer, model.state_dict())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "Tiny-Llama.gguf"


def add_tensors(writer, weights) -> None:
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
    ):
        writer.add_tensor(theirs, weights[ours].numpy())
    for layer in range(2):
        for ours, theirs in TENSORS.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                heads = {"attn_q": 4, "attn_k": 2}[theirs]
                weight = interleaved(weight, heads)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight.contiguous().numpy())


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_gguf_file_gives_the_model_it_was_written_from(gguf_file, quantization):
    loaded = drain(load_model(str(gguf_file), quantization))
    assert (loaded.name, loaded.quantization) == ("Tiny-Llama", quantization)
    assert loaded.context_length == SIZES["max_position_embeddings"]
    assert loaded.tokenizer.chat_template
    with torch.no_grad():
        expected, found = (m(IDS).logits for m in (build_tiny("llama"), loaded.model))
    if quantization == "none":
        assert torch.allclose(found, expected, atol=1e-4)
        assert getattr(loaded.model.config, "quantization_config", None) is None
    else:
        assert (found - expected).norm() / expected.norm() < 0.5
    assert list(gguf_file.parent.iterdir()) == [gguf_file]


def test_a_gguf_files_memory_is_known_before_it_is_read(gguf_file):
    assert anatomy_of(str(gguf_file)) == anatomy(build_tiny("llama").config)

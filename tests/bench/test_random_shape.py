"""Random models of a real shape: the size is the real one's, the weights are 4-bit ones."""

import pytest
import torch
from transformers import LlamaForCausalLM

from t2local.bench.shape import SHAPES, random_shape
from t2local.models.load.quantized import nf4_problem

CPU = torch.device("cpu")


def test_the_8b_shape_has_the_parameters_of_llama_3_8b():
    with torch.device("meta"):
        model = LlamaForCausalLM(SHAPES["llama3-8b"])
    assert sum(p.numel() for p in model.parameters()) == 8_030_261_248


@pytest.fixture(scope="module")
def loaded():
    if problem := nf4_problem():
        pytest.skip(f"no NF4 here: {problem}")
    return random_shape("tiny", CPU, torch.float32)


def test_every_linear_layer_of_the_blocks_is_4_bit_and_the_rest_is_not(loaded):
    config = SHAPES["tiny"]
    kinds = {name: type(m).__name__ for name, m in loaded.model.named_modules() if "_proj" in name}
    assert len(kinds) == 7 * config.num_hidden_layers
    assert set(kinds.values()) == {"Linear4bit"}
    assert loaded.model.lm_head.weight.dtype == torch.float32
    assert loaded.quantization == "nf4"


def test_it_reads_and_writes_like_any_model(loaded):
    ids = torch.tensor([[5, 80, 81, 82]])
    logits = loaded.model(ids).logits
    assert logits.shape == (1, 4, SHAPES["tiny"].vocab_size)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.01
    cached = loaded.model(ids[:, :3], use_cache=True).past_key_values
    step = loaded.model(ids[:, 3:], past_key_values=cached).logits
    assert torch.allclose(step[:, 0], logits[:, 3], atol=1e-4)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("Hello")) == "Hello"

"""A GGUF file gives the model it was written from."""

import pytest
import torch

from t2local.models.fit.anatomy import anatomy, anatomy_of
from t2local.models.load.loader import load_model
from t2local.progress import drain
from tests.conftest import SIZES, build_tiny, byte_tokenizer
from tests.models.gguf_files import write_gguf

IDS = torch.tensor([[5, 80, 81, 82, 9]])


@pytest.fixture
def gguf_file(tmp_path):
    """A two-layer llama, float32, with the byte tokenizer."""
    return write_gguf(build_tiny("llama"), byte_tokenizer(), tmp_path / "Tiny-Llama.gguf")


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
    assert list(gguf_file.parent.rglob("*.safetensors")) == []
    assert list(gguf_file.parent.rglob("gguf-*")) == []


def test_a_gguf_files_memory_is_known_before_it_is_read(gguf_file):
    assert anatomy_of(str(gguf_file)) == anatomy(build_tiny("llama").config)

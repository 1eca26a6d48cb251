"""A GGUF file gives the model it was written from."""

from copy import deepcopy

import pytest
import torch

from t2local.models.chat_format import render_chat, stop_tokens
from t2local.models.fit.anatomy import anatomy, anatomy_of
from t2local.models.load.loader import BASE_NOTE, load_model
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


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_all_end_tokens_of_a_gguf_file_end_an_answer(tmp_path, quantization):
    """The end of a turn and of a message are in the file's metadata, beside that of the text."""
    path = tmp_path / "Tiny-Llama.gguf"
    write_gguf(build_tiny("llama"), byte_tokenizer(), path, ends={"eot": 40, "eom": 41})
    loaded = drain(load_model(str(path), quantization))
    assert loaded.model.generation_config.eos_token_id == [2, 40, 41]
    assert {2, 40, 41} <= stop_tokens(loaded.tokenizer, [2, 40, 41])


def test_a_gguf_file_without_a_chat_template_is_a_base_model_and_keeps_its_beginning(tmp_path):
    tokenizer = deepcopy(byte_tokenizer())
    tokenizer.chat_template = None
    path = tmp_path / "Tiny-Llama.gguf"
    write_gguf(build_tiny("llama"), tokenizer, path, begins=True)
    loaded = drain(load_model(str(path), "none"))
    assert BASE_NOTE in loaded.notes
    ids = render_chat(loaded.tokenizer, [{"role": "user", "content": "hi <s>"}])
    assert ids[0] == loaded.tokenizer.bos_token_id
    assert ids.count(loaded.tokenizer.bos_token_id) == 1


def test_a_gguf_files_memory_is_known_before_it_is_read(gguf_file):
    assert anatomy_of(str(gguf_file)) == anatomy(build_tiny("llama").config)

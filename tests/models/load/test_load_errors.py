"""Checkpoints and machines that are broken: each is one sentence with a way out."""

import sys

import pytest
import torch

from t2local.models.load.load_errors import explain
from tests.conftest import build_tiny, byte_tokenizer
from tests.models.load.test_loader import edit_config, failure


@pytest.fixture
def shards(tmp_path):
    """A tiny checkpoint in several files."""
    folder = tmp_path / "sharded"
    build_tiny("llama").save_pretrained(folder, max_shard_size="100KB")
    byte_tokenizer().save_pretrained(folder)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2
    return folder, files


def test_a_missing_shard_is_half_a_download(shards):
    folder, files = shards
    files[1].unlink()
    message = failure(folder)
    assert f"lacks 1 of {len(files)} weight files (such as {files[1].name})" in message
    assert "finish its download" in message


def test_a_shortened_shard_is_damaged(shards):
    folder, files = shards
    files[1].write_bytes(files[1].read_bytes()[:-1000])
    assert "are damaged" in failure(folder)


def test_a_damaged_index_is_told(shards):
    folder, _ = shards
    (folder / "model.safetensors.index.json").write_text("{")
    assert "is damaged" in failure(folder)


def test_without_bitsandbytes_the_way_out_is_told(tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    message = failure(tiny_folder(), "nf4")
    assert "pip install bitsandbytes" in message
    assert "--quantize none" in message


def test_a_gpu_too_old_for_this_pytorch_is_told():
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device")
    message = explain("some/model", error)
    assert "too old for the installed PyTorch" in message
    assert "CUDA_VISIBLE_DEVICES=" in message


def test_running_out_of_memory_while_loading_is_told(tiny_folder, monkeypatch):
    def short(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("transformers.LlamaForCausalLM.from_pretrained", short)
    assert "--quantize nf4" in failure(edit_config(tiny_folder()))

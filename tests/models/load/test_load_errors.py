"""Checkpoints and machines that are broken: each is one sentence with a way out."""

import sys

import pytest
import torch
from transformers import CONFIG_MAPPING

from t2local.errors import T2LocalError
from t2local.models.load.gguf import check_sizes
from t2local.models.load.load_errors import check_documents, explain, shards_of
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


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_name_that_comes_twice_in_somebody_elses_file_is_no_damage(tiny_folder, name):
    """transformers takes it, the last counts; another of the folder's files is read as strictly."""
    folder = tiny_folder()
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("{", '{"added": 1, "added": 2,', 1))
    check_documents(folder)
    (folder / name).write_text(text[:-3])
    with pytest.raises(T2LocalError, match="damaged"):
        check_documents(folder)


def test_an_index_may_name_a_thing_twice(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"metadata": 1, "metadata": 2, "weight_map": {"a": "one", "a": "two"}}')
    assert shards_of(index) == {"two"}


# --- Sizes.


def test_every_default_configuration_of_transformers_is_accepted():
    made = 0
    for kind in CONFIG_MAPPING:
        try:
            values = CONFIG_MAPPING[kind]().to_dict()
        except Exception:  # some need arguments, each library class complains in its own way
            continue
        check_sizes(kind, values)
        made += 1
    assert made > len(CONFIG_MAPPING) / 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vision_feature_layers", [-2, -5, -8, -11, 6]),
        ("sliding_window", -1),
        ("max_window_layers", -1),
        ("window_size", [-1, -1]),
        ("max_relative_positions", -1),
    ],
)
def test_what_may_be_negative_is_accepted_and_still_has_a_limit(name, value):
    check_sizes("model", {"text_config": {name: value}})
    with pytest.raises(T2LocalError, match="which no model has"):
        check_sizes("model", {"text_config": {name: [-(10**13)]}})


@pytest.mark.parametrize(
    "name",
    [
        "num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "n_layer",
        "intermediate_size", "num_key_value_heads", "max_position_embeddings", "num_local_experts",
        "d_model", "n_head", "moe_intermediate_size",
    ],
)  # fmt: skip
def test_a_count_below_nothing_is_refused(name):
    with pytest.raises(T2LocalError, match="which no model has"):
        check_sizes("model", {name: -1})

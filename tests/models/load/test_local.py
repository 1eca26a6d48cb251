"""What is listed as being here loads without a network."""

import json

from huggingface_hub import constants

from t2local import paths
from t2local.models.load.embedded import NAME
from t2local.models.load.hub import half_fetched, is_complete, local_models
from t2local.models.load.loader import load_model
from t2local.progress import drain


def test_an_empty_home_has_no_models(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert local_models() == ()
    assert half_fetched() == ()


def test_folders_and_gguf_files_in_the_home_are_listed_and_load(
    home, tiny_folder, monkeypatch, tmp_path
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    paths.models_dir().mkdir(parents=True)
    tiny_folder("llama").rename(paths.models_dir() / "mine")
    (paths.models_dir() / "other.gguf").write_bytes(b"GGUF")
    (paths.models_dir() / NAME).mkdir()  # not fetched to its end
    folder, gguf = local_models()
    assert (folder.name, folder.kind, gguf.kind, gguf.size_bytes) == ("mine", "folder", "gguf", 4)
    assert drain(load_model(folder.source)).name == "mine"


def test_every_shard_must_be_there(tmp_path):
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model-1.safetensors").touch()
    assert not is_complete(tmp_path)
    (tmp_path / "model-2.safetensors").touch()
    assert is_complete(tmp_path)
    index.write_text("no json", encoding="utf-8")
    assert not is_complete(tmp_path)

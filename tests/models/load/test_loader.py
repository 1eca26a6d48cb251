"""Folders, GGUF files and Hub ids load; every way to fail is one sentence with a remedy."""

import json
import os
import shutil

import httpx
import pytest
import torch
from huggingface_hub import errors as hub

from t2local.errors import Cancelled, T2LocalError
from t2local.models.load import loader
from t2local.models.load import loader as module
from t2local.models.load.load_errors import explain
from t2local.models.load.loader import basis_for, choose_quantization, count_parameters, load_model
from t2local.progress import CancelToken, Progress, drain
from tests.conftest import FAMILIES, build_tiny

IDS = torch.tensor([[5, 80, 81, 82]])


def edit_config(folder, **changes) -> str:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return str(folder)


def failure(source, quantization="none") -> str:
    with pytest.raises(T2LocalError) as error:
        drain(load_model(str(source), quantization))
    assert "\n" not in str(error.value)
    assert "; " in str(error.value)  # the remedy
    return str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_loads_as_it_was_saved(tiny_folder, family):
    events = []
    loaded = drain(load_model(str(tiny_folder(family))), events.append)
    model = build_tiny(family)
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    assert (loaded.name, loaded.slug) == (f"tiny-{family}", f"tiny-{family}")
    assert (loaded.quantization, loaded.dtype, loaded.device) == ("none", "float32", "cpu")
    assert loaded.context_length == 512
    assert loaded.resident_bytes >= sum(4 * p.numel() for p in model.parameters())
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert all(isinstance(event, Progress) for event in events)
    assert events[-1].fraction == 1.0


@pytest.mark.parametrize(("quantization", "most"), [("nf4", 0.30), ("int8", 0.45)])
def test_quantised_on_the_cpu_it_computes_has_gradients_and_stays_as_loaded(
    tiny_folder, quantization, most
):
    folder = str(tiny_folder())
    plain, small = (drain(load_model(folder, q)) for q in ("none", quantization))
    assert (small.quantization, small.dtype) == (quantization, "float32")
    body = sum(4 * p.numel() for p in plain.model.model.layers.parameters())
    saved = plain.resident_bytes - small.resident_bytes
    assert body * (1 - most) < saved < body
    with torch.no_grad():
        first, again = (small.model(IDS).logits for _ in range(2))
        exact = plain.model(IDS).logits
    assert torch.equal(first, again)
    assert 0 < (first - exact).norm() / exact.norm() < 0.5
    x = small.model.get_input_embeddings()(IDS).requires_grad_()
    logits = small.model(inputs_embeds=x).logits
    assert torch.equal(logits, first)  # nothing was repacked by the forward without gradients
    logits.sum().backward()
    assert x.grad.abs().sum() > 0


def test_auto_quantises_big_models_on_a_gpu_only(monkeypatch):
    for cuda, size, expected in (
        (False, 8e9, "none"),
        (True, 1e9, "none"),
        (True, 8e9, "nf4"),
    ):
        monkeypatch.setattr(module.torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert choose_quantization("auto", size) == expected
        assert choose_quantization("int8", size) == "int8"


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_without_building_the_model(family):
    model = build_tiny(family)
    assert count_parameters(model.config) == model.num_parameters()


def test_an_unknown_quantisation_is_named(tiny_folder):
    assert "'q5' is unknown; choose one of auto, none, int8, nf4" in failure(tiny_folder(), "q5")


def test_a_hub_id_that_is_not_cached_says_so_offline():
    message = failure("nobody/no-such-model")
    assert "not in the local Hub cache" in message
    assert "HF_HUB_OFFLINE" in message


@pytest.mark.parametrize("source", ["/nowhere/at/all", "two words", "a/b/c", "gone.gguf", ""])
def test_what_is_neither_path_nor_id_is_named(source):
    assert f"No model at '{source}'" in failure(source)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path, tiny_folder):
    assert "holds no config.json" in failure(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in failure(tmp_path)
    folder = tiny_folder()
    (folder / "model.safetensors").unlink()
    assert "no weights" in failure(folder)


def test_files_that_are_no_models_are_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert "not a .gguf file" in failure(tmp_path / "model.onnx")
    (tmp_path / "model.gguf").write_bytes(b"PK rubbish")
    assert "is not a GGUF file" in failure(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(3))
    assert "could not be read as a GGUF model" in failure(tmp_path / "model.gguf")


def test_damaged_files_are_told(tiny_folder):
    folder = tiny_folder()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "damaged" in failure(folder)
    for name, told in (("tokenizer.json", "could not be loaded"), ("config.json", "is damaged")):
        (folder / name).write_text("{")
        assert told in failure(folder)


def test_a_missing_tokenizer_is_told(tiny_folder):
    folder = tiny_folder()
    for file in folder.glob("*token*"):
        file.unlink()
    assert "has no tokenizer" in failure(folder)


def test_weights_that_do_not_fit_are_never_made_up(tiny_folder):
    folder = tiny_folder()
    model = build_tiny("llama")
    weights = model.state_dict()
    del weights["model.layers.1.mlp.up_proj.weight"]
    model.save_pretrained(folder, state_dict=weights)
    assert "lacks 1 weights of its model (such as model.layers.1.mlp.up_proj" in failure(folder)
    assert "do not have the sizes" in failure(edit_config(folder, hidden_size=128))


def test_architectures_that_do_not_fit_are_told(tiny_folder):
    folder = tiny_folder()
    assert "architecture (nonsense)" in failure(edit_config(folder, model_type="nonsense"))
    assert "not a causal language model (ViT" in failure(edit_config(folder, model_type="vit"))


def test_foreign_quantisation_is_refused_and_ours_is_kept(tiny_folder, tmp_path):
    folder = tiny_folder()
    four = drain(load_model(str(folder), "nf4"))
    stored = tmp_path / "stored"
    four.model.save_pretrained(stored)
    four.tokenizer.save_pretrained(stored)
    again = drain(load_model(str(stored)))
    assert again.quantization == "nf4"
    with torch.no_grad():
        assert torch.equal(again.model(IDS).logits, four.model(IDS).logits)
    assert "stored as nf4 and cannot be loaded as 'none'" in failure(stored)
    gptq = {"quant_method": "gptq", "bits": 4}
    assert "quantised by 'gptq'" in failure(edit_config(folder, quantization_config=gptq))


def test_cancelling_stops_before_the_weights(tiny_folder):
    cancel = CancelToken()
    work = load_model(str(tiny_folder()), cancel=cancel)
    next(work)
    cancel.cancel()
    with pytest.raises(Cancelled):
        drain(work)


def answered(kind, status):
    request = httpx.Request("GET", "https://hub.invalid/x")
    return kind("no", response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (answered(hub.GatedRepoError, 403), "is gated: accept its licence"),
        (answered(hub.GatedRepoError, 403), "HF_TOKEN"),
        (answered(hub.RepositoryNotFoundError, 404), "no public model"),
        (hub.OfflineModeIsEnabled("offline"), "cannot be reached"),
        (hub.LocalEntryNotFoundError("gone"), "cannot be reached"),
        (answered(hub.RemoteEntryNotFoundError, 404), "holds no model"),
        (ValueError("set trust_remote_code=True"), "run its own code"),
    ],
)
def test_the_cause_decides_the_sentence(cause, expected):
    wrapped = OSError("ten lines\nof advice")
    wrapped.__cause__ = cause
    for error in (cause, wrapped):
        message = explain("some/model", error)
        assert expected in message
        assert "some/model" in message
        assert "\n" not in message


@pytest.mark.model
def test_embedded_is_that_file(embedded_home, embedded):
    loaded = drain(load_model("embedded", "none"))
    assert (loaded.name, loaded.slug) == (embedded.name, embedded.slug)
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, embedded.model(IDS).logits)


@pytest.mark.model
def test_the_embedded_model_in_4_bits(embedded_file):
    loaded = drain(load_model(str(embedded_file), "nf4"))
    assert loaded.resident_bytes < 175_000_000
    with torch.no_grad():
        assert loaded.model(IDS).logits.isfinite().all()


def test_a_checkpoint_moved_elsewhere_is_the_same(tiny_folder, tmp_path):
    elsewhere = tmp_path / "with space" / "Mödel"
    shutil.move(tiny_folder(), elsewhere)
    loaded = drain(load_model(str(elsewhere)))
    assert (loaded.name, loaded.slug) == ("Mödel", "M-del")


# --- An automatic basis is the model's own dtype where there is room, smaller ones where not.


@pytest.mark.parametrize(("free", "stored"), [(10**9, "fp32"), (250_000, "bf16"), (1, "int8")])
def test_the_memory_decides_on_the_cpu(tiny_loaded, monkeypatch, free, stored):
    monkeypatch.setattr(loader, "free_bytes", lambda device: free)
    assert basis_for(tiny_loaded()) == stored
    assert basis_for(tiny_loaded(), "bf16") == "bf16", "what is asked for is done"


@pytest.mark.parametrize("targets", ["mlp", r".*up_proj"])
def test_any_targets_will_do(tiny_loaded, targets):
    assert basis_for(tiny_loaded(), targets=targets) == "fp32"


def test_a_vision_model_has_a_choice_too(llava):
    assert basis_for(llava) == "fp32"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", -1),
        ("hidden_size", 10**9),
        ("hidden_size", -64),
        ("intermediate_size", 10**12),
        ("vocab_size", 10**12),
        ("num_attention_heads", 10**8),
        ("max_position_embeddings", 10**18),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_made(
    tiny_folder, monkeypatch, name, value
):
    folder = tiny_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    monkeypatch.setattr("transformers.CONFIG_MAPPING.__class__.__getitem__", None)
    text = failure(folder)
    assert f"says {name} = " in text
    assert "no model has" in text


def test_sizes_that_the_weights_cannot_fill_are_refused(tiny_folder):
    folder = tiny_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 500_000}))
    assert "parameters, and its weights have" in failure(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tiny_folder, name):
    folder = tiny_folder()
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert failure(folder)


def test_an_index_names_files_of_its_folder_alone(tiny_folder):
    folder = tiny_folder()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../x"}}')
    assert "is no file in the folder" in failure(folder)

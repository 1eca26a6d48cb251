"""A GGUF runs from its own bits: unpacked once, the same model, and nothing half-written."""

import json

import pytest
import torch

from t2local.errors import DiskFull, T2LocalError
from t2local.models.fit.anatomy import anatomy_of
from t2local.models.fit.automatic import best_fit
from t2local.models.fit.estimate import estimate
from t2local.models.groups.linear import GroupedEmbedding, GroupedLinear
from t2local.models.load import grouped
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach, basis
from tests.conftest import build_tiny, byte_tokenizer
from tests.models.gguf_files import write_gguf
from tests.svf.support import random_z

IDS = torch.tensor([[5, 80, 81, 82, 9]])


@pytest.fixture
def gguf_file(tmp_path):
    """A two-layer llama in 8 bits, with the byte tokenizer."""
    return write_gguf(build_tiny("llama"), byte_tokenizer(), tmp_path / "Tiny-Llama.gguf", True)


@torch.no_grad()
def logits(loaded):
    return loaded.model(IDS).logits


def test_it_is_the_model_of_the_file_s_own_numbers(gguf_file):
    """Rows of queries and keys stand in another order in the file; biases and norms are floats."""
    loaded, floats = (drain(load_model(str(gguf_file), kind)) for kind in ("auto", "none"))
    assert (loaded.quantization, floats.quantization) == ("gguf", "none")
    assert isinstance(loaded.model.lm_head, GroupedLinear)
    assert isinstance(loaded.model.get_input_embeddings(), GroupedEmbedding)
    assert torch.allclose(logits(loaded), logits(floats), atol=1e-4)
    assert (
        loaded.model.generation_config.eos_token_id == floats.model.generation_config.eos_token_id
    )
    for name, layer in loaded.model.named_modules():
        if isinstance(layer, GroupedLinear):
            assert torch.equal(layer.weight, floats.model.get_submodule(name).weight), name


def test_it_takes_the_memory_that_was_said(gguf_file):
    loaded, parts = drain(load_model(str(gguf_file))), anatomy_of(str(gguf_file))
    fit = best_fit(parts, 10**9, "cpu")
    assert (fit.estimate.plan.quantization, fit.estimate.plan.basis) == ("gguf", "int8")
    said = estimate(parts, fit.estimate.plan).weights_bytes
    assert abs(said - loaded.resident_bytes) < 0.02 * said + 30_000  # headers, rotary frequencies
    floats = drain(load_model(str(gguf_file), "none"))
    assert loaded.resident_bytes < 0.35 * floats.resident_bytes


def test_a_file_is_unpacked_once_and_a_changed_one_again(gguf_file, monkeypatch):
    folder = drain(grouped.unpacked(gguf_file))
    monkeypatch.setattr(grouped, "from_gguf", lambda *_: pytest.fail("unpacked again"))
    assert drain(grouped.unpacked(gguf_file)) == folder
    monkeypatch.undo()
    other = build_tiny("llama")
    with torch.no_grad():
        other.model.norm.weight.mul_(2)
    write_gguf(other, byte_tokenizer(), gguf_file, True)
    assert drain(grouped.unpacked(gguf_file)) != folder


def test_a_later_start_computes_no_weight_to_find_the_bases(gguf_file, tmp_path, monkeypatch):
    """Nor is another file's weight taken for it, of which the bases' folder knows as well."""
    first = attach(drain(load_model(str(gguf_file))).model, "mlp", "int8", tmp_path / "bases")
    other = write_gguf(build_tiny("llama", seed=1), byte_tokenizer(), tmp_path / "Other.gguf", True)
    attach(drain(load_model(str(other))).model, "mlp", "int8", tmp_path / "bases")
    weight = GroupedLinear.weight
    asked = property(lambda self: pytest.fail("a weight was computed"))
    monkeypatch.setattr(GroupedLinear, "weight", asked)
    again = attach(drain(load_model(str(gguf_file))).model, "mlp", "int8", tmp_path / "bases")
    z = random_z(first)
    assert again.fingerprint(z) == first.fingerprint(z)
    for name, layer in first.layers.items():
        assert torch.equal(again.layers[name].basis.vectors, layer.basis.vectors)
    kept = attach(drain(load_model(str(other))).model, "mlp", "int8", tmp_path / "bases")
    monkeypatch.setattr(GroupedLinear, "weight", weight)
    exact = attach(drain(load_model(str(other))).model, "mlp", "int8")
    assert kept.fingerprint(z) == exact.fingerprint(z) != first.fingerprint(z)


@pytest.mark.parametrize("damage", ["", "[1, 2]", '{"x": 3}', '{"x": "y"}', "\udcff"])
def test_a_damaged_note_of_hashes_is_made_again(gguf_file, tmp_path, damage):
    whole = attach(drain(load_model(str(gguf_file))).model, "mlp", "int8", tmp_path)
    (note,) = tmp_path.glob("digests.json")
    before = note.read_bytes()
    note.write_text(damage, encoding="utf-8", errors="surrogateescape")
    again = attach(drain(load_model(str(gguf_file))).model, "mlp", "int8", tmp_path)
    z = random_z(whole)
    assert again.fingerprint(z) == whole.fingerprint(z)
    assert json.loads(before).items() <= json.loads(note.read_bytes()).items()


def test_a_disk_that_takes_no_note_still_starts(gguf_file, tmp_path, monkeypatch):
    writing = basis.atomic_write

    def full(path):
        if path.name == basis.REMEMBERED:
            raise DiskFull("The disk is full.")
        return writing(path)

    monkeypatch.setattr(basis, "atomic_write", full)
    assert attach(drain(load_model(str(gguf_file))).model, "mlp", "int8", tmp_path).matrix_names
    assert not (tmp_path / basis.REMEMBERED).exists()


def test_a_damaged_cache_is_written_anew(gguf_file):
    before, folder = logits(drain(load_model(str(gguf_file)))), drain(grouped.unpacked(gguf_file))
    tensors = next(folder.glob("tensors-*"))
    tensors.write_bytes(tensors.read_bytes()[:-5])
    assert torch.equal(logits(drain(load_model(str(gguf_file)))), before)
    (folder / grouped.MANIFEST).write_text(json.dumps([]))
    assert torch.equal(logits(drain(load_model(str(gguf_file)))), before)


def test_a_cache_without_its_number_is_written_anew(gguf_file):
    """By which hashes of its weights are remembered: another one must not pass for it."""
    folder = drain(grouped.unpacked(gguf_file))
    manifest = folder / grouped.MANIFEST
    whole = json.loads(manifest.read_text("utf-8"))
    for damaged in ({k: v for k, v in whole.items() if k != "number"}, whole | {"number": ""}):
        manifest.write_text(json.dumps(damaged), encoding="utf-8")
        drain(grouped.unpacked(gguf_file))
        assert json.loads(manifest.read_text("utf-8"))["number"] not in ("", whole["number"])


def test_giving_up_leaves_nothing_behind(gguf_file):
    work = grouped.unpacked(gguf_file)
    for _ in range(3):
        next(work)
    work.close()
    kept = [path.name for path in (grouped._cache_dir()).iterdir()]
    assert kept == ["hashes.json"]


def test_a_full_disk_is_said_before_anything_is_written(gguf_file, monkeypatch):
    usage = grouped.shutil.disk_usage(gguf_file.parent)._replace(free=1000)
    monkeypatch.setattr(grouped.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match=r"Unpacking 'Tiny-Llama\.gguf' takes .* make room"):
        drain(grouped.unpacked(gguf_file))


def test_floats_are_not_rounded_unasked(tmp_path):
    path = write_gguf(build_tiny("llama"), byte_tokenizer(), tmp_path / "Floats.gguf")
    assert drain(load_model(str(path))).quantization == "none"
    with pytest.raises(T2LocalError, match=r"'Floats\.gguf' cannot be run from its own bits"):
        drain(load_model(str(path), "gguf"))


def test_weights_of_another_size_than_the_configuration_s_are_refused(gguf_file):
    """Compiled loops would read and write beyond them."""
    folder = drain(grouped.unpacked(gguf_file))
    config = json.loads((folder / "config.json").read_text())
    for name, size in (("intermediate_size", 128), ("hidden_size", 128), ("vocab_size", 4096)):
        (folder / "config.json").write_text(json.dumps(config | {name: size}))
        with pytest.raises(T2LocalError, match="do not have the size"):
            grouped.open_unpacked(folder)


def test_a_file_without_a_weight_is_refused_in_a_sentence(gguf_file):
    folder = drain(grouped.unpacked(gguf_file))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(T2LocalError, match=r"lacks weights .*model\.layers\.2"):
        grouped.open_unpacked(folder)


def test_an_unknown_type_is_named_with_those_that_are_read(gguf_file, monkeypatch):
    monkeypatch.setattr(grouped, "READERS", {})
    with pytest.raises(T2LocalError, match=r"as Q8_0 .*use `--quantize none`.*Q4_K_M"):
        drain(grouped.unpacked(gguf_file))


def test_a_checkpoint_is_no_gguf_file(tmp_path):
    build_tiny("llama").save_pretrained(tmp_path / "folder")
    byte_tokenizer().save_pretrained(tmp_path / "folder")
    with pytest.raises(T2LocalError, match=r"is no `\.gguf` file"):
        drain(load_model(str(tmp_path / "folder"), "gguf"))

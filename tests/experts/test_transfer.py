"""Experts on other models: in order, resampled, shuffled, and always labelled."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from t2local.engine.shelf import Shelf
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore, read_expert, write_expert
from t2local.experts.expert import transfer_warning
from t2local.experts.store import check_fits
from t2local.experts.transfer import (
    SHUFFLED,
    as_expert_of,
    counterparts,
    renamed,
    resampled,
    shuffled,
    transfer,
)
from t2local.models.load.loader import describe
from t2local.svf import attach
from tests.conftest import SIZES, byte_tokenizer
from tests.experts.support import small_expert


@pytest.fixture
def expert(tiny_loaded):
    return small_expert(attach(tiny_loaded("llama").model))


@pytest.fixture
def twin(tiny_loaded):
    """A model of the same shapes with other weights."""
    loaded = replace(tiny_loaded("llama", seed=5), name="twin", slug="twin")
    return loaded, attach(loaded.model)


def larger(layers, hidden):
    sizes = {**SIZES, "num_hidden_layers": layers, "hidden_size": hidden}
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).eval()
    loaded = describe(model, byte_tokenizer(), "larger")
    return loaded, attach(loaded.model)


def test_in_order_keeps_every_number(expert, twin):
    moved = transfer(expert, *twin)
    assert moved.z.keys() == expert.z.keys()
    assert all(torch.equal(moved.z[name], row) for name, row in expert.z.items())


def test_a_transferred_expert_fits_and_says_what_it_is(expert, twin, tmp_path):
    loaded, svf = twin
    moved = transfer(expert, loaded, svf)
    write_expert(moved, tmp_path / "moved.safetensors")
    moved = read_expert(tmp_path / "moved.safetensors")
    warning = check_fits(moved, svf, loaded.name, loaded.quantization)
    assert warning == transfer_warning(moved)
    assert "trained on tiny-llama" in warning
    assert "not measured here" in warning
    assert moved.description.startswith("Transferred from tiny-llama (in-order).")
    assert moved.base_model == "twin"
    assert moved.held_out is None, "the accuracy there is not one here"
    assert moved.training["transferred"]["held_out_there"] == expert.training["held_out"]


def test_an_expert_trained_where_it_is_used_has_no_warning(expert):
    assert transfer_warning(expert) == ""


def test_more_layers_and_other_ranks_are_mapped_and_resampled(expert):
    loaded, svf = larger(layers=5, hidden=80)
    moved = transfer(expert, loaded, svf)
    assert {name: len(row) for name, row in moved.z.items()} == svf.ranks
    assert moved.training["transferred"]["resampled"] > 0
    assert "resampled" in transfer_warning(moved)
    with svf.using(moved.z), torch.no_grad():
        assert loaded.model(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


def test_layers_are_taken_at_the_same_relative_depth():
    def names(layers):
        return [f"model.layers.{i}.mlp.up_proj" for i in range(layers)]

    def depths(theirs, ours):
        found = counterparts(names(theirs), names(ours))
        return [int(found[name].split(".")[2]) for name in names(ours)]

    assert depths(4, 4) == [0, 1, 2, 3]
    assert depths(2, 4) == [0, 0, 1, 1]
    mapped = depths(5, 12)
    assert mapped == sorted(mapped)
    assert {mapped[0], mapped[-1]} == {0, 4}
    part = names(2)
    assert list(counterparts(part, names(4), same_depth=True)) == part


def test_other_module_paths_match_by_what_follows_the_layer():
    theirs, ours = ["model.layers.0.mlp.up_proj"], ["language_model.layers.0.mlp.up_proj"]
    assert counterparts(theirs, ours) == {ours[0]: theirs[0]}


def test_resampling_keeps_ends_range_and_straight_lines():
    row = torch.randn(64)
    for rank in (16, 64, 200):
        there = resampled(row, rank)
        assert there.shape == (rank,)
        torch.testing.assert_close(there[[0, -1]], row[[0, -1]], rtol=1e-4, atol=1e-4)
        assert there.min() >= row.min() - 1e-6
        assert there.max() <= row.max() + 1e-6
    line = torch.linspace(1, 2, 9)
    torch.testing.assert_close(resampled(line, 33), torch.linspace(1, 2, 33))
    assert torch.equal(resampled(row, 64), row)


def test_shuffled_has_the_same_numbers_in_another_order(expert, twin):
    z = shuffled(expert.z, seed=1)
    for name, row in expert.z.items():
        assert torch.equal(z[name].sort().values, row.sort().values)
        assert not torch.equal(z[name], row)
    assert all(torch.equal(shuffled(expert.z, 1)[name], row) for name, row in z.items())
    moved = transfer(expert, *twin, order=SHUFFLED, seed=1)
    assert "shuffled" in transfer_warning(moved)
    assert all(torch.equal(moved.z[name], row) for name, row in z.items())


def test_nothing_to_transfer_and_nothing_in_common_are_refused(expert, tiny_loaded):
    own = tiny_loaded("llama")
    svf = attach(own.model)
    with pytest.raises(T2LocalError, match="use it as it is"):
        transfer(expert, own, svf)
    other = tiny_loaded("gpt2")
    with pytest.raises(T2LocalError, match="same family"):
        transfer(expert, other, attach(other.model))
    with pytest.raises(T2LocalError, match="unknown"):
        transfer(expert, own, svf, order="backwards")


# --- A language model's experts on the vision-language model around it.


@pytest.fixture
def text(tiny_loaded):
    loaded = tiny_loaded("llama")
    return loaded, attach(loaded.model)


@pytest.fixture
def seeing(llava):
    return llava, attach(llava.model)


def test_only_the_language_model_is_adapted(text, seeing):
    assert renamed(text[1].matrix_names, seeing[1].matrix_names) == {
        name: name.replace("model.", "model.language_model.", 1) for name in text[1].matrix_names
    }
    assert len(seeing[1].matrix_names) == len(text[1].matrix_names) == 14


def test_on_the_same_weights_it_is_an_expert_like_any_other(text, seeing):
    expert = small_expert(text[1])
    moved = as_expert_of(expert, *seeing)
    assert check_fits(moved, seeing[1], seeing[0].name, "none") == ""
    assert moved.held_out == expert.held_out
    ids = torch.tensor([[5, 80, 81, 82]])
    with torch.no_grad(), text[1].using(expert.z):
        expected = text[0].model(input_ids=ids).logits
    with torch.no_grad(), seeing[1].using(moved.z):
        assert torch.equal(seeing[0].model(input_ids=ids).logits[..., :320], expected)


def test_it_goes_back_to_the_text_only_model(text, seeing):
    expert = small_expert(text[1])
    back = as_expert_of(as_expert_of(expert, *seeing), *text)
    assert back.basis_fingerprint == expert.basis_fingerprint
    assert all(torch.equal(back.z[name], row) for name, row in expert.z.items())


def test_on_a_language_model_trained_further_it_is_labelled(text, llava):
    with torch.no_grad():
        for layer in llava.model.model.language_model.layers:
            layer.mlp.up_proj.weight.mul_(1.01)
    svf = attach(llava.model)
    moved = as_expert_of(small_expert(text[1]), llava, svf)
    assert "is transferred: trained on tiny-llama" in check_fits(moved, svf, llava.name, "none")


def test_another_models_expert_without_a_common_matrix_is_refused(text, seeing):
    expert = small_expert(text[1], z={"transformer.h.0.attn.c_proj": torch.ones(64)})
    with pytest.raises(T2LocalError, match="names no matrix that tiny-llava has"):
        as_expert_of(expert, *seeing)


def test_the_shelf_holds_both_and_its_own_comes_first(text, seeing):
    store = ExpertStore("tiny-llama")
    store.save(small_expert(text[1]))
    store.save(small_expert(text[1], name="legs"))
    own = small_expert(seeing[1], base_model="tiny-llava", description="its own")
    ExpertStore("tiny-llava").save(own)
    shelf = Shelf.read(*seeing)
    assert set(shelf.usable) == {"counting", "legs"}
    assert shelf.usable["counting"].description == "its own"
    assert shelf.warnings == {}
    assert set(Shelf.read(*text).usable) == {"counting", "legs"}


def test_a_text_only_model_takes_nothing_over(text, seeing):
    ExpertStore("tiny-llava").save(small_expert(seeing[1], base_model="tiny-llava"))
    assert Shelf.read(*text).usable == {}


def test_quantised_weights_are_others(text, seeing):
    loaded = replace(seeing[0], quantization="nf4")
    expert = small_expert(text[1], basis_fingerprint="svf1-other")
    assert as_expert_of(expert, loaded, seeing[1]).training["transferred"]["matrices"] == 14

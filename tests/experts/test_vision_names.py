"""A language model's experts on the vision-language model around it."""

from dataclasses import replace

import pytest
import torch

from t2local.engine.shelf import Shelf
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore
from t2local.experts.store import check_fits
from t2local.experts.transfer import as_expert_of, renamed
from t2local.svf import attach
from tests.experts.support import small_expert


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

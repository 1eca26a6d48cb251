"""Experts on other models: in order, resampled, shuffled, and always labelled."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from t2local.errors import T2LocalError
from t2local.experts import read_expert, write_expert
from t2local.experts.expert import transfer_warning
from t2local.experts.store import check_fits
from t2local.experts.transfer import (
    SHUFFLED,
    counterparts,
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

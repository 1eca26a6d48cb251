"""Which layers are adapted, and what is said when there are none."""

import pytest
import torch
from torch import nn

from t2local.errors import T2LocalError
from t2local.svf.targets import depth_of, find_targets, is_attention, sharing_input


class Recurrent(nn.Module):
    """A language model without a linear layer in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList([nn.LSTM(4, 4), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)])
        self.head = nn.Linear(4, 10)


def test_an_unsupported_architecture_names_the_layer_types_found():
    with pytest.raises(T2LocalError) as error:
        find_targets(Recurrent())
    text = str(error.value)
    for found in ("Recurrent", "2 Conv2d", "1 LSTM", "1 Embedding", "choose a Llama-"):
        assert found in text
    assert "\n" not in text


def test_embeddings_and_the_output_head_are_never_adapted(tiny):
    assert not any("lm_head" in n or "embed" in n for n in find_targets(tiny("llama")))


def test_all_attention_and_mlp(tiny):
    model = tiny("llama")
    attention, mlp = find_targets(model, "attention"), find_targets(model, "mlp")
    assert {n.rpartition(".")[2] for n in attention} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {n.rpartition(".")[2] for n in mlp} == {"gate_proj", "up_proj", "down_proj"}
    assert len(find_targets(model)) == len(attention) + len(mlp) == 14


def test_a_pattern_is_searched_in_the_names(tiny):
    assert list(find_targets(tiny("llama"), r"layers\.1\..*(q|v)_proj$")) == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]


def test_a_pattern_that_matches_nothing_or_is_none_says_so(tiny):
    with pytest.raises(T2LocalError, match=r"'experts' matches none of the 14 .*q_proj.*use all"):
        find_targets(tiny("llama"), "experts")
    with pytest.raises(T2LocalError, match=r"'\(mlp' is not a regular expression"):
        find_targets(tiny("llama"), "(mlp")


@pytest.mark.parametrize(
    ("name", "depth", "attention"),
    [
        ("model.layers.12.self_attn.q_proj", 12, True),
        ("model.layers.3.mlp.up_proj", 3, False),
        ("transformer.h.0.attn.c_attn", 0, True),
        ("transformer.h.7.mlp.c_proj", 7, False),
        ("gpt_neox.layers.5.attention.query_key_value", 5, True),
        ("lm_head", None, False),
    ],
)
def test_what_a_name_says(name, depth, attention):
    assert depth_of(name) == depth
    assert is_attention(name) == attention


def test_finding_targets_changes_nothing(tiny):
    model, ids = tiny("gpt2"), torch.tensor([[3, 4]])
    before = model(ids).logits
    find_targets(model)
    assert torch.equal(model(ids).logits, before)


def test_of_a_vision_language_model_the_tower_is_left_alone(llava):
    found = find_targets(llava.model)
    assert len(found) == 14  # seven matrices in each of two layers
    assert all(name.startswith("model.language_model.layers.") for name in found)
    assert set(find_targets(llava.model, "mlp")) < set(found)


def test_layers_that_share_their_input_are_known_by_their_place():
    layers = ("model.layers.0", "model.layers.1")
    names = [f"{layer}.self_attn.{kind}_proj" for layer in layers for kind in "qkvo"]
    names += [f"{layer}.mlp.{kind}_proj" for layer in layers for kind in ("gate", "up", "down")]
    groups = {tuple(name.rpartition(".")[2] for name in group) for group in sharing_input(names)}
    assert groups == {("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")}
    assert len(sharing_input(names)) == 4
    assert sharing_input(["model.layers.0.mlp.up_proj", "model.layers.1.mlp.gate_proj"]) == []

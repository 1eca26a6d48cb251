"""Decoding from a GGUF's bits, measured on a tiny model: what the bench says is what is there."""

import copy

import torch

from t2local.bench import decoding as bench
from t2local.bench.table import random_z
from t2local.models.groups.linear import GroupedEmbedding, GroupedLinear
from tests.models.decode.test_compiled_steps import grouped

WORDS = [5, 80, 81, 82, 9, 40, 41]


def test_speeds_are_told_for_the_base_an_expert_and_moving_sliders():
    loaded, svf = grouped("llama")
    found = bench.compiled_decoding(loaded, svf, random_z(svf), WORDS, 3, 2, None)
    assert [row.variant for row in found.rows] == ["base", bench.STAYS, bench.SLIDERS]
    assert all(row.value > 0 for row in found.rows)
    assert set(found.ratios) == {"compiled_expert_over_base", "compiled_sliders_over_base"}


def test_answers_with_guesses_are_measured_beside_those_without():
    loaded, _ = grouped("llama")
    found = bench.guessed_decoding(loaded, {"repeats": WORDS * 3, "does not": WORDS}, 8, 2)
    assert [row.variant for row in found.rows] == [
        "an answer that repeats",
        "an answer that does not",
    ]
    assert set(found.ratios) == {"lookup_repeats", "lookup_does_not"}


def test_errors_are_those_of_the_rounded_bases_alone():
    """The weights are the same here as in what they are compared with."""
    loaded, svf = grouped("qwen2")
    exact = copy.deepcopy(loaded.model)
    for name, module in list(exact.named_modules()):
        if isinstance(module, GroupedLinear):
            new = torch.nn.Linear(module.in_features, module.out_features, module.bias is not None)
            new.load_state_dict({"weight": module.weight} | dict(module.named_parameters()))
        elif isinstance(module, GroupedEmbedding):
            new = torch.nn.Embedding.from_pretrained(module.weight)
        else:
            continue
        owner, _, leaf = name.rpartition(".")
        setattr(exact.get_submodule(owner), leaf, new)
    found = bench.compiled_errors(loaded, svf, random_z(svf, rms=0.1), WORDS, exact)
    error, change, lost = (row.value for row in found.rows)
    assert error < 1e-5
    assert 0 < lost < 0.05 < 1
    assert change > 0.001

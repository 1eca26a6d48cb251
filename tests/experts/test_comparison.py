"""Side by side: the cosine is that of z − 1, and does not depend on order or size."""

from dataclasses import replace

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.experts.comparison import compare, cosine

NAMES = [f"model.layers.{layer}.mlp.up_proj" for layer in (0, 1, 2)]
FORGOT = {"task": "math", "n": 100, "base": 0.42, "trained": 0.41, "ci95_difference": [-0.05, 0.03]}


def expert(name, change, **training):
    """z = 1 + a row of `change` [2] in each layer."""
    z = {
        n: 1 + torch.tensor(row, dtype=torch.float32) for n, row in zip(NAMES, change, strict=False)
    }
    return Expert(name, "m", "svf1-0", z, training=training)


ONE = expert("one", [(0.1, 0.0), (0.0, 0.2), (0.0, 0.0)], curve=[0.1, 0.2], forgetting=[FORGOT])
TWO = expert("two", [(0.2, 0.0), (0.0, -0.1), (0.3, 0.0)], steps=7, rows={"train": 20})


def test_cosines_by_layer_and_overall():
    pair = compare([ONE, TWO]).likeness[0]
    assert pair.by_layer[0] == pytest.approx(1)
    assert pair.by_layer[1] == pytest.approx(-1)
    assert pair.by_layer[2] is None, "one of them changes nothing there"
    assert pair.overall == pytest.approx((0.02 - 0.02) / (0.05 * 0.14) ** 0.5, abs=1e-6)


def test_a_cosine_is_symmetric_scale_free_and_1_with_itself():
    generator = torch.Generator().manual_seed(0)
    one, two = ({n: 1 + 0.1 * torch.randn(9, generator=generator) for n in NAMES} for _ in "ab")
    doubled = {n: 1 + 2 * (row - 1) for n, row in one.items()}
    mirrored = {n: 2 - row for n, row in one.items()}
    assert cosine(one, two) == pytest.approx(cosine(two, one))
    assert cosine(doubled, two) == pytest.approx(cosine(one, two), abs=1e-6)
    assert cosine(one, one) == pytest.approx(1)
    assert cosine(one, mirrored) == pytest.approx(-1)


def test_a_matrix_that_is_not_named_counts_as_no_change():
    part = expert("part", [(0.1, 0.0)])
    assert compare([ONE, part]).likeness[0].by_layer[1] is None
    assert cosine(ONE.z, part.z) == pytest.approx(0.1 * 0.1 / (0.05**0.5 * 0.1))


def test_facts_are_those_of_the_cards():
    one, two = compare([ONE, TWO]).experts
    assert one.curve == (0.1, 0.2)
    assert (one.forgetting[0].task, one.forgetting[0].trained) == ("math", 0.41)
    assert (two.steps, two.rows, two.numbers) == (7, 20, 6)
    assert one.rms == pytest.approx(((0.01 + 0.04) / 6) ** 0.5)


def test_every_pair_is_compared():
    three = replace(TWO, name="three")
    pairs = [(p.first, p.second) for p in compare([ONE, TWO, three]).likeness]
    assert pairs == [("one", "two"), ("one", "three"), ("two", "three")]


@pytest.mark.parametrize("others", [[], [ONE], [replace(TWO, base_model="other")]])
def test_what_cannot_be_compared_is_one_sentence(others):
    with pytest.raises(T2LocalError, match="; "):
        compare([ONE, *others])

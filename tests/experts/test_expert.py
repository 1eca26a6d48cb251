"""What an expert's card says, computed from its values."""

import pytest
import torch

from t2local.experts import Expert, HeldOut
from tests.experts.support import HELD_OUT


def expert(**fields) -> Expert:
    return Expert("e", "model", "svf1-0", fields.pop("z", {"a": torch.ones(4)}), **fields)


def test_size_and_distance_from_the_base():
    z = {"a": torch.tensor([1.3, 0.7]), "b": torch.tensor([1.0, 1.0])}
    assert expert(z=z).size == 4
    assert expert(z=z).rms == pytest.approx(0.3 / 2**0.5)
    assert expert().rms == 0.0


def test_a_measurement_survives_its_own_json():
    assert HeldOut.from_dict(HELD_OUT.as_dict()) == HELD_OUT
    assert expert(training={"held_out": HELD_OUT.as_dict()}).held_out == HELD_OUT


def test_an_expert_without_a_measurement_says_so():
    assert expert().held_out is None

"""Groups hold what gguf's own reader makes of the same bytes."""

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import dequantize

from t2local.models.groups.codes import READERS, ROUNDED, from_gguf, rounded
from tests.models.groups.blocks import SCALES_AT, random_blocks

ROWS, COLUMNS = 40, 512  # the last block of 16 rows is half empty
OF_TWO_NUMBERS = {Kind.Q4_K, Kind.Q5_K, Kind.Q6_K}  # their scales are products, rounded to 16 bits


def test_every_type_that_is_read_is_tried_here():
    assert set(READERS) == set(SCALES_AT)


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)
def test_groups_hold_what_the_file_means(kind):
    data = random_blocks(kind, ROWS, COLUMNS)
    groups, meant = from_gguf(data, kind), torch.from_numpy(dequantize(data, kind))
    error = (groups.dense() - meant).norm() / meant.norm()
    assert error < 4e-4 if kind in OF_TWO_NUMBERS else error == 0
    assert groups.dense().shape == (ROWS, COLUMNS)


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)
def test_a_part_is_a_part_of_the_whole(kind):
    groups = from_gguf(random_blocks(kind, ROWS, COLUMNS), kind)
    whole, index = groups.dense(), torch.tensor([[3, 39], [17, 0]])
    assert torch.equal(groups.dense(1, 2), whole[16:32])
    assert torch.equal(groups.dense(2, 9), whole[32:])
    assert torch.equal(groups.row(index), whole[index])


def test_four_bits_take_half_of_eight():
    four, eight = (
        from_gguf(random_blocks(kind, ROWS, COLUMNS), kind) for kind in (Kind.Q4_K, Kind.Q8_0)
    )
    assert (four.bits, eight.bits) == (4, 8)
    assert four.codes.nbytes * 2 == eight.codes.nbytes


def test_floats_are_rounded_by_half_a_step_at_most():
    weight = torch.randn(ROWS, 64)
    groups = rounded(weight)
    steps = weight.view(ROWS, 2, 32).abs().amax(dim=2, keepdim=True) / 127
    assert ((groups.dense() - weight).view(ROWS, 2, 32).abs() <= 0.51 * steps).all()
    assert rounded(torch.zeros(16, 32)).dense().abs().max() == 0


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_small_numbers_are_rounded_as_well_as_large_ones(size):
    weight = size * torch.randn(ROWS, 64)
    assert (rounded(weight).dense() - weight).norm() < 0.01 * weight.norm()


def test_many_rows_are_rounded_as_few_are():
    weight = torch.randn(2 * ROUNDED + 16, 32)
    assert torch.equal(rounded(weight).dense()[-48:], rounded(weight[-48:]).dense())

import pytest

from t2local.statistics import paired_difference, wilson


def test_wilson_against_published_values():
    """Newcombe (1998), table I: 81 of 263 and 0 of 20, score method."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-4)


def test_no_data_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_paired_difference_uses_the_pairing():
    base = [0.0, 1.0] * 50
    better = [1.0, 1.0] * 50
    mean, low, high = paired_difference(base, better)
    assert mean == 0.5
    assert 0.39 < low < 0.41
    assert 0.59 < high < 0.61


def test_equal_scores_still_leave_a_doubt():
    _, low, high = paired_difference([1.0] * 10, [1.0] * 10)
    assert low < 0 < high

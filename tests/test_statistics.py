import pytest

from t2local.statistics import fewest_proven, mcnemar, paired_difference, student95, wilson


def test_wilson_against_published_values():
    """Newcombe (1998), table I: 81 of 263 and 0 of 20, score method."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-4)


def test_no_data_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_fewest_changes_that_prove_a_gain():
    n = fewest_proven()
    assert mcnemar(n, 0) < 0.05 <= mcnemar(n - 1, 0)
    assert paired_difference(*pairs(n, 0, 10 - n))[1] > 0
    assert paired_difference(*pairs(n - 1, 0, 11 - n))[1] <= 0


def pairs(better: int, worse: int, same: int) -> tuple[list[float], list[float]]:
    """Base and other: `same` prompts are right for both."""
    base = [0.0] * better + [1.0] * worse + [1.0] * same
    return base, [1.0] * better + [0.0] * worse + [1.0] * same


def test_the_paired_difference_uses_the_pairing():
    mean, low, high = paired_difference(*pairs(50, 0, 50))
    assert mean == 0.5
    assert 0.38 < low < 0.40
    assert 0.58 < high < 0.60


def test_bonett_price_against_published_values():
    """R's statpsych, `ci.prop.ps(.05, 12, 4, 26, 6)`."""
    _, low, high = paired_difference(*pairs(26, 4, 18))
    assert (low, high) == pytest.approx((0.2548067, 0.6251933), abs=1e-6)


@pytest.mark.parametrize(
    ("better", "worse", "p"), [(4, 0, 0.125), (6, 0, 0.03125), (7, 1, 9 / 128)]
)
def test_mcnemar_is_the_binomial_tail_twice(better, worse, p):
    assert mcnemar(better, worse) == mcnemar(worse, better) == p
    assert mcnemar(better, better) == 1.0


@pytest.mark.parametrize("same", [0, 6, 100, 1000])
@pytest.mark.parametrize("worse", range(4))
@pytest.mark.parametrize("better", range(13))
def test_no_interval_proves_what_the_exact_test_does_not(better, worse, same):
    n = better + worse + same
    if not n:
        return
    mean, low, high = paired_difference(*pairs(better, worse, same))
    assert -1 <= low <= mean <= high <= 1
    if mcnemar(better, worse) >= 0.05:
        assert low <= 0 <= high


def test_right_and_wrong_as_rewards_are_the_same_changes_twice_as_far():
    base, other = pairs(9, 1, 10)
    accuracy = paired_difference(base, other)
    rewards = paired_difference([2 * x - 1 for x in base], [2 * x - 1 for x in other])
    assert rewards == pytest.approx([2 * x for x in accuracy])


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_equal_scores_still_leave_a_doubt(value):
    _, low, high = paired_difference([value] * 10, [value] * 10)
    assert low < 0 < high


def test_graded_rewards_of_few_rows_have_students_interval():
    """Differences 0.5, 0.1, 0.3: mean 0.3, deviation 0.2, and t of two degrees is 4.3027."""
    mean, low, high = paired_difference([0.0, 0.2, 0.4], [0.5, 0.3, 0.7])
    assert mean == pytest.approx(0.3)
    assert high - mean == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-4)
    assert mean - low == pytest.approx(high - mean)


def test_equal_graded_rewards_still_leave_a_doubt():
    rewards = [-1.0, 0.0, 0.5, 1.0, 1.0]
    _, low, high = paired_difference(rewards, rewards)
    assert low <= -0.4
    assert high >= 0.4
    _, low, high = paired_difference([0.0, 0.5], [0.5, 1.0])  # two rows prove nothing
    assert low <= 0 < high


def test_a_third_value_makes_no_proof_of_four_changed_rows():
    """One row failed (−1) before and after; t alone would call the other four's change proven."""
    base, other = pairs(4, 0, 5)
    mean, low, _ = paired_difference([*base, -1.0], [*other, -1.0])
    assert mean == 0.4
    assert low == 0


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262)])
def test_students_t_against_its_table(freedom, t):
    assert student95(freedom) == pytest.approx(t, rel=2e-3)

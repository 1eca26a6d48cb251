"""Scores from votes: intervals that hold the truth, and a rule that may be looked at every time."""

import itertools
import math
import random
from statistics import mean

import pytest

from t2local.evaluation.bradley_terry import (
    Tally,
    counted,
    evidence,
    is_clear,
    more_votes,
    ranked,
    score,
)
from t2local.statistics import wilson

PAIR = ("a", "b")


def voters(n, win, tie, seed):
    """Of `n` voters, each preferring the first with probability `win`."""
    chance, counts = random.Random(seed), [0, 0, 0]
    for _ in range(n):
        x = chance.random()
        counts[0 if x < win else 1 if x < win + tie else 2] += 1
    return Tally(*counts)


@pytest.mark.parametrize(
    ("n", "win", "tie", "least"),
    [(40, 0.65, 0.0, 0.93), (40, 0.55, 0.2, 0.93), (15, 0.8, 0.1, 0.93), (40, 0.15, 0.8, 0.90)],
)  # fmt: skip
def test_the_interval_holds_the_true_preference_in_500_simulations(n, win, tie, least):
    """40 voters with a true preference of 65 %, with and without ties, and harder ones."""
    true, held, wide = win + tie / 2, 0, []
    for seed in range(500):
        found = score({PAIR: voters(n, win, tie, seed)}, *PAIR)
        held += found.low <= true <= found.high
        wide.append(found.high - found.low)
    assert held / 500 >= least
    assert mean(wide) < 1.3 * 2 * 1.96 * math.sqrt(0.25 / n), "it says something too"


def test_the_interval_holds_it_where_votes_are_spread_over_four():
    strength = {"a": 0.8, "b": 0.4, "c": 0.0, "d": -0.5}
    true = 1 / (1 + math.exp(strength["d"] - strength["a"]))
    held = 0
    for seed in range(150):
        chance, votes = random.Random(seed), []
        for _ in range(120):
            first, second = chance.sample(sorted(strength), 2)
            wins = chance.random() < 1 / (1 + math.exp(strength[second] - strength[first]))
            votes.append((first, second, first if wins else second))
        found = score(counted(votes), "a", "d")
        held += found.low <= true <= found.high
    assert held / 150 >= 0.92


def test_without_ties_it_is_the_share_of_wins_and_nearly_wilsons_interval():
    found = score({PAIR: Tally(26, 0, 14)}, *PAIR)
    assert found.value == pytest.approx(0.65, abs=1e-6)
    assert (found.low, found.high) == pytest.approx(wilson(26, 40), abs=0.02)


@pytest.mark.parametrize("tally", [Tally(9, 4, 3), Tally(12, 1, 0), Tally(3, 20, 5)])
def test_a_pair_alone_and_one_that_hardly_meets_others_agree(tally):
    """The closed form against the climb, which a third contender asks for."""
    alone = score({PAIR: tally}, *PAIR)
    beside = score({PAIR: tally, ("b", "c"): Tally(1, 0, 1)}, *PAIR)
    assert (alone.value, alone.low, alone.high) == pytest.approx(
        (beside.value, beside.low, beside.high), abs=0.03
    )


def test_it_turns_over_with_the_sides():
    votes = {PAIR: Tally(9, 4, 3), ("b", "c"): Tally(5, 1, 6)}
    one, other = score(votes, "a", "b"), score(votes, "b", "a")
    assert one.value == pytest.approx(1 - other.value, abs=1e-6)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-4)


@pytest.mark.parametrize(
    ("tally", "value"),
    [(Tally(5, 0, 0), 1.0), (Tally(0, 0, 5), 0.0), (Tally(0, 10, 0), 0.5), (Tally(3, 97, 0), 0.515),
     (Tally(0, 1, 0), 0.5), (Tally(400, 0, 1), 400 / 401), (Tally(1, 0, 0), 1.0)],
)  # fmt: skip
def test_extremes_have_finite_intervals_around_the_estimate(tally, value):
    found = score({PAIR: tally}, *PAIR)
    assert found.value == pytest.approx(value, abs=1e-4)
    assert 0 <= found.low <= found.value + 1e-9 <= found.high + 2e-9 <= 1 + 2e-9
    assert found.high - found.low > 0.001


def test_many_ties_say_that_both_are_nearly_equal():
    few, many = (score({PAIR: Tally(3, ties, 1)}, *PAIR) for ties in (0, 60))
    assert many.high - many.low < 0.3 * (few.high - few.low)
    assert many.low < 0.5 < many.high


def test_what_no_vote_joins_has_no_score_and_chains_do():
    votes = {PAIR: Tally(6, 0, 2), ("b", "c"): Tally(6, 0, 2), ("x", "y"): Tally(3, 0, 1)}
    assert score(votes, "a", "x") is None
    assert score(votes, "a", "nobody") is None
    direct, chained = score(votes, "a", "b"), score(votes, "a", "c")
    assert chained.value == pytest.approx(0.9, abs=1e-4), "odds 3 · 3"
    assert chained.high - chained.low > 0
    assert chained.value > direct.value


def test_who_never_lost_comes_first_and_groups_stay_together():
    votes = {PAIR: Tally(4, 0, 0), ("b", "c"): Tally(3, 2, 1), ("x", "y"): Tally(1, 0, 0)}
    assert ranked(votes) == ["a", "b", "c", "x", "y"]
    assert ranked({}) == []


def test_votes_are_counted_from_either_side():
    found = counted([("b", "a", "a"), ("a", "b", "b"), ("b", "a", ""), ("a", "b", "a")])
    assert found == {PAIR: Tally(2, 1, 1)}


def test_evidence_is_one_on_average_for_an_even_pair():
    """Its mean over all outcomes of n even votes, exactly."""
    for n in (1, 2, 7, 30):
        outcomes = (math.comb(n, k) * evidence(Tally(k, 0, n - k)) for k in range(n + 1))
        assert sum(outcomes) / 2**n == pytest.approx(1.0)


def test_whoever_looks_after_every_vote_is_told_of_a_difference_in_one_even_pair_of_twenty():
    told, by_interval = 0, 0
    for seed in range(400):
        chance, tally, interval = random.Random(seed), Tally(), False
        for number in range(150):
            wins = chance.random() < 0.5
            tally += Tally(wins=1) if wins else Tally(losses=1)
            low, high = wilson(tally.wins, tally.n)
            interval |= number >= 5 and not low <= 0.5 <= high
            if is_clear(tally):
                told += 1
                break
        by_interval += interval
    assert told / 400 <= 0.05
    assert by_interval / 400 > 0.15, "an interval that is looked at every time is wrong more often"


def test_with_several_pairs_each_has_to_be_clearer():
    assert is_clear(Tally(11, 0, 1))
    assert not is_clear(Tally(11, 0, 1), pairs=10)
    assert more_votes(Tally(11, 0, 1), pairs=10) > 0
    told = 0
    for seed in range(300):
        chance, tallies = random.Random(seed), [Tally()] * 10
        clear = False
        for _ in range(40):
            tallies = [
                t + (Tally(wins=1) if chance.random() < 0.5 else Tally(losses=1)) for t in tallies
            ]
            clear |= any(is_clear(tally, pairs=10) for tally in tallies)
        told += clear
    assert told / 300 <= 0.05


def test_more_votes_fall_as_it_gets_clearer_and_reach_nought():
    left = [more_votes(Tally(4 * n, n, n)) for n in range(1, 9)]
    assert left[-1] == 0
    assert all(a >= b for a, b in itertools.pairwise(left))
    assert is_clear(Tally(32, 8, 8))


@pytest.mark.parametrize("tally", [Tally(), Tally(0, 9, 0), Tally(7, 0, 7), Tally(201, 0, 200)])
def test_of_what_never_gets_clear_no_number_is_told(tally):
    assert more_votes(tally) is None


def test_that_many_more_votes_do_make_it_clear():
    tally = Tally(12, 4, 6)
    more = more_votes(tally)
    share = (tally.wins + 1) / (tally.decided + 2)
    decided = more * (tally.decided + 1) / (tally.n + 1)
    wins = round(share * decided)
    assert is_clear(tally + Tally(wins + 1, 0, round(decided) - wins))

"""Simulated voters with a known preference: does the Arena's interval hold it, and what is clear?

No model is asked. The seeds are fixed, so the figures are the same wherever it runs.
"""

import random
import statistics

from t2local.bench.table import Measured, Row
from t2local.evaluation.bradley_terry import Tally, is_clear, score
from t2local.statistics import wilson

PAIR = ("first", "second")
NAME = "votes"
SIMULATIONS = 500
VOTERS = (  # how many, and how likely each prefers the first, and finds both equal
    (40, 0.65, 0.0), (40, 0.55, 0.2), (40, 0.45, 0.4), (40, 0.15, 0.8), (20, 0.9, 0.05),
    (10, 0.65, 0.0),
)  # fmt: skip
LOOKS, FIRST_LOOK, MOST_VOTES = 150, 6, 1_000
SHARES = (0.65, 0.8)  # of pairs that are looked at until they are clear


def counted(voters: int, first: float, tie: float, seed: int) -> Tally:
    """What so many of them said."""
    chance, counts = random.Random(seed), [0, 0, 0]
    for _ in range(voters):
        drawn = chance.random()
        counts[0 if drawn < first else 1 if drawn < first + tie else 2] += 1
    return Tally(*counts)


def held(voters: int, first: float, tie: float, simulations: int) -> tuple[float, float]:
    """In which share of simulations the 95 % interval held the truth, and its mean width."""
    true, found = first + tie / 2, []
    for seed in range(simulations):
        one = score({PAIR: counted(voters, first, tie, seed)}, *PAIR)
        assert one is not None, PAIR
        found.append((one.low <= true <= one.high, one.high - one.low))
    return (
        statistics.fmean(inside for inside, _ in found),
        statistics.fmean(width for _, width in found),
    )


def looked_at(first: float, looks: int, seed: int) -> tuple[int | None, bool]:
    """After how many votes a pair is called clear, None for never; whether Wilson's interval ever
    left one half. Somebody looks after each vote.
    """
    chance, tally, left = random.Random(seed), Tally(), False
    for number in range(1, looks + 1):
        tally += Tally(wins=1) if chance.random() < first else Tally(losses=1)
        low, high = wilson(tally.wins, tally.n)
        left |= number >= FIRST_LOOK and not low <= 0.5 <= high
        if is_clear(tally):
            return number, left
    return None, left


def simulated(simulations: int = SIMULATIONS) -> Measured:
    """All figures of votes."""
    rows, shares = [], []
    for voters, first, tie in VOTERS:
        share, width = held(voters, first, tie, simulations)
        shares.append(share)
        about = f"{voters} voters, {first:.0%} / {tie:.0%} / {1 - first - tie:.0%}"
        rows.append(Row(NAME, f"interval holds the truth, {about}", share, "of simulations"))
        rows.append(Row(NAME, f"its mean width, {about}", 100 * width, "points"))
    even = [looked_at(0.5, LOOKS, seed) for seed in range(4 * simulations)]
    told = statistics.fmean(number is not None for number, _ in even)
    left = statistics.fmean(was for _, was in even)
    rows.append(Row(NAME, f"an even pair called clear, {LOOKS} looks", told, "of simulations"))
    rows.append(Row(NAME, "Wilson's interval left one half meanwhile", left, "of simulations"))
    for first in SHARES:
        numbers = [looked_at(first, MOST_VOTES, seed)[0] for seed in range(simulations)]
        middle = statistics.median(number or MOST_VOTES for number in numbers)
        rows.append(Row(NAME, f"votes until clear, median, {first:.0%}", middle, "votes"))
    return Measured(rows, {"votes_interval_holds": shares[0], "votes_even_pair_clear": told})

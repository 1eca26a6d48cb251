"""What simulated voters say of the Arena's intervals."""

from t2local.bench import votes
from t2local.bench.table import RATIO_BARS


def test_all_figures_come_and_reach_their_bars():
    found = votes.simulated(500)
    assert found.ratios.keys() == {name for name in RATIO_BARS if name.startswith("votes_")}
    assert all(RATIO_BARS[name].reached(value) for name, value in found.ratios.items())
    assert found == votes.simulated(500), "the same wherever it runs"
    values = {row.variant: row.value for row in found.rows}
    middles = [value for name, value in values.items() if name.startswith("votes until clear")]
    assert middles == sorted(middles, reverse=True), "a clearer preference takes fewer votes"


def test_voters_prefer_as_they_are_told():
    tally = votes.counted(5000, 0.5, 0.3, 1)
    assert abs(tally.wins / 5000 - 0.5) < 0.03
    assert abs(tally.ties / 5000 - 0.3) < 0.03
    assert tally.n == 5000

from t2local.bench.suite import sampled
from t2local.bench.table import Measured, Row, joined


def test_samples_of_matrices_meet_every_kind():
    names = tuple(f"{layer}.{kind}" for layer in range(30) for kind in "qkvogud")
    chosen = sampled(names, 20)
    assert 15 <= len(chosen) <= 20
    assert {name[-1] for name in chosen} == set("qkvogud")
    assert sampled(names, 1000) == names


def test_parts_are_joined_in_their_order():
    rows = [Row("decode", str(number), 1.0, "tokens/s") for number in range(3)]
    parts = [Measured(rows[:2], {"b": 2.0}), Measured([], {}), Measured(rows[2:], {"a": 1.0})]
    found = joined(parts)
    assert found.rows == rows
    assert list(found.ratios.items()) == [("b", 2.0), ("a", 1.0)]

"""Times and ratios: taken in turn, and between things that compute the same."""

import pytest
import torch

from t2local.bench import speed
from t2local.bench.table import interleaved, ratio
from t2local.errors import T2LocalError
from t2local.svf import attach
from tests.svf.support import logits, random_z

IDS = torch.tensor([[5, 80, 81, 82], [7, 9, 120, 121]])


def test_actions_run_in_turn_and_warming_up_is_not_counted():
    calls = []
    actions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = interleaved(actions, rounds=3, warm_up=1)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}
    assert all(taken >= 0 for taken in seconds["a"])


def test_a_ratio_is_taken_round_by_round():
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0
    assert ratio([1.0, 1.0, 100.0], [2.0, 2.0, 2.0]) == 0.5


def test_a_twin_stays_untouched_and_shares_every_weight(tiny):
    model = tiny("llama")
    twin = speed.twin(model)
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)
    base = logits(model)
    with attach(model).using({}):
        assert torch.equal(logits(twin), base)
    assert not any("SVFLinear" in type(module).__name__ for module in twin.modules())


def test_the_decomposition_is_measured_twice_and_stays_attached(tiny):
    model = tiny("llama")
    measured, svf = speed.decomposition(model, "auto")
    assert [row.variant for row in measured.rows] == ["fresh", "cached"]
    base = logits(model)
    with svf.using(random_z(svf)):
        assert not torch.equal(logits(model), base)
    assert logits(svf.detach()).shape == base.shape


@pytest.mark.parametrize("rebuild", [True, False])
def test_rows_and_ratios_are_positive_and_named(tiny_loaded, rebuild):
    loaded = tiny_loaded("llama")
    untouched = speed.twin(loaded.model)
    svf = attach(loaded.model)
    parts = [
        speed.change_of_z(svf, 2, rebuild),
        speed.rows_of_z(svf, IDS, 2),
        speed.decoding(loaded, untouched, svf, [5, 80, 81], 3, rebuild),
    ]
    assert all(row.value > 0 for part in parts for row in part.rows)
    ratios = {name for part in parts for name in part.ratios}
    expected = {
        "throughput_z_per_row_over_shared",
        "decode_mlp_over_base",
        "decode_all_over_base",
    }
    if rebuild:
        expected |= {"rebuild_over_change_of_z", "decode_rebuilt_over_base"}
    assert ratios == expected


def test_the_start_of_a_program_is_measured_beside_a_bare_interpreter(monkeypatch):
    measured = speed.program_start(1)
    assert {row.variant for row in measured.rows} == {speed.BARE, "run to its end", "one test"}
    assert all(row.value > 0 for row in measured.rows)
    assert measured.ratios["program_over_bare"] > 1
    monkeypatch.setattr(speed, "check_allowed", refuse)
    with pytest.raises(T2LocalError):
        speed.program_start(1)


def refuse():
    raise T2LocalError("No program is run here.")


def test_a_table_is_read_by_us_and_by_pandas():
    found = speed.reading(1, 40)
    assert {row.variant for row in found.rows} == {"rows", "examples", "pandas"}
    assert all(row.value > 0 for row in found.rows)
    assert set(found.ratios) == {f"read_{kind}_over_pandas" for kind in ("jsonl", "csv", "xlsx")}

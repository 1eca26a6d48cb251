from t2local.bench.speed import search_generation
from t2local.svf import attach


def test_every_way_is_measured_for_both_tasks(tiny_loaded):
    loaded = tiny_loaded("llama")
    measured = search_generation(loaded, attach(loaded.model), rounds=1, population=5)
    assert len(measured.rows) == 6
    assert all(row.value > 0 for row in measured.rows)
    assert set(measured.ratios) == {
        f"search_{task}_batched_over_{way}"
        for task in ("one_token", "32_tokens")
        for way in ("one_by_one", "rebuilding")
    }

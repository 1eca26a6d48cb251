"""TRL's step, on a tiny checkpoint where TRL is installed; else one sentence says why not."""

import pytest

from t2local.bench import training_step
from t2local.bench.training_step import peer_problem, peer_step_cost


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(training_step, "find_spec", lambda name: None)
    assert peer_problem("none") == ("trl is missing; pip install -r requirements-dev.txt")


def test_only_float_models_have_a_peer(monkeypatch):
    monkeypatch.setattr(training_step, "find_spec", lambda name: name)
    assert peer_problem("none") is None
    assert peer_problem("gguf") is None
    assert "nf4" in peer_problem("nf4")


def test_a_step_of_exactly_full_completions_is_timed(tiny_loaded, tmp_path):
    pytest.importorskip("trl")
    loaded = tiny_loaded("llama")
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    cost = peer_step_cost(str(tmp_path), 4, 90, rows_per_forward=2, steps=1)
    assert cost.wall_s > 0  # the peer itself asserts the lengths
    assert cost.peak_memory_bytes > 0

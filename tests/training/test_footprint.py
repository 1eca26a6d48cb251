from dataclasses import replace

from t2local.training import footprint
from t2local.training.config import TrainConfig
from t2local.training.footprint import activation_bytes, longest_row, wants_checkpointing

CONFIG = TrainConfig()


def test_activations_grow_with_the_tokens(loaded):
    assert activation_bytes(loaded, 200) == 2 * activation_bytes(loaded, 100) > 0


def test_a_row_counts_its_prompt_and_all_its_choices_or_a_whole_completion(loaded, colours, texts):
    assert longest_row(loaded, colours, CONFIG) > len("blueredgreen")
    longer = replace(CONFIG, max_new_tokens=CONFIG.max_new_tokens + 50)
    assert longest_row(loaded, texts, longer) == longest_row(loaded, texts, CONFIG) + 50


def test_blocks_are_computed_twice_when_asked_or_when_memory_is_short(loaded, colours, monkeypatch):
    assert not wants_checkpointing(loaded, colours, CONFIG)
    assert wants_checkpointing(loaded, colours, replace(CONFIG, gradient_checkpointing=True))
    monkeypatch.setattr(footprint, "free_bytes", lambda device: 1000)
    assert wants_checkpointing(loaded, colours, CONFIG)

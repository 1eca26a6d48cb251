import json
import subprocess
import sys
from dataclasses import replace

import pytest

from t2local.training import step_memory
from t2local.training.config import TrainConfig
from t2local.training.step_memory import (
    activation_bytes,
    forward_shape,
    longest_row,
    wants_checkpointing,
)

CONFIG = TrainConfig()


def test_activations_grow_with_the_tokens(loaded):
    assert activation_bytes(loaded, 4, 100) == 2 * activation_bytes(loaded, 2, 100) > 0
    assert activation_bytes(loaded, 2, 200) > activation_bytes(loaded, 4, 100), "a larger mask"


def test_a_row_counts_its_prompt_and_all_its_choices_or_a_whole_completion(loaded, colours, texts):
    assert longest_row(loaded, colours, CONFIG) > len("blueredgreen")
    longer = replace(CONFIG, max_new_tokens=CONFIG.max_new_tokens + 50)
    assert longest_row(loaded, texts, longer) == longest_row(loaded, texts, CONFIG) + 50


def test_samples_of_a_prompt_share_its_row(loaded, texts):
    config = replace(CONFIG, samples_per_prompt=8, rows_per_forward=4, max_new_tokens=10)
    prompt = longest_row(loaded, texts, config) - 10
    assert forward_shape(loaded, texts, config) == (1, prompt + 4 * 10)
    assert forward_shape(loaded, texts, replace(config, rows_per_forward=16))[0] == 2
    copied = replace(config, objective="next-token")
    assert forward_shape(loaded, texts, copied) == (4, prompt + 10)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own peak")
@pytest.mark.parametrize(("kind", "words", "rows"), [("choice", 60, 64), ("text", 12, 64)])
def test_the_estimate_is_near_the_measured_peak(kind, words, rows):
    command = [sys.executable, "-m", "tests.training.peak_of_a_step", kind, str(words), str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    measured, estimated = json.loads(done.stdout)
    assert abs(estimated / measured - 1) < 0.25, (measured, estimated)


def test_blocks_are_computed_twice_when_asked_or_when_memory_is_short(loaded, colours, monkeypatch):
    assert not wants_checkpointing(loaded, colours, CONFIG)
    assert wants_checkpointing(loaded, colours, replace(CONFIG, gradient_checkpointing=True))
    monkeypatch.setattr(step_memory, "free_bytes", lambda device: 1000)
    assert wants_checkpointing(loaded, colours, CONFIG)

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.progress import drain
from t2local.training import step_memory
from t2local.training.choice_policies import ChoicePolicy
from t2local.training.config import TrainConfig
from t2local.training.loop import train
from t2local.training.reports import Notice
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
    assert -0.25 < estimated / measured - 1 < 0.4, (measured, estimated)  # an upper estimate


def test_blocks_are_computed_twice_when_asked_or_when_memory_is_short(loaded, colours, monkeypatch):
    assert not wants_checkpointing(loaded, colours, CONFIG)
    assert wants_checkpointing(loaded, colours, replace(CONFIG, gradient_checkpointing=True))
    monkeypatch.setattr(step_memory, "free_bytes", lambda device: 1000)
    assert wants_checkpointing(loaded, colours, CONFIG)


THREE_STEPS = TrainConfig(steps=3, prompts_per_step=4, learning_rate=2e-2, validate_every=3)


@pytest.fixture
def short_of_memory(monkeypatch):
    """Forwards of more than `rows` rows run out of memory, in the way that PyTorch says it."""

    def limit(rows, error):
        losses = ChoicePolicy.losses

        def guarded(self, rollout, advantages, work):
            if self.config.rows_per_forward > rows:
                raise error
            return losses(self, rollout, advantages, work)

        monkeypatch.setattr(ChoicePolicy, "losses", guarded)

    return limit


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 80 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python"])
def test_a_slice_that_does_not_fit_is_halved_and_the_run_goes_on(
    loaded, svf, colours, short_of_memory, error
):
    short_of_memory(1, error)
    events = []
    work = train(loaded, svf, colours, colours[:6], "choice", THREE_STEPS)
    outcome = drain(work, events.append)
    notices = [e.text for e in events if isinstance(e, Notice)]
    assert [n.split(": ")[1] for n in notices] == [
        "from now on 2 rows a forward instead of 4.",
        "from now on 1 rows a forward instead of 2.",
    ]
    assert outcome.steps == THREE_STEPS.steps


def test_a_single_row_that_does_not_fit_ends_the_run_in_a_sentence(
    loaded, svf, colours, short_of_memory
):
    short_of_memory(0, ERRORS[0])
    with pytest.raises(T2LocalError, match="Memory ran out at step 1 with a single row"):
        drain(train(loaded, svf, colours, colours[:6], "choice", THREE_STEPS))


def test_other_errors_are_not_taken_for_it(loaded, svf, colours, short_of_memory):
    short_of_memory(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        drain(train(loaded, svf, colours, colours[:6], "choice", THREE_STEPS))

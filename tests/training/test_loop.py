from dataclasses import replace

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.progress import CancelToken, drain
from t2local.tasks.rewards import REWARDS
from t2local.training.config import TrainConfig
from t2local.training.loop import train
from t2local.training.reports import Checkpoint, DryRun, StepReport, Validation

QUICK = TrainConfig(steps=6, prompts_per_step=4, learning_rate=2e-2, validate_every=3)


def run(loaded, svf, examples, config=QUICK, cancel=None):
    events = []
    outcome = drain(
        train(loaded, svf, examples, examples[:6], "choice", config, cancel), events.append
    )
    return events, outcome


def test_reward_rises_and_the_best_checkpoint_is_kept(loaded, svf, colours):
    events, outcome = run(loaded, svf, colours)
    assert isinstance(events[0], DryRun)
    assert sum(isinstance(e, StepReport) for e in events) == QUICK.steps
    assert outcome.curve[-1] > outcome.curve[0]
    best = max(
        (e for e in events if isinstance(e, Validation)), key=lambda e: (e.accuracy, e.reward)
    )
    assert outcome.best_step == best.step


def test_a_seeded_run_repeats_exactly(loaded, svf, colours):
    _, first = run(loaded, svf, colours)
    _, second = run(loaded, svf, colours)
    assert first.curve == second.curve
    assert torch.equal(first.flat, second.flat)


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_run_that_goes_on_from_a_checkpoint_ends_bit_for_bit_like_one_that_was_not_cut(
    loaded, svf, colours, cut
):
    config = replace(QUICK, checkpoint_every=1)
    events, whole = run(loaded, svf, colours, config)
    states = [e.state for e in events if isinstance(e, Checkpoint)]
    rest = train(loaded, svf, colours, colours[:6], "choice", config, state=states[cut - 1])
    resumed = drain(rest)
    assert torch.equal(resumed.flat, whole.flat)
    assert resumed.curve == whole.curve
    assert resumed.validations == whole.validations


def test_nothing_to_learn_from_is_refused_before_the_first_step(loaded, svf, colours):
    hopeless = [
        type(e)(e.prompt, e.answer, {"choices": ["blue", "green"], "label": None}) for e in colours
    ]
    work = train(loaded, svf, hopeless, hopeless, "exact", QUICK)
    with pytest.raises(T2LocalError, match="Nothing to learn from"):
        drain(work)


def test_a_cancelled_run_ends_after_its_step_with_a_checkpoint(loaded, svf, colours):
    cancel = CancelToken()
    cancel.cancel()
    _, outcome = run(loaded, svf, colours, cancel=cancel)
    assert outcome.steps == 1
    assert outcome.stopped == "cancelled"
    assert outcome.flat.numel() == sum(svf.ranks.values())


def test_patience_stops_early(loaded, svf, colours):
    config = TrainConfig(
        steps=40, prompts_per_step=4, learning_rate=1e-9, validate_every=1, patience=2
    )
    _, outcome = run(loaded, svf, colours, config)
    assert outcome.steps == 2  # the base model, step 0, stays the best
    assert outcome.best_step == 0
    assert "no gain" in outcome.stopped


def test_the_model_is_untouched_afterwards(loaded, svf, colours):
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        before = loaded.model(ids).logits
        with torch.enable_grad():
            run(loaded, svf, colours)
        assert torch.equal(loaded.model(ids).logits, before)
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_checkpointing_saves_memory_and_changes_no_rollout(loaded, svf, texts, monkeypatch):
    """Blocks that are computed twice keep no KV cache, without which a token sees only itself."""
    letters = lambda prompts, said, **_: [sum(map(ord, text)) % 7 / 7 for text in said]  # noqa: E731
    monkeypatch.setitem(REWARDS, "letters", letters)
    plain = TrainConfig(steps=1, prompts_per_step=4, samples_per_prompt=4, max_new_tokens=8)
    curves = []
    for config in (plain, replace(plain, gradient_checkpointing=True)):
        outcome = drain(train(loaded, svf, texts, texts[:2], "letters", config))
        curves.append(outcome.curve)
    assert curves[0] == curves[1]

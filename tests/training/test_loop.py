import json
from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.progress import CancelToken, drain
from t2local.tasks.rewards import REWARDS
from t2local.training.config import TrainConfig
from t2local.training.loop import MIDDLING, WAIT, _with_rates, pass_rate, prompt_order, train
from t2local.training.reports import (
    Checkpoint,
    DryRun,
    Notice,
    StepReport,
    TrainState,
    Validation,
    curves,
)
from t2local.training.text_policies import TextPolicy

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


# --- Which prompts a step takes.


def drawn_in(config, rates, steps, samples=True):
    """The batches of a run in which prompt i passes at `rates[i]`."""
    state, batches = TrainState.start(torch.ones(1), 1), []
    for step in range(steps):
        state = replace(state, step=step)
        batch, others = prompt_order(rates, config, state, samples)
        assert sorted([*batch, *others]) == list(range(len(rates)))
        batches.append(batch)
        state = _with_rates(state, [(i, rates[i]) for i in batch], len(rates))
    return batches


@pytest.mark.parametrize("order", ["by-pass-rate", "in-turn"])
def test_all_prompts_come_once_before_any_comes_twice(order):
    config = TrainConfig(prompts_per_step=4, prompt_order=order)
    batches = drawn_in(config, [0.5, 0.0, 1.0] * 8, 6)
    assert sorted(i for batch in batches for i in batch) == list(range(24))
    assert batches == drawn_in(config, [0.5, 0.0, 1.0] * 8, 6)
    assert batches != drawn_in(replace(config, seed=1), [0.5, 0.0, 1.0] * 8, 6)


def test_prompts_of_middling_pass_rates_come_more_often_and_none_waits_for_ever():
    rates = [0.0, MIDDLING[0], 0.5, MIDDLING[1], 0.95, 1.0] * 2
    batches = drawn_in(TrainConfig(prompts_per_step=3), rates, 120)
    count = Counter(i for batch in batches for i in batch)
    middling = [count[i] for i, r in enumerate(rates) if MIDDLING[0] <= r <= MIDDLING[1]]
    others = [count[i] for i in range(len(rates)) if rates[i] in (0.0, 0.95, 1.0)]
    assert max(middling) - min(middling) <= 1
    assert max(others) - min(others) <= 1
    assert sum(middling) / sum(others) == pytest.approx(WAIT, rel=0.1)


def test_a_prompt_whose_rate_becomes_middling_comes_as_often_as_the_others():
    state = replace(TrainState.start(torch.ones(1), 1), draws=(2, 2, 4), passed=(0.0, 1.0, 2.0))
    batch, others = prompt_order([0, 1, 2], TrainConfig(prompts_per_step=2), state, samples=True)
    assert (set(batch), others) == ({1, 2}, [0])
    batch, _ = prompt_order(
        [0, 1, 2], TrainConfig(prompts_per_step=2), replace(state, passed=(0.5, 1.0, 2.0)), True
    )
    assert set(batch) == {0, 1}


def test_what_is_not_sampled_comes_in_turn():
    rates = [0.0, 0.5, 1.0] * 4
    config = TrainConfig(prompts_per_step=4)
    found = drawn_in(config, rates, 9, samples=False)
    assert found == drawn_in(replace(config, prompt_order="in-turn"), rates, 9)
    assert set(Counter(i for batch in found for i in batch).values()) == {3}


def test_the_pass_rate_is_the_share_of_right_answers_and_counts_partial_credit():
    assert pass_rate([1, -1, -1, 1]) == 0.5
    assert pass_rate([0.5, 0.5]) == 0.75
    assert pass_rate([None, 1, -3, 7]) == pytest.approx((0.5 + 1 + 0 + 1) / 4)


MUTE = TrainConfig(
    steps=4, prompts_per_step=4, samples_per_prompt=4, max_new_tokens=4, learning_rate=1e-2,
    validate_every=4, checkpoint_every=1,
)  # fmt: skip


@pytest.fixture
def mute(monkeypatch):
    """A reward of which only every other prompt's answers earn different amounts."""

    def reward(prompts, completions, **columns):
        pairs = zip(prompts, completions, strict=True)
        return [sum(map(ord, said)) % 7 / 7 if int(p[-2]) % 2 else -1.0 for p, said in pairs]

    monkeypatch.setitem(REWARDS, "mute", reward)


def text_run(loaded, svf, texts, config, state=None):
    events = []
    work = train(loaded, svf, texts, texts[:2], "mute", config, state=state)
    outcome = drain(work, events.append)
    return [e.batch for e in events if isinstance(e, StepReport)], events, outcome


def test_prompts_whose_answers_all_earn_the_same_are_replaced_by_others(
    loaded, svf, texts, mute, monkeypatch
):
    asked, rollout = [], TextPolicy.rollout
    monkeypatch.setattr(
        TextPolicy,
        "rollout",
        lambda self, rows, seed, work: asked.append(rows) or rollout(self, rows, seed, work),
    )
    again, events, _ = text_run(loaded, svf, texts, MUTE)
    n_again = sum(map(len, asked[1:])) - MUTE.steps * MUTE.prompts_per_step
    assert sum(batch.drawn_again for batch in again) == n_again > 0
    assert all(batch.drawn_again <= MUTE.prompts_per_step for batch in again)
    plain, _, _ = text_run(loaded, svf, texts, replace(MUTE, redraws=0.0))
    assert all(batch.drawn_again == 0 for batch in plain)
    assert again[0].reward_mean == plain[0].reward_mean  # of the prompts that were drawn first
    assert again[0].equal_groups < plain[0].equal_groups
    assert again[0].tokens > plain[0].tokens
    steps = [{"event": "StepReport", **asdict(e)} for e in events if isinstance(e, StepReport)]
    shown = curves(json.loads(json.dumps(steps)))
    assert shown.drawn_again == [batch.drawn_again for batch in again]


@pytest.mark.parametrize("cut", [1, 3])
def test_prompts_drawn_again_and_pass_rates_go_on_from_a_checkpoint(loaded, svf, texts, mute, cut):
    batches, events, whole = text_run(loaded, svf, texts, MUTE)
    states = [e.state for e in events if isinstance(e, Checkpoint)]
    assert sum(states[-1].draws) == 16 + sum(batch.drawn_again for batch in batches)
    rest, _, resumed = text_run(loaded, svf, texts, MUTE, states[cut - 1])
    assert torch.equal(resumed.flat, whole.flat)
    assert [b.drawn_again for b in rest] == [b.drawn_again for b in batches[cut:]]
    assert [b.reward_mean for b in rest] == [b.reward_mean for b in batches[cut:]]


def test_a_sampler_far_from_the_model_is_warned_of_once(loaded, svf, texts, mute, monkeypatch):
    from t2local.training import loop

    def off(loaded, config, hold):
        sample = exact(loaded, config, hold)

        def noisy(*asked):
            said, log_mu = sample(*asked)
            return said, [[value - 0.3 for value in row] for row in log_mu]

        return noisy

    exact = loop.sampler_for
    assert not [e for e in text_run(loaded, svf, texts, MUTE)[1] if isinstance(e, Notice)]
    monkeypatch.setattr(loop, "sampler_for", off)
    batches, events, _ = text_run(loaded, svf, texts, MUTE)
    assert all(batch.sampler_gap == pytest.approx(0.3, abs=1e-3) for batch in batches)
    (notice,) = [e for e in events if isinstance(e, Notice)]
    assert "0.30 nats a token" in notice.text

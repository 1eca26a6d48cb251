from dataclasses import replace

import pytest
import torch

from t2local.adapt.answering import prompt_ids, score_choices
from t2local.models.decode.scoring import log_probabilities, pack_choices, predictor_states
from t2local.progress import drain
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import Example
from t2local.training.config import NEXT_TOKEN, TrainConfig
from t2local.training.loop import train
from t2local.training.policies import (
    ChoicePolicy,
    NextTokenPolicy,
    TextPolicy,
    policy_for,
    sampled_kl,
)
from t2local.training.reports import DryRun, StepReport
from t2local.training.step_memory import gradient_checkpointing
from tests.training.conftest import accumulate


def ones(svf):
    return {n: row.requires_grad_() for n, row in svf.identity().items()}


def letters(prompts, completions, **columns):
    """Share of a's in the first ten characters: differs between almost any two samples."""
    return [sum(ord(c) % 2 for c in text[:10]) / 5 - 1 for text in completions]


@pytest.fixture
def parity(monkeypatch):
    monkeypatch.setitem(REWARDS, "parity", letters)
    return "parity"


def test_the_kind_of_action_follows_from_the_examples(loaded, svf, colours, texts):
    config = TrainConfig()
    assert isinstance(policy_for(loaded, svf, colours, "choice", config), ChoicePolicy)
    assert isinstance(policy_for(loaded, svf, texts, "exact", config), TextPolicy)


def test_choice_gradient_is_that_of_the_exact_expected_reward(loaded, svf, colours, work_on):
    z = ones(svf)
    policy = ChoicePolicy(loaded, svf, "choice", TrainConfig(rows_per_forward=3))
    accumulate(policy, colours, work_on(z, 1))
    name = "model.layers.0.mlp.up_proj"
    found = z[name].grad.clone()

    fresh = ones(svf)
    with svf.using(fresh):
        scores = score_choices(loaded, colours)
    reward = torch.tensor([-1.0, 1.0, -1.0])
    value = torch.stack([(row.softmax(0) * reward).sum() for row in scores]).mean()
    (expected,) = torch.autograd.grad(-value, fresh[name])
    assert torch.allclose(found, expected, atol=1e-6)


def test_slices_accumulate_to_the_whole_batch(loaded, svf, texts, parity, work_on):
    gradients = []
    for rows in (3, 16):
        z = ones(svf)
        config = TrainConfig(rows_per_forward=rows, samples_per_prompt=4, max_new_tokens=8)
        accumulate(TextPolicy(loaded, svf, parity, config), texts[:4], work_on(z, 1))
        gradients.append(torch.cat([row.grad for row in z.values()]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_checkpointed_gradients_are_the_same_and_the_model_is_left_as_it_was(
    loaded, svf, colours, work_on
):
    gradients = []
    for enabled in (False, True):
        z = ones(svf)
        with gradient_checkpointing(loaded.model, enabled):
            policy = ChoicePolicy(loaded, svf, "choice", TrainConfig())
            accumulate(policy, colours, work_on(z, 1))
        gradients.append(torch.cat([row.grad for row in z.values()]))
    assert torch.allclose(*gradients, atol=1e-6)
    assert gradients[0].any()
    assert not any(module.training for module in loaded.model.modules())


def test_leave_one_out_advantages_sum_to_zero_in_every_group(loaded, svf):
    policy = TextPolicy(loaded, svf, "exact", TrainConfig(samples_per_prompt=4))
    advantages = policy.advantages([[1, -1, -1, -1], [1, 1, 1, 1], [None, 1, -1, 0]])
    assert torch.allclose(advantages.sum(1), torch.zeros(3), atol=1e-6)
    assert advantages[0].tolist() == pytest.approx([2.0, -2 / 3, -2 / 3, -2 / 3])
    assert not advantages[1].any()  # equal rewards teach nothing
    assert advantages[2, 0] == 0  # a row that cannot be scored


def test_without_a_baseline_the_advantage_is_the_reward(loaded, svf):
    config = TrainConfig(samples_per_prompt=1, baseline="none")
    policy = TextPolicy(loaded, svf, "exact", config)
    assert policy.advantages([[1.0], [-1.0]]).tolist() == [[1], [-1]]


@pytest.mark.parametrize("estimator", ["sampled", "full"])
def test_kl_is_zero_at_the_base_and_positive_away_from_it(
    loaded, svf, texts, parity, estimator, work_on
):
    config = TrainConfig(
        samples_per_prompt=4, max_new_tokens=8, kl_estimator=estimator, kl_coefficient=0.1
    )
    policy = TextPolicy(loaded, svf, parity, config)
    at_base = accumulate(policy, texts[:2], work_on(ones(svf)))
    moved = {n: (row + 0.2).requires_grad_() for n, row in svf.identity().items()}
    away = accumulate(policy, texts[:2], work_on(moved, 1))
    assert at_base.kl_policy_from_base == pytest.approx(0, abs=1e-6)
    assert away.kl_policy_from_base > 1e-4


def test_the_sampled_kls_gradient_is_that_of_kl_from_policy_to_base():
    """Its expectation over a small vocabulary, enumerated: k3 alone would give the other KL's."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, generator=generator).log_softmax(0)
    logits = torch.randn(6, generator=generator).requires_grad_()
    log_policy = logits.log_softmax(0)
    exact = (log_policy.exp() * (log_policy - base)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    estimate = (log_policy.exp().detach() * sampled_kl(log_policy, base)).sum()
    (found,) = torch.autograd.grad(estimate, logits)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(estimate, exact, atol=1e-6)


def test_a_step_against_the_gradient_raises_expected_reward(loaded, svf, colours, work_on):
    policy, z = ChoicePolicy(loaded, svf, "choice", TrainConfig()), ones(svf)
    before = accumulate(policy, colours, work_on(z, 1)).reward_mean
    moved = {n: (row - 0.05 * row.grad.sign()).detach().requires_grad_() for n, row in z.items()}
    assert accumulate(policy, colours, work_on(moved, 2)).reward_mean > before


def test_a_kl_that_is_only_reported_is_measured_on_one_slice(loaded, svf, colours, work_on):
    passes = []
    config = TrainConfig(rows_per_forward=3)
    policy = ChoicePolicy(loaded, svf, "choice", config)
    measure = policy._base_log_policy
    policy._base_log_policy = lambda part, work: passes.append(part) or measure(part, work)
    for step in range(4):
        accumulate(policy, colours, work_on(ones(svf), step))
    assert [part[0].prompt for part in passes] == [colours[i].prompt for i in (0, 3, 6, 9)]


IMITATE = TrainConfig(
    objective=NEXT_TOKEN, steps=6, prompts_per_step=4, learning_rate=2e-2, validate_every=6
)


def test_the_gradient_is_that_of_the_mean_log_likelihood(loaded, svf, work_on):
    rows = [Example("say", "red"), Example("tell me", "a longer answer")]
    z = ones(svf)
    policy = NextTokenPolicy(loaded, svf, replace(IMITATE, rows_per_forward=1))
    accumulate(policy, rows, work_on(z))
    name = "model.layers.1.self_attn.q_proj"
    fresh, total, tokens = ones(svf), 0.0, 0
    for row in rows:
        ((answer,),) = policy.rollout([row], 0, work_on(z)).token_ids
        packed = pack_choices([prompt_ids(loaded, row)], [[answer]], pad_id=0)
        with svf.using(fresh):
            states, targets, _ = predictor_states(loaded.model, packed)
        log_probs = log_probabilities(loaded.model, states, targets)
        total, tokens = total - log_probs.sum(), tokens + len(log_probs)
    (expected,) = torch.autograd.grad(total / tokens, fresh[name])
    assert torch.allclose(z[name].grad, expected, atol=1e-6)


def test_imitation_runs_through_the_same_loop_without_a_dry_run(loaded, svf, colours):
    events = []
    outcome = drain(train(loaded, svf, colours, colours[:4], "choice", IMITATE), events.append)
    assert not any(isinstance(e, DryRun) for e in events)
    assert sum(isinstance(e, StepReport) for e in events) == IMITATE.steps
    assert outcome.curve[-1] > outcome.curve[0]  # the likelihood of the right answer rises


def test_a_sample_that_only_thought_in_the_tag_of_its_template_is_no_answer(loaded, svf, work_on):
    before = loaded.tokenizer.chat_template
    opened = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}<think>\n"
    policy = TextPolicy(loaded, svf, "regex", TrainConfig(max_new_tokens=3))
    try:
        loaded.tokenizer.chat_template = opened
        rollout = policy.rollout([Example("Say a!", ".*")], 0, work_on({}))
    finally:
        loaded.tokenizer.chat_template = before
    assert all(text.startswith("<think>") for text in rollout.texts[0])
    assert set(policy.rewards(rollout, work_on({}))[0]) == {-1.0}

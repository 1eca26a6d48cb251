from dataclasses import replace
from itertools import product

import pytest
import torch

from t2local.adapt.answering import prompt_ids, score_choices
from t2local.adapt.applier import holding
from t2local.models.decode.scoring import log_probabilities, pack_choices, predictor_states
from t2local.models.groups.linear import rounds, rounds_in_pairs, rounds_quickly
from t2local.progress import drain
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rows import Example
from t2local.training.choice_policies import ChoicePolicy
from t2local.training.config import (
    EXACT,
    NEXT_TOKEN,
    QUICK,
    TrainConfig,
    gradient_holding,
    sampler_for,
)
from t2local.training.loop import train
from t2local.training.policies import policy_for
from t2local.training.reports import DryRun, StepReport
from t2local.training.step_memory import StepWork, gradient_checkpointing
from t2local.training.text_policies import NextTokenPolicy, TextPolicy, answer_kl, sampled_kl
from tests.models.decode.test_compiled_steps import grouped
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
    assert not policy.advantages([[0.1] * 4, [0.7] * 4, [None, 0.1, 0.3, 0.7]])[:, 0].any()


def thirds(prompts, completions, **columns):
    """One prompt's answers earn the same, the others' differ and hold zeros."""
    return [0.0 if "0" in p else [1, -1, 0][i % 3] for i, p in enumerate(prompts)]


@pytest.mark.parametrize("rows", [2, 5])
def test_answers_of_advantage_zero_cost_no_forward_and_change_no_gradient(
    loaded, svf, texts, work_on, monkeypatch, rows
):
    monkeypatch.setitem(REWARDS, "thirds", thirds)
    config = TrainConfig(
        samples_per_prompt=3, max_new_tokens=6, rows_per_forward=rows, rollouts=EXACT
    )
    policy, z = TextPolicy(loaded, svf, "thirds", config), ones(svf)
    statistics = accumulate(policy, texts[:3], work_on(z))
    found = torch.cat([row.grad for row in z.values()])

    fresh, read = ones(svf), []
    rollout = policy.rollout(texts[:3], 0, work_on(fresh))
    advantages = policy.advantages(policy.rewards(rollout, work_on(fresh)))
    packed, _ = policy._packed(rollout, range(9), 3)
    with svf.using(fresh):
        states, targets, slots = predictor_states(loaded.model, packed)
    log_probs = log_probabilities(loaded.model, states, targets)
    (-(advantages.flatten()[slots] * log_probs).sum() / 9).backward()
    assert torch.allclose(found, torch.cat([row.grad for row in fresh.values()]), atol=1e-6)
    assert found.any()

    pack = policy._packed
    policy._packed = lambda rollout, places, size: (
        read.extend(places) or pack(rollout, places, size)
    )
    list(policy.losses(rollout, advantages, work_on(ones(svf))))
    assert read == advantages.flatten().nonzero()[:, 0].tolist()
    assert 0 < len(read) < 9
    assert statistics.tokens == sum(len(ids) for group in rollout.token_ids for ids in group)
    assert statistics.reward_mean == 0.0


def test_a_step_that_teaches_nothing_still_reports(loaded, svf, texts, work_on):
    config = TrainConfig(samples_per_prompt=4, max_new_tokens=6)
    policy, z = TextPolicy(loaded, svf, "contains", config), ones(svf)
    statistics = accumulate(policy, [replace(e, answer="zzzz") for e in texts[:2]], work_on(z))
    assert statistics.equal_groups == 1.0
    assert statistics.entropy > 0
    assert all(row.grad is None for row in z.values())


def test_quick_rollouts_of_an_exact_sampler_give_the_exact_gradient(
    loaded, svf, texts, parity, work_on
):
    found = {}
    for rollouts in (QUICK, EXACT):
        z = ones(svf)
        config = TrainConfig(samples_per_prompt=4, max_new_tokens=8, rollouts=rollouts)
        statistics = accumulate(TextPolicy(loaded, svf, parity, config), texts[:3], work_on(z))
        found[rollouts] = torch.cat([row.grad for row in z.values()]), statistics.sampler_gap
    assert torch.allclose(found[QUICK][0], found[EXACT][0], atol=1e-6)
    assert 0 < found[QUICK][1] < 1e-4
    assert found[EXACT][1] == 0.0


@pytest.mark.skipif(not rounds_in_pairs(), reason="this processor has no AVX-512 BF16")
def test_answers_and_gradient_in_bfloat16_are_near_those_of_the_model_itself(texts, parity):
    """Folded weights say how likely they were to draw; the gradient is off by a few percent."""
    loaded, svf = grouped("qwen2")
    config = TrainConfig(samples_per_prompt=4, max_new_tokens=8)
    policy = TextPolicy(loaded, svf, parity, config)
    found, rollout = {}, None
    for rollouts in (QUICK, EXACT):
        z = {n: row.mul_(1.1).requires_grad_() for n, row in svf.identity().items()}
        own, hold = replace(config, rollouts=rollouts), holding(loaded, svf, z)
        work = StepWork(1, gradient_holding(loaded, own, hold))
        work = replace(work, sample=sampler_for(loaded, own, hold))
        if rollout is None:
            assert not loaded.steps.deltas  # the sampler puts its z in force by itself
            rollout = policy.rollout(texts[:2], 0, work)
        advantages = policy.advantages(policy.rewards(rollout, work))
        terms = []
        for loss, part in policy.losses(rollout, advantages, work):
            work.backward(loss)
            terms.append(part)
        gap = sum(part.gap for part in terms) / sum(part.tokens for part in terms)
        found[rollouts] = torch.cat([row.grad for row in z.values()]), gap
    one, other = found[QUICK][0], found[EXACT][0]
    assert 1e-5 < float((one - other).norm() / other.norm()) < 0.05
    assert all(1e-5 < gap < 0.05 for _, gap in found.values())


@pytest.mark.skipif(not rounds_quickly(), reason="this processor multiplies no bfloat16")
def test_the_heads_products_round_as_those_of_the_layers(texts, parity, monkeypatch):
    loaded, svf = grouped("qwen2")
    policy = TextPolicy(loaded, svf, parity, TrainConfig(samples_per_prompt=4, max_new_tokens=8))
    hold = holding(loaded, svf, ones(svf))
    work, seen = StepWork(1, gradient_holding(loaded, policy.config, hold)), []

    def looking(*arguments):
        seen.append((torch.is_grad_enabled(), rounds()))
        return log_probabilities(*arguments)

    monkeypatch.setattr("t2local.training.text_policies.log_probabilities", looking)
    rollout = policy.rollout(texts[:2], 0, work)
    for loss, _ in policy.losses(rollout, policy.advantages(policy.rewards(rollout, work)), work):
        work.backward(loss)
    assert (True, True) in seen
    assert (True, False) not in seen


def test_answers_of_another_sampler_are_weighted_by_their_own_tokens(
    loaded, svf, texts, parity, work_on
):
    """A sampler that draws from another z and says so: π / μ a token, 2 at most."""
    config = TrainConfig(samples_per_prompt=4, max_new_tokens=8)
    generator = torch.Generator().manual_seed(0)
    other = {n: row + 0.5 * torch.randn(row.shape, generator=generator) for n, row in
             svf.identity().items()}  # fmt: skip
    z, policy = ones(svf), TextPolicy(loaded, svf, parity, config)
    sampler = sampler_for(loaded, config, lambda: svf.using(other))
    work = replace(work_on(z), sample=sampler)
    statistics = accumulate(policy, texts[:2], work)
    found = torch.cat([row.grad for row in z.values()])

    fresh = ones(svf)
    rollout = policy.rollout(texts[:2], 0, work)
    advantages = policy.advantages(policy.rewards(rollout, work))
    packed, _ = policy._packed(rollout, range(8), 4)
    with svf.using(fresh):
        states, targets, slots = predictor_states(loaded.model, packed)
    log_probs = log_probabilities(loaded.model, states, targets)
    with torch.no_grad(), svf.using(other):
        log_mu = log_probabilities(loaded.model, predictor_states(loaded.model, packed)[0], targets)
    ratio = (log_probs.detach() - log_mu).exp()
    (-(advantages.flatten()[slots] * ratio.clamp(max=2.0) * log_probs).sum() / 8).backward()
    assert (ratio > 2).any()
    assert torch.allclose(found, torch.cat([row.grad for row in fresh.values()]), atol=1e-5)
    assert statistics.sampler_gap > 0.05


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


def test_a_sampled_kl_is_unbiased_and_never_negative():
    """Its expectation over a small vocabulary, enumerated."""
    generator = torch.Generator().manual_seed(0)
    base, own = torch.randn(2, 6, generator=generator).log_softmax(1)
    found = sampled_kl(own, base)
    assert (found >= 0).all()
    assert (own.exp() * found).sum() == pytest.approx(float((own.exp() * (own - base)).sum()))


# Two tokens of two kinds: `logits` [3, 2] of the first token, and of the second after each first.
SAID = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])


def log_probs_of(logits):
    """log π `[4, 2]` of both tokens of all that can be said."""
    first, second = logits[0].log_softmax(0), logits[1:].log_softmax(1)
    return torch.stack([first[SAID[:, 0]], second[SAID[:, 0], SAID[:, 1]]], dim=1)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_the_kl_in_the_reward_has_the_gradient_of_kl_over_whole_answers(loaded, svf, samples):
    """All groups of samples enumerated; k2 at each token misses what a token leads to."""
    generator = torch.Generator().manual_seed(3)
    base = log_probs_of(torch.randn(3, 2, generator=generator))
    logits = torch.randn(3, 2, generator=generator).requires_grad_()
    own = log_probs_of(logits)
    total, chance = own.sum(1), own.detach().sum(1).exp()
    exact = (total.exp() * (own - base).sum(1)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)

    baseline = "leave-one-out" if samples > 1 else "none"
    config = TrainConfig(samples_per_prompt=samples, baseline=baseline)
    policy = TextPolicy(loaded, svf, "exact", config)
    estimate = torch.zeros_like(logits)
    for group in map(list, product(range(4), repeat=samples)):
        flat = own.detach()[group].flatten(), base[group].flatten()
        kl = answer_kl(*flat, torch.arange(samples).repeat_interleave(2), samples)
        (advantages,) = policy.advantages([[0.0] * samples], kl[None])
        loss = -(advantages * total[group]).sum() / samples
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        estimate += chance[group].prod() * gradient
    assert torch.allclose(estimate, expected, atol=1e-6)

    k2 = (chance[:, None] * (own - base).square() / 2).sum()
    (found,) = torch.autograd.grad(k2, logits)
    assert not torch.allclose(found, expected, atol=1e-2)


def test_a_kl_coefficient_keeps_the_policy_near_the_base(loaded, svf, texts, work_on):
    """Where all rewards are equal only the KL is left: its gradient leads back."""
    texts = [replace(example, answer="zzzz") for example in texts[:4]]
    config = TrainConfig(
        samples_per_prompt=48, max_new_tokens=8, kl_coefficient=1.0, rows_per_forward=64
    )
    generator = torch.Generator().manual_seed(0)
    z = {n: row + 0.3 * torch.randn(row.shape, generator=generator) for n, row in ones(svf).items()}
    z = {n: row.detach().requires_grad_() for n, row in z.items()}
    policy = TextPolicy(loaded, svf, "contains", config)
    before = accumulate(policy, texts, work_on(z)).kl_policy_from_base
    size = torch.cat([row.grad for row in z.values()]).norm()
    nearer = {n: (row - row.grad / size).detach().requires_grad_() for n, row in z.items()}
    assert accumulate(policy, texts, work_on(nearer)).kl_policy_from_base < before


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

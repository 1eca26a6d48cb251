from dataclasses import replace

import torch

from t2local.adapt.answering import prompt_ids
from t2local.models.decode.scoring import log_probabilities, pack_choices, predictor_states
from t2local.progress import drain
from t2local.tasks.rows import Example
from t2local.training.config import NEXT_TOKEN, TrainConfig
from t2local.training.loop import train
from t2local.training.policies import NextTokenPolicy
from t2local.training.reports import DryRun, StepReport
from tests.training.conftest import accumulate

CONFIG = TrainConfig(
    objective=NEXT_TOKEN, steps=6, prompts_per_step=4, learning_rate=2e-2, validate_every=6
)


def ones(svf):
    return {n: row.requires_grad_() for n, row in svf.identity().items()}


def test_the_gradient_is_that_of_the_mean_log_likelihood(loaded, svf, work_on):
    rows = [Example("say", "red"), Example("tell me", "a longer answer")]
    z = ones(svf)
    policy = NextTokenPolicy(loaded, svf, replace(CONFIG, rows_per_forward=1))
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
    outcome = drain(train(loaded, svf, colours, colours[:4], "choice", CONFIG), events.append)
    assert not any(isinstance(e, DryRun) for e in events)
    assert sum(isinstance(e, StepReport) for e in events) == CONFIG.steps
    assert outcome.curve[-1] > outcome.curve[0]  # the likelihood of the right answer rises

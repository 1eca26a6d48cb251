"""A two-layer random model with SVF attached, and tiny tasks for both kinds of action."""

import json

import pytest

from t2local.adapt.applier import holding
from t2local.svf import attach
from t2local.tasks.rows import Example
from t2local.training.step_memory import StepWork


@pytest.fixture
def loaded(tiny_loaded):
    return tiny_loaded("llama")


@pytest.fixture
def svf(loaded):
    return attach(loaded.model)


@pytest.fixture
def colours():
    """A choice task: always answer "red"."""
    return [
        Example(
            f"Which colour, number {i}?", "red", {"choices": ["blue", "red", "green"], "label": 1}
        )
        for i in range(12)
    ]


@pytest.fixture
def texts():
    """A free-text task for the reward `length` and the like."""
    return [Example(f"Say something, {i}.", "a") for i in range(8)]


@pytest.fixture
def work_on(loaded, svf):
    """`work_on(z, step)`: what a policy is given for a step under `z`."""

    def make(z, step=1):
        return StepWork(step, holding(loaded, svf, z))

    return make


def accumulate(policy, examples, work, seed=0):
    """The gradient of one step, as the loop leaves it; its statistics."""
    rollout = policy.rollout(examples, seed, work)
    rewards, terms = policy.rewards(rollout, work), []
    advantages = policy.advantages(rewards, policy.penalties(rollout, work))
    for loss, part in policy.losses(rollout, advantages, work):
        work.backward(loss)
        terms.append(part)
    return policy.statistics(rollout, rewards, terms, work)


@pytest.fixture
def no_other_tasks(monkeypatch):
    """A run measures no forgetting: where a test is about something else, and short."""
    monkeypatch.setattr("t2local.training.runner.other_tasks", lambda *_: ())


@pytest.fixture
def data(colours, tmp_path):
    """The colours as a file; its path."""
    path = tmp_path / "colours.jsonl"
    rows = [{"prompt": e.prompt, "answer": e.answer, **e.columns} for e in colours]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)

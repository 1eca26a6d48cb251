"""A run killed with -9 at any moment goes on and ends like one that was not."""

import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from t2local.progress import drain
from t2local.svf import attach
from t2local.training.config import TrainConfig
from t2local.training.runner import running
from t2local.training.runs import Plan, Run

KILLS = 20
CONFIG = TrainConfig(
    steps=24, prompts_per_step=4, learning_rate=2e-2, validate_every=3, checkpoint_every=2
)
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks"),
    pytest.mark.usefixtures("no_other_tasks"),
]


def finish(run, loaded, svf):
    return drain(running(run, loaded, svf, lambda expert: None))


@pytest.mark.timeout(240)
def test_twenty_kills_at_random_moments_change_nothing(tiny_loaded, data):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a child of `fork` must not wait for its parent's threads
    try:
        loaded = tiny_loaded("llama")
        svf = attach(loaded.model)
        plan = Plan("red", data, "choice", CONFIG)
        started = time.monotonic()
        whole = finish(Run.create(plan), loaded, svf)
        lasts_s, moments = time.monotonic() - started, random.Random(0)
        fork, at_steps = multiprocessing.get_context("fork"), set()
        for _ in range(KILLS):
            run = Run.create(plan)
            child = fork.Process(target=finish, args=(run, loaded, svf))
            child.start()
            time.sleep(moments.uniform(0.05, 1.0) * lasts_s)
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            state = run.state()  # readable, whatever the moment
            at_steps.add(state.step if state else 0)
            resumed = finish(run, loaded, svf)
            assert torch.equal(resumed.outcome.flat, whole.outcome.flat)
            assert resumed.outcome.validations == whole.outcome.validations
            steps = [m["step"] for m in run.metrics() if m["event"] == "StepReport"]
            assert steps == list(range(1, CONFIG.steps + 1))
    finally:
        torch.set_num_threads(threads)
    assert len(at_steps) > 2, at_steps  # the moments did differ

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.experts.expert import HeldOut
from t2local.progress import drain
from t2local.training.config import TrainConfig
from t2local.training.loop import train
from t2local.training.reports import Checkpoint, Gain, StepReport, curves
from t2local.training.runs import Plan, Run

CONFIG = TrainConfig(
    steps=4, prompts_per_step=4, learning_rate=2e-2, validate_every=2, checkpoint_every=1
)
PLAN = Plan("red", "red.jsonl", "choice", CONFIG)


@pytest.fixture
def run():
    return Run.create(PLAN)


def recorded(run, loaded, svf, colours, state=None, until=None):
    """Train and write every event down; `until`: die right after that many steps."""
    work = train(loaded, svf, colours, colours[:4], "choice", CONFIG, state=state)
    steps = 0
    for event in work:
        run.record(event)
        steps += isinstance(event, StepReport)
        if until is not None and steps > until:
            work.close()
            return None
    return run.state()


def test_a_plan_survives_its_file(run):
    assert run.plan() == PLAN
    assert Run.open(run.name).plan() == PLAN
    assert Run.open("last").name == run.name


def test_two_runs_of_one_name_in_one_second_do_not_meet(run):
    assert Run.create(PLAN).folder != run.folder


def test_a_state_survives_its_file(run, loaded, svf, colours):
    events = []
    drain(train(loaded, svf, colours, colours[:4], "choice", CONFIG), events.append)
    state = next(e.state for e in reversed(events) if isinstance(e, Checkpoint))
    run.record(Checkpoint(state))
    again = run.state()
    if sys.platform == "linux":  # Windows replaces no file that is mapped into memory
        assert str(run.folder) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert torch.equal(again.flat, state.flat)
    assert torch.equal(again.exp_avg_sq, state.exp_avg_sq)
    assert replace(again, flat=0, exp_avg=0, exp_avg_sq=0, best_flat=0) == replace(
        state, flat=0, exp_avg=0, exp_avg_sq=0, best_flat=0
    )


def test_a_killed_run_goes_on_and_ends_like_an_uninterrupted_one(loaded, svf, colours):
    whole, cut = Run.create(PLAN), Run.create(PLAN)
    expected = recorded(whole, loaded, svf, colours)
    recorded(cut, loaded, svf, colours, until=2)
    state = cut.state()
    assert state.step == 2
    # It was stopped there, measured, and killed while it measured what it forgot.
    cut.record(Gain(2, HeldOut(4, 0.0, 1.0, (0.2, 1.0))))
    assert curves(cut.metrics()).held_out
    cut.rewind(state)
    assert curves(cut.metrics()).held_out is None
    found = recorded(cut, loaded, svf, colours, state)
    assert torch.equal(found.flat, expected.flat)
    assert torch.equal(found.best_flat, expected.best_flat)
    steps = [m["step"] for m in cut.metrics() if m["event"] == "StepReport"]
    assert steps == [1, 2, 3, 4]


def test_a_half_written_line_is_passed_over(run):
    (run.folder / "metrics.jsonl").write_text('{"event": "Validation", "step": 1}\n{"eve')
    assert [m["step"] for m in run.metrics()] == [1]


def test_a_damaged_checkpoint_is_one_sentence(run):
    (run.folder / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(T2LocalError, match="checkpoint of run"):
        run.state()


def test_an_unknown_run_is_named_with_the_newest(run):
    with pytest.raises(T2LocalError, match=run.name):
        Run.open("nothing")


@pytest.mark.parametrize("name", ["", "  ", "a/b", "../up", "two words", "base", "other", "manual"])
def test_names_that_make_no_file_are_refused(name):
    with pytest.raises(T2LocalError, match=r"expert's name|already means"):
        Plan(name, "x.jsonl", "exact")

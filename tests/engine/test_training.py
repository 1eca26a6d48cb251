import json
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from t2local.engine.engine import Engine
from t2local.errors import T2LocalError
from t2local.experts.expert import HeldOut
from t2local.progress import FAILED, FINISHED, INTERRUPTED
from t2local.tasks.rows import Example
from t2local.training.config import TrainConfig
from t2local.training.forecast import in_words, lasting, run_seconds
from t2local.training.reports import Gain
from t2local.training.runs import Plan, Run

QUICK = TrainConfig(
    steps=3, prompts_per_step=4, samples_per_prompt=2, max_new_tokens=4, validate_every=2
)
OWN = "the steps below"


@pytest.fixture
def data(tmp_path):
    rows = [
        {"prompt": f"colour {i}?", "answer": "red", "choices": ["blue", "red"], "label": 1}
        for i in range(24)
    ]
    return written(tmp_path / "red.jsonl", rows)


def written(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def finished(engine, name):
    deadline = time.monotonic() + 60
    while engine.training.report(name).live:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return engine.training.report(name)


def test_a_run_is_reported_until_its_expert_is_there(engine, data):
    name = engine.training.start("red", data, "choice", OWN, QUICK)
    assert engine.training.current() == name
    report = finished(engine, name)
    assert report.status.stage == FINISHED, report.status
    assert len(report.curves.steps) == 3
    assert report.held_out["n"] == 6
    assert engine.training.runs() == [("red", name)]
    assert "red" in [e.name for e in engine.experts()]


def test_a_restarted_desk_finds_the_run_that_was_cut_off(engine, data, model_folder):
    run = Run.create(Plan("red", data, "choice", QUICK, model=str(model_folder)))
    again = Engine(str(model_folder)).load()
    assert again.training.current() == run.name
    report = again.training.report(run.name)
    assert report.status.stage == INTERRUPTED
    assert not report.live
    assert report.held_out is None
    run.record(
        Gain(3, HeldOut(6, 0.5, 1.0, (0.0, 0.8)))
    )  # cut off while it measured what it forgot
    assert again.training.report(run.name).held_out["trained"] == 1.0


def test_a_taken_or_impossible_name_is_refused_before_anything_runs(engine, data):
    for name, words in (("math", "already"), ("a/b", "cannot be"), ("", "cannot be")):
        with pytest.raises(T2LocalError, match=words):
            engine.training.start(name, data, "choice", OWN, QUICK)
    assert engine.training.runs() == []
    assert engine.training.current() is None


def test_a_try_out_shows_what_the_base_model_earns_and_changes_nothing(engine, data):
    before = engine.training.dry_run_report(data, "choice", QUICK)
    assert {sample.reward for sample in before.samples} <= {1.0, -1.0}
    assert before.problem == ""
    assert before.step_s > 0
    assert (before.train, before.validation, before.held_out) == (15, 3, 6)
    assert engine.training.dry_run_report(data, "choice", QUICK) is before, "remembered"


def test_what_cannot_teach_is_refused_with_the_reason(engine, tmp_path):
    never = {"answer": "^$", "choices": ["^$", "grey"]}  # a pattern that matches no choice
    same = [{"prompt": f"p {i}?", **never} for i in range(24)]
    source = written(tmp_path / "hopeless.jsonl", same)
    assert "Nothing to learn" in engine.training.dry_run_report(source, "regex", QUICK).problem
    with pytest.raises(T2LocalError, match="Nothing to learn"):
        engine.training.start("red", source, "regex", OWN, QUICK)
    texts = [{"prompt": f"p {i}?", "answer": "zebra"} for i in range(24)]
    source = written(tmp_path / "texts.jsonl", texts)
    assert "nothing to learn" in engine.training.dry_run_report(source, "exact", QUICK).problem
    assert "needs a column" in engine.training.dry_run_report(source, "code", QUICK).problem


def test_a_prompt_is_shown_as_the_model_reads_it(engine):
    assert "<|im_start|>user\nhello<|im_end|>" in engine.training.as_read(Example("hello", ""))


def test_a_damaged_run_is_left_out_of_the_list(engine, data):
    run = Run.create(Plan("red", data, "choice", QUICK))
    (run.folder / "run.json").write_text("{", encoding="utf-8")
    assert engine.training.runs() == []
    with pytest.raises(T2LocalError, match="cannot be read"):
        engine.training.report(run.name)


def test_a_failed_run_says_why(engine, data, tmp_path):
    gone, model = str(tmp_path / "gone.csv"), engine.training.loading["model"]
    run = Run.create(Plan("red", gone, "choice", QUICK, model=model))
    engine.jobs.resume(run.name)
    report = finished(engine, run.name)
    assert report.status.stage == FAILED
    assert "neither a file" in report.status.message


def test_a_length_is_turned_into_steps_that_fit(engine, data):
    measured = engine.training.dry_run_report(data, "choice", QUICK)
    assert min(measured.step_s, measured.answer_s) > 0
    tried = replace(measured, step_s=0.5, answer_s=0.05, before_s=1.0, others_s=0.0, print_s=0.0)
    minute = lasting("a minute", tried, QUICK)
    assert minute.steps >= 4
    assert run_seconds(tried, minute) < 75
    assert engine.training.is_tried(data, "choice", replace(QUICK, steps=7)), "steps aside"
    assert not engine.training.is_tried(data, "choice", replace(QUICK, seed=7))
    assert lasting(OWN, tried, QUICK) == QUICK


def test_times_are_said_in_words():
    told = {3.2: "about 3 seconds", 47: "about 50 seconds", 240: "about 4 minutes"}
    assert {s: in_words(s) for s in told} == told
    assert in_words(9000) == "about 2.5 hours"


def test_a_try_out_is_announced_before_it_takes_the_model_and_outlives_its_memory(
    engine, data, monkeypatch
):
    """Another model cannot come in between; what it empties when it comes is not missed."""
    desk, taken, model = engine.training, [], engine.training.model

    def announced():
        with pytest.raises(T2LocalError, match="dry run"), engine.uses.nobody():
            pass
        taken.append(True)
        return model()

    @contextmanager
    def emptied(what):
        with of(what):
            yield
        desk._tried.clear()

    of = engine.uses.of
    monkeypatch.setattr(engine.uses, "of", emptied)
    monkeypatch.setattr(desk, "model", announced)
    assert desk.dry_run_report(data, "choice", QUICK).problem == ""
    assert taken == [True]

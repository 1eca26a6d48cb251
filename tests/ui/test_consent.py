"""A yes to programs that nothing contains: offered where it is needed, and nowhere else."""

import gradio as gr
import pytest

from t2local.evaluation.benchmark_tasks import BENCHMARKS, RUN_PROGRAMS
from t2local.tasks import sandbox
from t2local.tasks.sandbox import process
from t2local.ui import forms, launch
from t2local.ui.evaluate.events import _may_run_programs
from t2local.ui.train.events import _run_programs


@pytest.fixture(autouse=True)
def _asked_anew():
    sandbox.allow_unsafe_code(False)
    yield
    sandbox.allow_unsafe_code(False)


@pytest.fixture
def without_walls(monkeypatch):
    found = process.Protection(process.UNSAFE, "limits only.")
    monkeypatch.setattr(forms, "protection", lambda: found)
    monkeypatch.setattr(process, "protection", lambda: found)


@pytest.fixture
def bound():
    """The box, and what happens when a choice changes and when the box is ticked."""
    with gr.Blocks() as page:
        chosen, box = gr.Dropdown(["code", "exact"]), forms.create_consent("test")
        forms.bind_consent(box, [chosen], _run_programs)
    asked, ticked = (function.fn for function in page.fns.values())
    return box, asked, ticked


def test_the_box_appears_with_the_risk_where_programs_would_run_uncontained(bound, without_walls):
    box, asked, ticked = bound
    assert not box.visible
    assert sandbox.RISK in box.info
    assert asked("code")["visible"]
    assert not asked("exact")["visible"]
    assert not asked(None)["visible"]
    ticked(True)
    assert sandbox.is_unsafe_code_allowed()
    assert asked("code")["value"] is True
    ticked(False)
    assert not sandbox.is_unsafe_code_allowed()


def test_nobody_is_asked_where_programs_are_contained(bound, monkeypatch):
    monkeypatch.setattr(forms, "protection", lambda: process.Protection("seccomp + landlock", ""))
    assert not bound[1]("code")["visible"]


def test_every_task_whose_programs_run_is_known():
    assert set(BENCHMARKS) >= RUN_PROGRAMS
    assert _may_run_programs(["humaneval"], None)
    assert _may_run_programs([], "rows.csv")
    assert not _may_run_programs(["gsm8k"], None)


def test_the_app_takes_a_yes_at_its_start():
    launch.parser().parse_args([])
    assert not sandbox.is_unsafe_code_allowed()
    launch.parser().parse_args(["--allow-unsafe-code"])
    assert sandbox.is_unsafe_code_allowed()

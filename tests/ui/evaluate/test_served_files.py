"""What the tab writes for the browser to fetch."""

import json
from pathlib import Path

import gradio as gr
import pytest

from t2local.engine.evaluations import EvaluationPlan
from t2local.ui.evaluate.events import EvaluateEvents
from t2local.ui.evaluate.layout import create_evaluate_tab
from tests.engine.conftest import engine, model_folder  # noqa: F401


@pytest.fixture
def finished(engine, tmp_path):  # noqa: F811
    rows = [{"prompt": f"thing {i}?", "answer": ("red", "blue")[i % 2]} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    id = engine.evaluations.start(EvaluationPlan((str(tmp_path / "rows.jsonl"),), ("base",)))
    assert engine.jobs.wait(id, 60).stage == "finished"
    return id


def reports(update, tab):
    return [Path(file["path"]) for file in update[tab.files].value if "report" in file["path"]]


def test_opening_a_finished_evaluation_again_writes_nothing(engine, finished):  # noqa: F811
    with gr.Blocks(), gr.Tab("Evaluate") as shown:
        tab = create_evaluate_tab()
        events = EvaluateEvents(engine, tab, shown)
    first = events.picked({tab.evaluation: finished})
    (report,) = reports(first, tab)
    written = report.stat().st_mtime_ns
    again = events.picked({tab.evaluation: finished})
    assert reports(again, tab) == [report]
    assert report.stat().st_mtime_ns == written
    assert again[tab.rows.file] == first[tab.rows.file]
    report.unlink()  # somebody cleared the page's cache
    (anew,) = reports(events.picked({tab.evaluation: finished}), tab)
    assert anew.is_file()

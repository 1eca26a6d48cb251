"""The Evaluate tab in a browser, on a real engine with a two-layer random model."""

from types import SimpleNamespace

import gradio as gr
import pytest

from t2local.engine.evaluations import EvaluationPlan, EvaluationReport, Growing
from t2local.engine.job_record import JobStatus
from t2local.evaluation.measure import Scored
from t2local.evaluation.tally import Record
from t2local.progress import INTERRUPTED
from t2local.ui.evaluate.events import EvaluateEvents
from t2local.ui.evaluate.layout import create_evaluate_tab
from t2local.ui.evaluate.view import ALL
from tests.ui.adapt.test_layout import served_engine
from tests.ui.conftest import PHONE, open_tab

__all__ = ["served_engine"]
pytestmark = pytest.mark.browser

ROWS = "prompt,answer\n" + "".join(
    f"thing {i}: <b>red</b> or blue?,{('red', 'blue')[i % 2]}\n" for i in range(24)
)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "things.csv"
    path.write_text(ROWS)
    return str(path)


def evaluate_page(open_page, url, **options):
    page = open_page(url=url, ready=False, **options)
    page.wait_for_selector("#message textarea:enabled")
    open_tab(page, "Evaluate")
    page.wait_for_selector("#evaluate-strategies label >> text=oracle")
    return page


def test_from_a_file_to_a_table_samples_and_files(open_page, served_engine, rows):
    _, url = served_engine
    page = evaluate_page(open_page, url)
    page.set_input_files("#evaluate-file input", rows)
    page.wait_for_selector("#evaluate-file >> text=things.csv")
    for name in ("math", "prompt", "oracle"):
        page.locator("#evaluate-strategies label").get_by_text(name, exact=True).click()
    page.click("#evaluate-start")
    page.wait_for_selector("[data-ended]")
    assert page.locator("#evaluate-table tbody tr").count() == 4
    assert page.inner_text("#evaluate-table tbody tr:first-child").startswith("things")
    page.wait_for_selector("#plot-accuracy .js-plotly-plot .bars path")
    page.wait_for_selector("#evaluate-files >> text=report")
    samples = page.locator("#evaluate-samples details")
    everything = samples.count()
    page.locator("#evaluate-verdict label").get_by_text("wrong", exact=True).click()
    page.wait_for_function(
        "n => document.querySelectorAll('#evaluate-samples details').length < n", arg=everything
    )
    samples.first.locator("summary").click()
    assert "<b>red</b>" in samples.first.locator("pre").first.inner_text(), "text, not markup"


def test_a_mistake_is_a_sentence_and_a_phone_shows_one_column(open_page, served_engine):
    _, url = served_engine
    page = evaluate_page(open_page, url, size=PHONE)
    page.click("#evaluate-start")
    page.wait_for_selector(".toast-body >> text=No task was given")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0], f"the page is {width} pixels wide"


def test_answers_of_two_cells_stay_apart_whatever_their_names():
    growing = Growing()
    cells = ("a · b", "c"), ("a", "b · c"), ("a", "empty")
    for (task, strategy), answers in zip(cells, (["one"], ["two"], []), strict=True):
        records = tuple(Record(i, "?", answer, answer, True) for i, answer in enumerate(answers))
        growing.take(Scored(task, strategy, len(records), 1, len(records), records))
    report = EvaluationReport(
        JobStatus("id", "evaluation", "a", INTERRUPTED), EvaluationPlan(("a",), ("c",)), 3, growing,
        None,
    )  # fmt: skip
    training = SimpleNamespace(as_read=str)
    engine = SimpleNamespace(
        training=training, evaluations=SimpleNamespace(report=lambda id: report)
    )
    with gr.Blocks():
        tab = create_evaluate_tab()
        events = EvaluateEvents(engine, tab, gr.Tab())
    update = events.ticked({tab.evaluation: "id"})
    assert [place for _, place in update[tab.cell].choices] == [0, 1]
    for place, answer in enumerate(("one", "two")):
        values = {tab.evaluation: "id", tab.cell: place, tab.verdict: ALL}
        html = events.looked(values)[tab.samples]
        assert [word in html for word in ("one", "two")] == [answer == "one", answer == "two"]
    for gone in (None, 2):
        assert "There are none." in events.looked({**values, tab.cell: gone})[tab.samples]

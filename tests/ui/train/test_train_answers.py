from dataclasses import replace
from types import SimpleNamespace

from t2local.engine.job_record import JobStatus
from t2local.engine.training import RunReport
from t2local.progress import RUNNING
from t2local.training.reports import Curves
from t2local.training.runs import Plan
from t2local.ui.train.events import TrainEvents
from t2local.ui.train.view import answers_html


def test_the_newest_check_stands_open_and_earlier_ones_are_folded():
    rows = [("How many?", "4", "56")]
    html = answers_html(Curves(answers=[(0, rows), (5, rows), (10, rows)]))
    assert html.index("after step 10") < html.index("After step 5") < html.index("Before the")
    assert html.count("<details>") == 2
    assert answers_html(Curves()) == ""


def test_answers_are_sent_again_only_when_there_are_new_ones():
    """Sent again, an earlier check that a person has unfolded would fold at every step."""
    rows, status = [("How many?", "4", "56")], JobStatus("run-1", "training", "sums", RUNNING)

    def sent(curves, drawn, folder="run-1"):
        report = RunReport(replace(status, id=folder), Plan("sums", "", ""), curves)
        update = events._present(report, drawn)
        return "answers" in update, update["drawn"]

    parts = (
        "status pause resume stop try_it adopt drop plots drawn timer answers reward vitals layers"
    )
    live = SimpleNamespace(**{name: name for name in parts.split()})
    events = TrainEvents.__new__(TrainEvents)
    events.live = live
    numbers = {name: [0.0] for name in ("reward", "spread", "kl", "entropy", "equal_groups")}
    one = Curves([1], change=[0.0], tokens_per_s=[1.0], answers=[(0, rows)], **numbers)
    new, drawn = sent(one, ())
    assert new
    two = {name: [0.0, 0.0] for name in (*numbers, "change", "tokens_per_s")}
    again, drawn = sent(replace(one, steps=[1, 2], **two), drawn)
    assert not again, "a step more, and no new answers"
    assert sent(replace(one, answers=[(0, rows), (1, rows)]), drawn)[0]
    assert sent(one, drawn, folder="run-2")[0]

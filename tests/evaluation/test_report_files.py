import csv
import json
import re
from dataclasses import replace

import pytest

from t2local.errors import T2LocalError
from t2local.evaluation.measure import evaluate
from t2local.evaluation.report import PAGE, page_html, write_report
from t2local.evaluation.tally import Confusion, Result
from t2local.evaluation.variants import asking, base
from t2local.progress import drain
from tests.markup import Recorder

ABOUT = {"command": "evaluate --task <sums>", "seed": 0}


@pytest.fixture
def found(subject, choosing, writing):
    strategies = [base(subject), asking(subject, "prompt")]
    return drain(evaluate(subject, [choosing, writing], strategies))


def test_all_files_say_the_same(found, tmp_path):
    write_report(found, ABOUT, tmp_path / "out")
    files = {path.name: path.read_text("utf-8") for path in (tmp_path / "out").iterdir()}
    stored = json.loads(files["results.json"])
    assert stored["rows"] == found.as_dict()["rows"]
    rows = list(csv.DictReader(files["results.csv"].splitlines()))
    assert [int(row["correct"]) for row in rows] == [r.correct for r in found.results]
    assert files["results.md"].count("\n| colours |") == 2
    samples = [json.loads(line) for line in files["samples.jsonl"].splitlines()]
    assert len(samples) == 2 * 45
    assert sum(sample["right"] for sample in samples) == sum(r.correct for r in found.results)


def test_the_page_needs_no_network_and_reads_answers_as_text(found, tmp_path):
    write_report(found, ABOUT, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"https?://|src=|<link|<script", page)
    assert "&lt;sums&gt;" in page
    assert "<sums>" not in page
    assert page.count("<details>") == 2 * 45


def test_no_string_becomes_markup_in_the_page(found, monkeypatch):
    recorder = Recorder(PAGE, monkeypatch)
    confusion = Confusion("prompt", ("math",), ("math", "other"), ((3, 1),))
    failed = Result("colours", "broken", 0, 0, failed="why")
    shown = replace(found, confusions=(confusion,), results=(*found.results, failed))
    page_html(shown, ABOUT)
    assert {(file, part) for file, part, _ in recorder.calls} == set(PAGE.parts())
    recorder.check()


def test_a_folder_that_cannot_be_written_is_one_sentence(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(T2LocalError, match="cannot be written"):
        write_report(found, ABOUT, tmp_path / "file" / "below")

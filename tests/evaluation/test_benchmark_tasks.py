import json

import pytest

from t2local.errors import T2LocalError
from t2local.evaluation.benchmark_tasks import (
    BENCHMARKS,
    available_offline,
    files_of_the_folder,
    question_set,
)
from t2local.evaluation.questions import LETTER, LIKELIHOOD
from t2local.tasks import benchmarks
from t2local.tasks.benchmarks import HUB


@pytest.fixture
def small_folder(tmp_path, monkeypatch):
    """A folder with a few rows of two tasks."""
    arc = [
        {"id": f"a{i}", "prompt": f"q{i}?", "answer": "A", "choices": ["x", "y"], "label": 0}
        for i in range(9)
    ]
    gsm8k = [{"id": "g0", "prompt": "1 + 1?", "answer": "2"}]
    for name, rows in (("arc_easy", arc), ("gsm8k", gsm8k)):
        (tmp_path / f"{name}.test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("T2LOCAL_DATA", str(tmp_path))
    return tmp_path


def test_every_benchmark_of_the_folder_has_questions_and_says_where_it_is_from(
    data_folder, monkeypatch
):
    monkeypatch.setenv("T2LOCAL_DATA", str(data_folder))
    assert set(available_offline()) >= {"gsm8k", "humaneval", "arc_challenge", "mbppplus_paper"}
    for name in available_offline():
        found = question_set(name, limit=2)
        assert len(found.questions) == 2
        assert found.source
        assert found.topic
    assert len(question_set("mbppplus-paper").questions) == 78


def test_our_own_tasks_need_no_folder_and_no_network(monkeypatch):
    monkeypatch.delenv("T2LOCAL_DATA", raising=False)
    own = available_offline()
    assert own == ["probes_math", "probes_code", "probes_reasoning", "probes_kinds"]
    for name in own:
        found = question_set(name)
        assert (len(found.questions), found.verdict) == (60, LIKELIHOOD)
    assert "math" in found.questions[0].user, "asked as pass 1 asks"


def test_other_tables_of_the_folder_are_found(small_folder, monkeypatch):
    for name in ("mine.csv", "more.JSONL", "gsm8k.train.jsonl", "notes.md"):
        (small_folder / name).write_text("prompt,answer\n1 + 1?,2\n")
    assert [path.name for path in files_of_the_folder()] == ["mine.csv", "more.JSONL"]
    monkeypatch.setenv("T2LOCAL_DATA", str(small_folder / "gone"))
    assert files_of_the_folder() == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_task_says_its_source(name):
    said = BENCHMARKS[name].__doc__
    assert "reference" in said or "paper" in said


def test_a_limit_draws_the_same_questions_for_the_same_seed(small_folder):
    first, again, other = (question_set("ARC-Easy", 4, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.questions != other.questions
    assert first.sha256() != other.sha256()


def test_choices_are_read_or_written_as_the_paper_does(small_folder):
    assert question_set("arc_easy").verdict == LIKELIHOOD
    written = question_set("arc_easy", written=True)
    assert written.verdict == LETTER
    assert written.questions[0].user == "q0?\nOptions:\nA. x\nB. y\n"
    assert "the answer is (X)" in written.questions[0].system


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("arc_chalenge", "did you mean 'arc_challenge'"),
        ("humanevil", "did you mean 'humaneval'"),
        ("rows.csv", "no task and no file"),
        ("easy_vqa", "here are: gsm8k, arc_easy"),
    ],
)
def test_an_unknown_task_gets_the_nearest_name_or_what_is_here(small_folder, name, words):
    with pytest.raises(T2LocalError, match=words):
        question_set(name)


def test_without_a_network_the_tasks_that_need_none_are_named(small_folder, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def offline(*_, **__):
        raise ConnectionError("no route to the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(T2LocalError, match=r"no route.*without a network: gsm8k, arc_ea"):
        question_set("math")


def test_a_file_without_answers_is_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt\nhello?\n")
    with pytest.raises(T2LocalError, match="no column for the answer"):
        question_set(str(path))


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ("What is {i} + 1?,{n}", "numeric"),
        ("Is {i} red or blue?,red\nAnd {i} again?,blue", LIKELIHOOD),
    ],
)
def test_a_file_is_scored_by_what_fits_its_answers(tmp_path, rows, verdict):
    path = tmp_path / "mine.csv"
    lines = [rows.format(i=i, n=i + 1) for i in range(8)]
    path.write_text("\n".join(["prompt,answer", *lines]))
    found = question_set(str(path))
    assert (found.name, found.verdict) == ("mine", verdict)


HUB_ROWS = {
    "gsm8k": {"question": "q", "answer": "worked\n#### 1,200"},
    "math": {"problem": "q", "answer": r"\frac12", "subject": "algebra"},
    "svamp": {"Body": "A.", "Question": "q", "Answer": "4.0", "Equation": "( 6.0 - 2.0 )"},
    "mbppplus": {"task_id": 2, "prompt": "q", "code": "def f(a): pass",
                 "test_list": ["assert set(f((1,))) == {1}"], "test_imports": []},
    "humaneval": {"task_id": "HumanEval/0", "prompt": "q", "test": "def check(c): pass",
                  "entry_point": "f", "canonical_solution": " pass"},
    "arc_easy": {"id": "a", "question": "q", "answerKey": "2",
                 "choices": {"text": ["x", "y"], "label": ["1", "2"]}},
}  # fmt: skip
WANTED = {"gsm8k": "1200", "math": r"\frac12", "svamp": "4", "mbppplus": "def f(a): pass",
          "humaneval": " pass", "arc_easy": "B"}  # fmt: skip


@pytest.mark.parametrize("name", HUB_ROWS)
def test_rows_of_the_hub_become_examples(name, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [HUB_ROWS[name]])
    (example,) = benchmarks.load_from_hub(name)
    assert example.prompt.endswith("q")
    assert example.answer == WANTED[name]
    if name in ("mbppplus", "humaneval"):
        assert example.columns["entry_point"] == "f"
    assert name in HUB

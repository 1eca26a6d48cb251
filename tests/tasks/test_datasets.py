import json

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.datasets import dataset, with_prompts
from tests.tasks.workbook_files import xlsx


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def forty(tmp_path):
    rows = [{"prompt": f"question {i}", "answer": str(i)} for i in range(40)]
    return write(tmp_path / "mine.jsonl", rows)


def test_the_three_parts_are_disjoint_and_complete(forty):
    parts = dataset(forty)
    prompts = [{e.prompt for e in p} for p in (parts.train, parts.validation, parts.held_out)]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 40


def test_the_hash_says_which_rows(forty):
    parts = dataset(forty)
    assert parts.sha256 == dataset(forty).sha256
    assert parts.sha256 != with_prompts(parts, str.upper).sha256
    assert with_prompts(parts, str.upper).train[0].prompt == parts.train[0].prompt.upper()


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([{"prompt": "a", "answer": "b"}], "at least 5"),
        ([{"prompt": "a", "answer": str(i)} for i in range(9)], "1 different prompts"),
        ([{"prompt": "a", "answer": "b"}] * 4 + [{"prompt": "", "answer": "b"}], "bad rows"),
    ],
)
def test_too_few_or_bad_rows_are_refused(tmp_path, rows, word):
    with pytest.raises(T2LocalError, match=word):
        dataset(write(tmp_path / "few.jsonl", rows))


def test_an_unknown_source_is_named_with_what_there_is():
    with pytest.raises(T2LocalError, match=r"'nothing\.csv' is neither.*arc-easy"):
        dataset("nothing.csv")


def test_the_held_out_share_is_adjustable(forty):
    assert len(dataset(forty, held_out_share=0.5).held_out) == 20
    assert len(dataset(forty).held_out) == 10


def test_what_was_read_of_a_workbook_is_said(tmp_path):
    rows = [["prompt", "answer"], *([f"question {i}", str(i)] for i in range(12))]
    path = tmp_path / "mine.xlsx"
    path.write_bytes(xlsx({"Mails": rows, "Old": rows}))
    assert "Only the sheet 'Mails' is read" in dataset(str(path)).note


def test_the_hint_names_every_kind_of_file():
    for kind in ("CSV", "Parquet", "spreadsheet"):
        with pytest.raises(T2LocalError, match=kind):
            dataset("nothing")

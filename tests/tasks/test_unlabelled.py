"""A table that is to be labelled asks what it asks in training, and comes back whole."""

import base64
import csv
import io
import json
from pathlib import Path

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.files import read_examples
from t2local.tasks.unlabelled import inert, kind_of, read_unlabelled, with_columns
from tests.pictures import painted

MAILS = ["Where is my parcel? It was to come on Monday.", "My invoice shows the wrong name, sorry!"]


def write(tmp_path, text, name="mails.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def given_back(path, more, column=""):
    table = read_unlabelled(path, column)
    text = with_columns(table, more, kind_of(path)).decode("utf-8-sig")
    return table, text


@pytest.mark.parametrize(
    "text",
    [
        f'id,mail\n1,{MAILS[0]}\n2,"{MAILS[1]}"\n',
        f'mail\n{MAILS[0]}\n"{MAILS[1]}"\n',
        f"id;mail;customer\n1;{MAILS[0]};Ana\n2;{MAILS[1]};Ben\n",
        f"text\tteam\n{MAILS[0]}\tdelivery\n{MAILS[1]}\tbilling\n",
        f'when,subject,body\n2026-01-01,Hi,{MAILS[0]}\n2026-01-02,Ho,"{MAILS[1]}"\n',
    ],
)
def test_the_column_that_asks_is_found_without_an_answer(tmp_path, text):
    found = read_unlabelled(write(tmp_path, text))
    assert [asked.example.prompt.splitlines()[-1] for asked in found.rows] == MAILS


def test_rows_with_answers_ask_exactly_what_they_ask_in_training(tmp_path):
    """Also where other columns belong to the question. Their answers are nobody's here."""
    for text in (
        "context,question,answer\nA shop.,Is it open today or not?,yes\nA bar.,Is it shut?,no\n",
        "text,label\nfine thing indeed,good\nbad thing indeed,bad\nno good at all,bad\n",
        "prompt,answer\nred or blue?,red\nleft or right?,right\n",
    ):
        path = write(tmp_path, text)
        trained, found = read_examples(path).examples, read_unlabelled(path).rows
        assert [asked.example.turns for asked in found] == [row.turns for row in trained]
        assert {asked.example.answer for asked in found} == {""}


def test_labels_that_are_numbers_without_names_ask_the_same(tmp_path):
    path = write(tmp_path, "text,label\nfine thing indeed,1\nbad thing indeed,0\nno good,0\n")
    found = read_unlabelled(path).rows
    assert [r.example.prompt for r in found] == ["fine thing indeed", "bad thing indeed", "no good"]


def test_every_row_and_column_comes_back_in_order_with_more(tmp_path):
    path = write(tmp_path, f'id;mail\n7;{MAILS[0]}\n8;\n9;"{MAILS[1]}\nBye"\n', encoding="cp1252")
    more = [{"label": "a"}, {"label": ""}, {"label": "b"}]
    table, text = given_back(path, more)
    assert table.rows[1].example is None
    assert "empty" in table.rows[1].problem
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";"))
    assert [row["id"] for row in rows] == ["7", "8", "9"]
    assert rows[2]["mail"] == f"{MAILS[1]}\nBye"
    assert [row["label"] for row in rows] == ["a", "", "b"]


def test_letters_of_old_files_come_back_as_utf_8(tmp_path):
    path = write(tmp_path, "text\nWo ist mein Päckchen bitte schön?\nGrüße\n", encoding="cp1252")
    _, text = given_back(path, [{"label": "x"}] * 2)
    assert "Päckchen" in text
    assert "Grüße" in text


def test_a_column_that_is_there_keeps_its_name(tmp_path):
    path = write(tmp_path, f"mail,label\n{MAILS[0]},delivery\nPay me back now please,billing\n")
    _, text = given_back(path, [{"label": "x"}] * 2)
    row = next(csv.DictReader(io.StringIO(text, newline="")))
    assert (row["label"], row["label (t2local)"]) == ("delivery", "x")


def test_jsonl_comes_back_as_jsonl_with_what_was_in_it(tmp_path):
    rows = [{"id": n, "mail": mail, "tags": ["a", {"b": None}]} for n, mail in enumerate(MAILS)]
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "mails.jsonl")
    _, text = given_back(path, [{"label": "x"}] * 2, column="mail")
    found = [json.loads(line) for line in text.splitlines()]
    assert found[0] == {**rows[0], "label": "x"}


def test_it_can_be_read_again(tmp_path):
    path = write(tmp_path, f'id,mail\n1,{MAILS[0]}\n2,"{MAILS[1]}"\n')
    _, text = given_back(path, [{"label": "x"}, {"label": "y"}])
    again = read_unlabelled(write(tmp_path, text, "again.csv"), "mail")
    assert [asked.example.prompt for asked in again.rows] == MAILS


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [("", "", "empty"), ("a,b\n", "", "no rows"), ("id,n\n1,2\n3,4\n", "", "choose one of id, n"),
     ('mail\n"a",b\n', "", "row 2: .*quotes around"),
     (f"id,mail\n1,{MAILS[0]}\n", "body", "no column 'body'")],
)  # fmt: skip
def test_what_cannot_be_labelled_is_told(tmp_path, text, column, said):
    with pytest.raises(T2LocalError, match=said):
        read_unlabelled(write(tmp_path, text), column)


def test_a_named_column_is_taken_whatever_it_is(tmp_path):
    path = write(tmp_path, "id,n\n1,2\n3,4\n")
    assert [asked.example.prompt for asked in read_unlabelled(path, "n").rows] == ["2", "4"]


def test_a_label_runs_nothing_in_a_spreadsheet():
    assert inert('=HYPERLINK("x")').startswith("'=")
    for label in ("+", "-", "yes", "", "-1", "+0.5"):
        assert inert(label) == label


def test_in_jsonl_a_label_is_as_it_is(tmp_path):
    path = write(tmp_path, json.dumps({"mail": MAILS[0]}) + "\n", "mails.jsonl")
    _, text = given_back(path, [{"label": "=x"}], column="mail")
    assert json.loads(text)["label"] == "=x"


def test_a_plain_list_of_texts_keeps_its_commas(tmp_path):
    lines = ["Hello, where is my parcel?", "Hi, I am late, sorry", "Short"]
    for header in ("mail", "text", "Nachricht"):
        found = read_unlabelled(write(tmp_path, "\n".join([header, *lines, ""])), header)
        assert [asked.example.prompt for asked in found.rows] == lines
        assert found.bad == ()


def test_without_a_header_the_first_row_is_a_row(tmp_path):
    path = write(tmp_path, "Where is my parcel today?\nThe bill is wrong again\nI want it back\n")
    found = read_unlabelled(path, without_header=True)
    assert found.rows[0].example.prompt == "Where is my parcel today?"
    assert len(found.rows) == 3


def test_pictures_are_asked_about_or_their_row_says_why_not(tmp_path):
    picture = (
        "data:image/png;base64,"
        + base64.b64encode(Path(painted(tmp_path, "red")).read_bytes()).decode()
    )
    text = f'image,question\n"{picture}",What is to be seen here?\nnope.png,And what is here?\n'
    seen, gone = read_unlabelled(write(tmp_path, text)).rows
    assert seen.example.pictures
    assert gone.example is None
    assert "nope.png" in gone.problem


def test_a_row_is_asked_whatever_its_label_says(tmp_path):
    path = write(tmp_path, "prompt,completion,label\nOne thing?,a,True\nTwo things?,b,False\n")
    found = read_unlabelled(path, "prompt").rows
    assert [asked.example.prompt for asked in found] == ["One thing?", "Two things?"]

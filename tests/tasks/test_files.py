"""Examples from whatever file somebody has: detected, mapped, and bad rows named."""

import json
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from t2local.errors import T2LocalError
from t2local.tasks.delimited import _header
from t2local.tasks.files import Wanted, content_hash, read_examples
from t2local.tasks.tables import MOST_BYTES
from tests.tasks.workbook_files import xlsx, zipped

ROWS = [("What is 2 + 2?", "4"), ("Capital of France, in capitals?", "PARIS"), ("Grüße, na?", "né")]
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
]


def written(tmp_path, name, text, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def table(delimiter, header=("prompt", "answer"), line_end="\n"):
    def cell(text):
        return f'"{text}"' if delimiter in text else text

    rows = [header, *ROWS]
    return line_end.join(delimiter.join(cell(text) for text in row) for row in rows) + line_end


def pairs(file):
    return [(e.prompt, e.answer) for e in file.examples]


FORMS = {
    "a.jsonl": "\n".join(json.dumps({"question": p, "ground_truth": a}) for p, a in ROWS),
    "a.json": json.dumps([{"Prompt": p, "Response": a} for p, a in ROWS], indent=1),
    "b.json": json.dumps({"data": [{"instruction": p, "output": a} for p, a in ROWS]}),
    "a.csv": table(","),
    "b.csv": table(";", ("question", "answer"), "\r\n"),
    "a.tsv": table("\t"),
    "misnamed.csv": "\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in ROWS),
    "one.jsonl": json.dumps([{"prompt": p, "answer": a} for p, a in ROWS]),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_examples_and_hash(name, tmp_path):
    file = read_examples(written(tmp_path, name, FORMS[name]))
    assert pairs(file) == ROWS
    assert not file.bad_rows
    assert file.sha256 == content_hash(file.examples)
    assert file.sha256 == read_examples(written(tmp_path, "x.csv", FORMS["a.csv"])).sha256


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_encodings(encoding, tmp_path):
    assert pairs(read_examples(written(tmp_path, "a.csv", table(","), encoding))) == ROWS


def test_alpaca_joins_instruction_and_input(tmp_path):
    rows = [
        {"instruction": "Translate.", "input": "Hello", "output": "Hallo"},
        {"instruction": "Say hi.", "input": "", "output": "Hi"},
    ]
    file = read_examples(written(tmp_path, "a.json", json.dumps(rows)))
    assert pairs(file) == [("Translate.\n\nHello", "Hallo"), ("Say hi.", "Hi")]


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_conversations(column, tmp_path):
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    sharegpt = [{"from": names[turn["role"]], "value": turn["content"]} for turn in CHAT]
    rows = [{column: CHAT if column == "messages" else sharegpt}]
    (example,) = read_examples(written(tmp_path, "a.json", json.dumps(rows))).examples
    assert (example.prompt, example.answer) == ("2 + 2?", "4")
    assert example.columns["messages"] == CHAT[:3]


def test_columns_can_be_mapped_by_hand(tmp_path):
    path = written(tmp_path, "a.csv", "frage,antwort,prompt\nWie alt?,9,x\n")
    file = read_examples(path, Wanted(prompt="frage", answer="antwort"))
    assert pairs(file) == [("Wie alt?", "9")]
    assert file.columns == ("frage", "antwort", "prompt")
    with pytest.raises(T2LocalError, match="no column 'nope'; it has 'frage', 'antwort'"):
        read_examples(path, Wanted(prompt="nope"))


def test_columns_of_a_reward_are_kept_and_understood(tmp_path):
    text = 'prompt,choices,label\n"Which?","[""a"", ""b""]",1\n'
    (example,) = read_examples(written(tmp_path, "a.csv", text)).examples
    assert example.columns == {"choices": ["a", "b"], "label": 1}
    assert example.answer == ""


def test_numbers_in_json_become_their_text(tmp_path):
    rows = [{"prompt": 7, "answer": 72}, {"prompt": "b", "answer": False}]
    assert pairs(read_examples(written(tmp_path, "a.json", json.dumps(rows)))) == [
        ("7", "72"),
        ("b", "false"),
    ]


def test_bad_rows_are_listed_by_number_and_the_good_ones_kept(tmp_path):
    lines = ['{"prompt": "a", "answer": "1"}', "{oops", "[1]", "", '{"prompt": "", "answer": "2"}']
    lines += ['{"prompt": "b"}', '{"prompt": "c", "answer": "3"}']
    file = read_examples(written(tmp_path, "a.jsonl", "\n".join(lines)))
    assert pairs(file) == [("a", "1"), ("c", "3")]
    assert [row.number for row in file.bad_rows] == [2, 3, 5, 6]
    reasons = " | ".join(row.reason for row in file.bad_rows)
    for reason in ("no valid JSON", "a list instead", "prompt is empty", "answer is empty"):
        assert reason in reasons


def test_row_numbers_of_a_table_are_those_of_the_spreadsheet(tmp_path):
    path = written(tmp_path, "a.csv", 'prompt,answer\n"a\nb",1\nc,\nd,2,3\n')
    file = read_examples(path)
    assert pairs(file) == [("a\nb", "1")]
    assert [row.number for row in file.bad_rows] == [3, 4]


def test_duplicates_are_pointed_out(tmp_path):
    file = read_examples(written(tmp_path, "a.csv", "prompt,answer\na,1\nb,2\na,1\n"))
    assert file.duplicates == ((4, 2),)
    assert len(file.examples) == 3


def test_a_repeated_column_is_kept_under_a_name_of_its_own(tmp_path):
    file = read_examples(written(tmp_path, "a.csv", "prompt,answer,answer\na,1,2\n"))
    assert pairs(file) == [("a", "1")]
    assert file.examples[0].columns == {"answer (2)": "2"}
    assert "More than one column is called 'answer'" in file.note


def test_characters_that_cannot_be_read_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,answer\ncaf\xe9 \x81,1\n")
    file = read_examples(path)
    assert pairs(file) == [("café �", "1")]
    assert "1 characters could not be read" in file.note


def test_a_row_that_cannot_be_written_again_is_bad(tmp_path):
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "\ud800", "answer": "2"}]
    rows += [{"prompt": "c", "answer": "3", "label": float("inf")}]
    file = read_examples(written(tmp_path, "a.json", json.dumps(rows)))
    assert pairs(file) == [("a", "1")]
    assert ["surrogate" in row.reason for row in file.bad_rows] == [True, False]
    assert file.bad_rows[1].reason == "the label 'inf' is no number"


REFUSED = {
    "empty": (b"", "is empty; add at least one prompt with its answer"),
    "blank": (b" \n\n", "is empty"),
    "only a mark": (b"\xef\xbb\xbf\n", "is empty"),
    "an empty list": (b"[]", "has no rows; add at least one"),
    "header only": (b"prompt,answer\n", "has no rows"),
    "no header": (b",,\n,,\n", "has no header row; name its columns in the first row"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00", "is no text; use"),
    "cut off": (b"[1, 2", "no valid JSON"),
    "no prompt": (b"name,age\nx,3\n", "no column for the prompt; it has 'name', 'age'"),
    "no answer": (b"prompt,age\nx,3\n", "no column for the answer; it has 'prompt', 'age'"),
    "wrong delimiter": (b"prompt~answer\nx~3\n", "no column for the prompt; it has 'prompt~an"),
    "two delimiters": (
        b"prompt;answer\nx,3\n",
        "no usable row; the first fault is in row 2: the an",
    ),
    "empty prompts": (b"prompt,answer\n,3\n", "no usable row; the first fault is in row 2"),
    "mixed types": (b'[1, "a", null]', "the first fault is in row 1: a int instead of an object"),
    "parquet": (b"PAR1 and no more", "is a damaged Parquet file"),
    "zip": (zipped({"a.txt": "a"}), "is an archive or a document, no workbook; unpack it"),
    "damaged workbook": (xlsx({"S": [["prompt"]]})[:300], "is no workbook that can be read"),
    "old Office": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "workbook"),
    "empty workbook": (xlsx({"S": []}), "is empty; add at least one"),
    "workbook, header only": (xlsx({"S": [["prompt", "answer"]]}), "has no rows"),
    "workbook, no prompt": (xlsx({"S": [["a", "b"], ["c", 1]]}), "no column for the prompt"),
    "far cell": (xlsx({"S": [["prompt"]]}, far=True), "a cell far from the others is filled"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_hopeless_file_is_refused_in_one_sentence(case, tmp_path):
    content, says = REFUSED[case]
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(T2LocalError, match=says) as caught:
        read_examples(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(T2LocalError, match="cannot be read"):
        read_examples(tmp_path / "gone.csv")


def test_one_row_is_enough_to_be_read(tmp_path):
    assert pairs(read_examples(written(tmp_path, "a.csv", "prompt,answer\na,1"))) == [("a", "1")]


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 2**20)  # sparse: takes no space
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with pytest.raises(T2LocalError, match="has 201 MB, the most is 200 MB"):
        read_examples(path)


# --- Tables that are far too wide.


class Counted(str):
    """A column's name that counts how often it is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__

    def strip(self, *_):
        return self


@pytest.mark.parametrize("different", [1_000, 1])
def test_names_of_columns_are_looked_at_about_once_each(different):
    """All different, and all the same."""
    Counted.compared = 0
    names, _ = _header([Counted(f"name {i % different}") for i in range(1_000)])
    assert len(set(names)) == 1_000
    assert Counted.compared < 10_000


def test_repeated_names_get_the_next_free_place():
    names, note = _header(["a", "a", "a (2)", "a", "b", ""])
    assert names == ["a", "a (2)", "a (2) (2)", "a (3)", "b", ""]
    assert "More than one column" in note


def wide_csv(folder, n):
    path = folder / "wide.csv"
    path.write_text(",".join(["prompt", "answer", *(f"c{i}" for i in range(n))]) + "\na,b\n")
    return path


def wide_json(folder, n):
    path = folder / "wide.json"
    path.write_text(json.dumps([{"prompt": "a", "answer": "b", **{f"c{i}": 1 for i in range(n)}}]))
    return path


def many_names(folder, n):
    """Few columns a row, others in each."""
    path = folder / "rows.jsonl"
    rows = [{"prompt": f"{i}", "answer": "b", f"c{i}": 1} for i in range(n)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def wide_parquet(folder, n):
    path = folder / "wide.parquet"
    columns = {"prompt": ["a"], "answer": ["b"], **{f"c{i}": [1] for i in range(n)}}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("shape", [wide_csv, wide_json, many_names, wide_parquet])
def test_more_than_a_thousand_columns_are_refused(tmp_path, shape):
    assert read_examples(shape(tmp_path, 900)).examples
    with pytest.raises(T2LocalError, match="more than 1,000 columns"):
        read_examples(shape(tmp_path, 1_100))


def test_forty_thousand_columns_are_refused_soon(tmp_path):
    """They took half a minute; the limit is generous."""
    began = time.monotonic()
    with pytest.raises(T2LocalError, match="more than 1,000 columns"):
        read_examples(wide_csv(tmp_path, 40_000))
    assert time.monotonic() - began < 10


def test_a_reason_stands_in_a_sentence_with_one_full_stop(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "what?", "answer": "red", "image": "gone.png"}\n')
    with pytest.raises(T2LocalError, match=r"row 1: .*[^.]\.$"):
        read_examples(path)

"""Spreadsheets' own files and Parquet: the same rows, numbers and bad rows as of CSV."""

import datetime
import io
import subprocess
import sys
import time

import pyarrow
import pyarrow.parquet
import pytest

from t2local.errors import T2LocalError
from t2local.tasks import tables
from t2local.tasks.files import read_examples
from t2local.tasks.tables import OLE
from t2local.tasks.workbook_reader import as_shown
from tests.tasks.workbook_files import DATE_STYLE, ods, xlsx


def read(tmp_path, content):
    path = tmp_path / "upload"
    path.write_bytes(content)
    return read_examples(path)


def pairs(file):
    return [(e.prompt, e.answer) for e in file.examples]


def test_cells_are_read_as_a_person_sees_them(tmp_path):
    rows = [["prompt", "answer", "day"], ["a", 12.0, (45000, DATE_STYLE)], ["b", 0.1, True]]
    file = read(tmp_path, xlsx({"S": rows}))
    assert pairs(file) == [("a", "12"), ("b", "0.1")]
    assert [e.columns["day"] for e in file.examples] == ["2023-03-15", "TRUE"]
    assert not file.note


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (12.0, "12"), (-3.0, "-3"), (0.1 + 0.2, "0.3"), (1e20, "1e+20"), (7, "7"), (False, "FALSE"),
        ("007", "007"), (datetime.date(2024, 5, 1), "2024-05-01"),
        (datetime.datetime(2024, 5, 1, 13, 4, 5, 999), "2024-05-01 13:04:05"),
        (datetime.timedelta(hours=30), "30:00:00"), (datetime.time(3, 4), "03:04:00"),
    ],
)  # fmt: skip
def test_how_a_cell_is_written(cell, text):
    assert as_shown(cell) == text


def test_open_document(tmp_path):
    assert pairs(read(tmp_path, ods([["prompt", "answer"], ["a", 12.0]]))) == [("a", "12")]


def test_bad_rows_have_the_numbers_at_the_sheets_edge(tmp_path):
    rows = [["prompt", "answer"], ["a", 1], [], ["b"], ["c", 2, "more"], [None, 3], ["d", 4]]
    file = read(tmp_path, xlsx({"S": rows}))
    assert pairs(file) == [("a", "1"), ("d", "4")]
    assert [row.number for row in file.bad_rows] == [4, 5, 6]
    shifted = read(tmp_path, xlsx({"S": [[], [], *([None, *row] for row in rows)]}))
    assert pairs(shifted) == pairs(file)
    assert [row.number for row in shifted.bad_rows] == [6, 7, 8]


def test_the_first_sheet_with_rows_is_read_and_said_so(tmp_path):
    rows = [["prompt", "answer"], ["a", 1]]
    file = read(tmp_path, xlsx({"Notes": [["Mine"]], "Data": rows, "Old": [*rows, ["b", 2]]}))
    assert pairs(file) == [("a", "1")]
    assert file.note == "Only the sheet 'Data' is read, the first with rows; not 'Notes', 'Old'."


def test_a_protected_workbook_says_so(tmp_path):
    with pytest.raises(T2LocalError, match="protected by a password; save it without one"):
        read(tmp_path, OLE + bytes(1016) + "EncryptedPackage".encode("utf-16-le"))


def test_parquet_keeps_whole_numbers_dates_and_conversations(tmp_path):
    rows = [
        {"prompt": "a", "answer": 12.0, "day": datetime.datetime(2024, 5, 1), "n": 3},
        {"prompt": "b", "answer": 0.5, "day": datetime.datetime(2024, 5, 1, 13), "n": None},
        {"prompt": "c", "answer": None, "day": None, "n": None},
    ]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    file = read(tmp_path, buffer.getvalue())
    assert pairs(file) == [("a", "12"), ("b", "0.5")]
    assert file.examples[0].columns == {"day": "2024-05-01", "n": 3}
    assert file.examples[1].columns == {"day": "2024-05-01 13:00:00"}
    assert [row.number for row in file.bad_rows] == [3]


def test_a_reading_process_that_takes_too_much_memory_is_ended(monkeypatch):
    """Where the system sets no limit itself, as on Windows."""
    monkeypatch.setattr(tables, "MOST_MEMORY_BYTES", 100_000_000)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    greedy = "held = b'x' * 300_000_000\nimport time\ntime.sleep(60)"
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", greedy], **pipes) as process:
        *_, fits = tables._watched(process)
    assert not fits
    assert time.monotonic() - started < 30


def test_a_reading_process_knows_no_token_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    reader = tmp_path / "reader.py"
    reader.write_text(
        "import json, os\n"
        "rows = [[1, ['prompt', 'answer']], [2, [' '.join(os.environ), 'x']]]\n"
        "print(json.dumps({'sheet': 'a', 'others': [], 'rows': rows}))"
    )
    monkeypatch.setattr(tables, "READER", reader)
    (row,) = read(tmp_path, xlsx({"S": [["prompt", "answer"], ["a", 1]]})).examples
    assert "PATH" in row.prompt
    assert "HF_TOKEN" not in row.prompt


def test_a_slow_reading_process_is_ended(tmp_path, monkeypatch):
    slow = tmp_path / "slow.py"
    slow.write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(tables, "READER", slow)
    monkeypatch.setattr(tables, "MOST_S", 1)
    with pytest.raises(T2LocalError, match="more than 1 s to read"):
        read(tmp_path, xlsx({"S": [["prompt", "answer"], ["a", 1]]}))

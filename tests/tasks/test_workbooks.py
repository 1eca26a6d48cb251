"""Spreadsheets' own files and Parquet: the same rows, numbers and bad rows as of CSV."""

import datetime
import io
import subprocess
import sys
import time
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from t2local.errors import T2LocalError
from t2local.tasks import tables
from t2local.tasks.files import read_examples
from t2local.tasks.tables import OLE
from t2local.tasks.workbook_reader import NOT_STORED, as_shown
from tests.tasks.workbook_files import DATE_STYLE, FIRST_OWN_STYLE, ods, xlsx, zipped


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


FORMATS = [  # stored, code, shown
    ("1067", "00000", "01067"), ("0.125", "0.0%", "12.5%"), ("0.5", "0%", "50%"),
    ("1234.5", '"$"#,##0.00', "$1,234.50"), ("1234.5", '#,##0.00 "€"', "1,234.50 €"),
    ("1234.5", "[$€-407]\\ #,##0.00", "€ 1,234.50"), ("1234567", "#,##0", "1,234,567"),
    ("2", "0.00", "2.00"), ("12345", "0.00E+00", "1.23E+04"), ("1.5", "# ?/?", "1 1/2"),
    ("45000", "dd.mm.yyyy", "15.03.2023"), ("45000.75", "d/m/yy h:mm AM/PM", "15/3/23 6:00 PM"),
    ("1.25", "[h]:mm:ss", "30:00:00"), ("-3", "#,##0;[Red](#,##0)", "(3)"), ("7", '0 "km"', "7 km"),
    ("5551234567", "(000) 000-0000", "(555) 123-4567"), ("12", "General", "12"), ("12", "@", "12"),
]  # fmt: skip


def styled(cells, **more):
    """A workbook with a row for each (stored, code)."""
    rows = [[f"row {i}", (number, FIRST_OWN_STYLE + i)] for i, (number, *_) in enumerate(cells)]
    codes = [code for _, code, *_ in cells]
    return xlsx({"S": [["prompt", "answer"], *rows]}, formats=codes, **more)


def test_numbers_are_read_as_their_cells_show_them(tmp_path):
    file = read(tmp_path, styled(FORMATS))
    assert [e.answer for e in file.examples] == [shown for *_, shown in FORMATS]
    assert not file.note


def test_a_sheet_that_begins_elsewhere_is_read_the_same(tmp_path):
    rows = [[], [None, None, "prompt", "answer"], [None, None, "a", ("7", FIRST_OWN_STYLE)]]
    assert pairs(read(tmp_path, xlsx({"S": rows}, formats=["000"]))) == [("a", "007")]


def test_days_are_counted_from_where_the_workbook_says(tmp_path):
    content = styled([("43538", "yyyy-mm-dd")], properties='date1904="1"')
    assert pairs(read(tmp_path, content)) == [("row 0", "2023-03-15")]


def test_a_format_that_is_not_understood_is_named(tmp_path):
    file = read(tmp_path, styled([("5", "0"), ("6", "0 q"), ("7", "0 q")]))
    assert [e.answer for e in file.examples] == ["5", "6", "7"]
    assert file.note == (
        "2 numbers are read without their cell's format, which is not understood, such as '0 q'."
    )


FORMULA = ("", "<f>1+1</f>")
UNREADABLE = [
    (FORMULA, NOT_STORED),
    (("", "<f>1+1</f><v></v>"), NOT_STORED),
    (("", "<f t='shared' si='0'/><v/>"), NOT_STORED),
    (("t='e'", "<f>1/0</f><v>#DIV/0!</v>"), "holds the error #DIV/0!"),
    (("t='e'", "<v>#N/A</v>"), "holds the error #N/A"),
]


@pytest.mark.parametrize(("cell", "reason"), UNREADABLE)
def test_a_formula_without_a_value_and_an_error_are_named(tmp_path, cell, reason):
    rows = [["prompt", "answer"], ["a", 1], ["b", cell], ["c", 3]]
    file = read(tmp_path, xlsx({"S": rows}))
    assert pairs(file) == [("a", "1"), ("c", "3")]
    assert file.bad_rows == ((3, f"cell B3 of the sheet 'S' {reason}"),)
    with pytest.raises(T2LocalError, match=r"row 2: cell B2 of the sheet 'S' holds a formula"):
        read(tmp_path, xlsx({"S": [["prompt", "answer"], ["a", FORMULA]]}))


def test_a_formula_with_a_value_is_its_value(tmp_path):
    rows = [["prompt", "answer"], ["a", ("", "<f>1+1</f><v>2</v>")]]
    rows.append([("t='str'", "<f>A2&amp;1</f><v>a1</v>"), ("t='str'", "<f>A9</f><v></v>"), "x"])
    file = read(tmp_path, xlsx({"S": [[*row, None][:3] for row in rows[:2]] + [rows[2][:2]]}))
    assert pairs(file) == [("a", "2")]
    assert file.bad_rows == ((3, "the answer is empty"),)


def test_an_open_document_is_read_as_it_shows(tmp_path):
    def cell(kind, value, shown, more=""):
        given = f'office:value-type="{kind}" office:{value} {more}'
        return given, f"<text:p>{shown}</text:p>"

    note = "<office:annotation><text:p>a comment</text:p></office:annotation>"
    rows = [
        ["prompt", "answer", "n"],
        ["plz", cell("float", 'value="1067"', "01067"), 1.0],
        ["share", cell("percentage", 'value="0.125"', "12,5 %"), 2.0],
        ["price", cell("currency", 'value="12.5"', "12,50 €"), 3.0],
        ["day", cell("date", 'date-value="2023-03-15"', "15.03.23"), 4.0],
        ["twice", cell("float", 'value="7"', "007", 'table:number-columns-repeated="2"')],
        ["noted", ('office:value-type="float" office:value="3"', f"{note}<text:p>3.0</text:p>"), 1],
        ["error", ('calcext:value-type="error"', "<text:p>#N/A</text:p>"), 5.0],
        ["formula", ('table:formula="of:=1+1"', ""), 6.0],
    ]
    file = read(tmp_path, ods(rows))
    shown = [("plz", "01067"), ("share", "12,5 %"), ("price", "12,50 €"), ("day", "15.03.23")]
    assert pairs(file) == [*shown, ("twice", "007"), ("noted", "3.0")]
    assert [e.columns["n"] for e in file.examples] == ["1", "2", "3", "4", "007", "1"]
    assert file.bad_rows == (
        (8, "cell B8 of the sheet 'S' holds the error #N/A"),
        (9, f"cell B9 of the sheet 'S' {NOT_STORED}"),
    )
    assert not file.note


def test_formats_that_cannot_be_known_are_said(tmp_path):
    """A workbook whose styles are missing stands for .xls and .xlsb, which do not tell them."""
    plain = xlsx({"S": [["prompt", "answer"], ["a", "1"]]})
    for answer, noted in ((5.0, True), ("5", False)):
        whole = zipfile.ZipFile(io.BytesIO(xlsx({"S": [["prompt", "answer"], ["a", answer]]})))
        parts = {name: whole.read(name).decode() for name in whole.namelist()}
        del parts["xl/styles.xml"]
        file = read(tmp_path, zipped(parts))
        assert pairs(file) == [("a", "5")]
        assert ("without the formats of their cells" in file.note) == noted
    assert not read(tmp_path, plain).note


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

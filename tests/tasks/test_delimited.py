"""Tables of text as programs and people write them: the same rows, or what is amiss is said."""

import csv
import io

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.files import Wanted, read_examples
from t2local.tasks.tables import read_rows
from tests.tasks.workbook_files import xlsx

PAIRS = [(f'Say "{word}", in capitals', word.upper()) for word in ("one", "two", "six", "ten")]
PAIRS += [(f"Do {n} birds sing?", f"they do, all {n}") for n in range(2, 5)]
HEADER = ("question", "answer")


def table(rows, delimiter=",", end="\n"):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    return text.getvalue()


def quoted(text, mark, inside):
    return mark + text.replace(mark, inside) + mark


def all_quoted(mark, inside):
    rows = [HEADER, *PAIRS]
    return "".join(",".join(quoted(cell, mark, inside) for cell in row) + "\n" for row in rows)


def indexed(name, first):
    rows = [(first + n, *pair) for n, pair in enumerate(PAIRS)]
    return table([(name, *HEADER), *rows])


PLAIN = table([HEADER, *PAIRS])
SHAPES = {
    "plain": PLAIN,
    "semicolons": table([HEADER, *PAIRS], ";"),
    "bars": table([HEADER, *PAIRS], "|"),
    "tabs": table([HEADER, *PAIRS], "\t"),
    "old macintosh": table([HEADER, *PAIRS], end="\r"),
    "windows": table([HEADER, *PAIRS], end="\r\n"),
    "mixed ends": table([HEADER, *PAIRS[:3]], end="\r\n") + table(PAIRS[3:], end="\n"),
    "excel's line": "sep=;\r\n" + table([HEADER, *PAIRS], ";", "\r\n"),
    "excel's line for commas": "sep=,\n" + PLAIN,
    "excel's line, quoted": '"sep=;"\n' + table([HEADER, *PAIRS], ";"),
    "excel's line for tabs": "SEP=\\t\n" + table([HEADER, *PAIRS], "\t"),
    "a mark before excel's line": "\ufeffsep=;\r\n" + table([HEADER, *PAIRS], ";", "\r\n"),
    "quotes doubled": all_quoted('"', '""'),
    "quotes after backslashes": all_quoted('"', '\\"'),
    "single quotes": all_quoted("'", "''"),
    "an index": indexed("", 0),
    "an index from one": indexed("", 1),
    "an index of names": table([("", *HEADER), *((f"row {i}", *p) for i, p in enumerate(PAIRS))]),
    "a title": "FAQ export 2024-03-01,\n" + PLAIN,
    "a title alone": "FAQ export\n" + PLAIN,
    "titles and a blank line": "FAQ\nmade by Ann,\n,\n" + PLAIN,
    "a remark": "# exported by shop 2.1\n" + PLAIN,
    "a title before semicolons": "Umfrage 2024\n\n" + table([HEADER, *PAIRS], ";"),
    "a remark with commas": "# made by a tool, on Monday, for you\n" + PLAIN,
    "a header marked as one": "#" + PLAIN,
    "markdown": "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n"
        for row in (HEADER, ("---", ":-:"), *PAIRS)
    ),
    "R's row numbers": PLAIN.splitlines()[0]
    + "\n"
    + "".join(f"{n},{line}\n" for n, line in enumerate(PLAIN.splitlines()[1:], 1)),
    "a space after each comma": all_quoted('"', '""').replace('","', '", "'),
    "blank lines": PLAIN.replace("\n", "\n\n"),
}


def written(folder, text, name="rows.csv"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_of_writing_a_table_gives_the_same_rows(tmp_path, shape):
    file = read_examples(written(tmp_path, SHAPES[shape]))
    assert [(e.prompt, e.answer) for e in file.examples] == PAIRS
    assert not file.bad_rows


NOTED = {
    "an index": "only counts the rows and is left out",
    "R's row numbers": "only counts the rows and is left out",
    "an index of names": "without a name is left out",
    "a title": "1 row stands above the header and is left out: 'FAQ export 2024-03-01'",
    "titles and a blank line": "2 rows stand above the header",
}


@pytest.mark.parametrize("shape", NOTED)
def test_what_is_left_out_is_said(tmp_path, shape):
    assert NOTED[shape] in read_rows(written(tmp_path, SHAPES[shape])).note


def test_rows_are_counted_with_what_stands_above_them(tmp_path):
    read = read_rows(written(tmp_path, "FAQ\n\n" + table([HEADER, PAIRS[0], ("a", "b", "c")])))
    assert [row.number for row in read.rows] == [4]
    assert [number for number, _ in read.bad] == [5]


def test_a_sheet_may_have_a_title_and_an_index_too(tmp_path):
    cells = [["FAQ export"], ["", *HEADER], *([n, *pair] for n, pair in enumerate(PAIRS))]
    path = tmp_path / "rows.xlsx"
    path.write_bytes(xlsx({"S": cells}))
    file = read_examples(path)
    assert [(e.prompt, e.answer) for e in file.examples] == PAIRS
    assert "above the header" in file.note
    assert "only counts" in file.note


WITHOUT_HEADER = {
    "questions": [("What is up?", "the sky"), ("What is down?", "the sea"), ("Who?", "me")],
    "chinese": [("天空是什么颜色？", "蓝"), ("草是什么颜色？", "绿"), ("雪是什么颜色？", "白")],
    "kinds": [("it broke", "bad"), ("it works", "good"), ("it fell", "bad"), ("nice", "good")],
    "one beginning": [("capital of Peru", "Lima"), ("capital of Mali", "Bamako")] * 2,
    "texts": [("word " * 30 + str(n), f"w{n}") for n in range(4)],
}


@pytest.mark.parametrize("rows", WITHOUT_HEADER.values(), ids=WITHOUT_HEADER)
def test_a_first_row_that_is_a_row_is_no_header(tmp_path, rows):
    path = written(tmp_path, table(rows))
    with pytest.raises(T2LocalError, match="looks like a row and not like names") as caught:
        read_examples(path)
    assert "add a header" in str(caught.value)
    file = read_examples(path, Wanted("", "column 1", "column 2", without_header=True))
    assert [(e.prompt, e.answer) for e in file.examples] == rows
    assert file.columns == ("column 1", "column 2")


@pytest.mark.parametrize("before", ["{}: ", "{}\t", "2024-01-0{} INFO "])
def test_objects_with_something_before_them_have_no_header(tmp_path, before):
    texts = [f'{{"prompt": "How many legs have {n} cats?", "answer": "{n}"}}' for n in range(1, 7)]
    rows = [before.format(n) + text for n, text in enumerate(texts, 1)]
    with pytest.raises(T2LocalError, match="looks like a row"):
        read_examples(written(tmp_path, "\n".join(rows)))


def test_anki_notes_have_no_header(tmp_path):
    notes = "#separator:tab\n#html:true\n" + table([("cat", "Katze"), ("dog", "Hund")], "\t")
    read = read_rows(written(tmp_path, notes))
    assert [tuple(row.cells.values()) for row in read.rows] == [("cat", "Katze"), ("dog", "Hund")]
    assert [row.number for row in read.rows] == [3, 4]


def test_names_that_nobody_knows_are_said_to_be_taken_as_names(tmp_path):
    read = read_rows(written(tmp_path, table([("cat", "Katze"), ("dog", "Hund")])))
    assert read.note == "The first row is taken as the names of the columns: 'cat', 'Katze'."


def test_each_row_may_write_its_quotes_in_its_own_way(tmp_path):
    text = 'question,answer\n"say \\"a\\", please",A\n"in ""C:\\new\\"" too","B\\"\n'
    rows = [tuple(row.cells.values()) for row in read_rows(written(tmp_path, text)).rows]
    assert rows == [('say "a", please', "A"), ('in "C:\\new\\" too', "B\\")]


def test_a_column_without_a_name_counts_only_where_it_does(tmp_path):
    read = read_rows(written(tmp_path, table([("", *HEADER), (3, "a?", "b"), (9, "c?", "d")])))
    assert read.note == "A column without a name is left out; name it in the header to use it."


HEADERS = {
    "a form's with its times": [
        ("Timestamp", "What do you ask?"),
        ("1.2.24 9:00", "Who?"),
        ("1.2.24 9:01", "Why?"),
    ],
    "a form's questions": [("What is your name?", "Why?"), ("Ann", "fun"), ("Ben", "work")],
    "years": [("1999", "2000"), ("4", "7"), ("5", "8")],
    "russian": [("вопрос", "ответ"), ("кто?", "я"), ("что?", "ты")],
    "usual names that repeat": [("question", "answer"), ("question", "a"), ("question", "a")],
}


@pytest.mark.parametrize("rows", HEADERS.values(), ids=HEADERS)
def test_a_header_is_one_in_any_words(tmp_path, rows):
    assert tuple(read_rows(written(tmp_path, table(rows))).rows[0].cells) == rows[0]


def test_one_column_of_texts_with_commas_is_one_column(tmp_path):
    texts = ["Hello, you", "Well, well", "One, two"]
    read = read_rows(written(tmp_path, "prompt\n" + "\n".join(f'"{text}"' for text in texts)))
    assert [row.cells for row in read.rows] == [{"prompt": text} for text in texts]
    read = read_rows(written(tmp_path, "prompt\n" + "\n".join(texts)))
    assert not read.rows
    assert [reason for _, reason in read.bad] == ["2 cells, but the header has 1"] * 3


def test_a_backslash_that_hides_nothing_stays(tmp_path):
    rows = [("C:\\new\\table", 'it is \\"so\\"'), ("\\frac{1}{2}", "half")]
    read = read_rows(written(tmp_path, table([HEADER, *rows])))
    assert [tuple(row.cells.values()) for row in read.rows] == rows


def test_an_apostrophe_is_no_quote(tmp_path):
    rows = [("'Tis so", "yes"), ("rock 'n' roll", "'no'"), ("it's, well", "ok")]
    read = read_rows(written(tmp_path, table([HEADER, *rows])))
    assert [tuple(row.cells.values()) for row in read.rows] == rows


def test_decimal_commas_and_leading_zeros_stay_as_they_are(tmp_path):
    rows = [("Brot?", "2,50"), ("Auto?", "12.500,00"), ("PLZ?", "01067")]
    file = read_examples(written(tmp_path, table([HEADER, *rows], ";")))
    assert [(e.prompt, e.answer) for e in file.examples] == rows

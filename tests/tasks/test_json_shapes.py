"""JSON in every shape: the same rows, whatever wrote them; what was decided is said."""

import json

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.files import read_examples
from t2local.tasks.tables import read_rows

PAIRS = [(f"How many legs have {n} cats?", str(4 * n)) for n in range(2, 8)]
ROWS = [{"question": question, "answer": answer} for question, answer in PAIRS]
QUESTIONS, ANSWERS = map(list, zip(*PAIRS, strict=True))
LISTS = [["question", "answer"], *map(list, PAIRS)]


def lines(values, end="\n"):
    return end.join(json.dumps(value) for value in values)


def by_place(values):
    return {str(place): value for place, value in enumerate(values)}


SHAPES = {
    "a list": json.dumps(ROWS),
    "a list over lines": json.dumps(ROWS, indent=2),
    "a list under a name": json.dumps({"version": 1, "data": ROWS}),
    "a list under a name of its own": json.dumps({"version": "2", "quiz": ROWS}),
    "pandas' default under a name": json.dumps(
        {"data": {"question": by_place(QUESTIONS), "answer": by_place(ANSWERS)}}
    ),
    "rows by an id under a name": json.dumps({"data": {f"q{n}": r for n, r in enumerate(ROWS)}}),
    "an answer of a server": json.dumps({"status": "ok", "result": {"data": ROWS}}),
    "a list five names down": json.dumps({"a": {"b": {"c": {"d": {"edges": ROWS}}}}}),
    "names and rows apart": json.dumps({"header": LISTS[0], "rows": LISTS[1:]}),
    "names of fields and rows apart": json.dumps(
        {"fields": [{"id": "question"}, {"id": "answer"}], "records": LISTS[1:]}
    ),
    "columns beside a title": json.dumps(
        {"title": "Legs", "about": {"year": 2}, "question": QUESTIONS, "answer": ANSWERS}
    ),
    "columns of dates": json.dumps(
        {
            "question": {f"2024-01-0{n}": q for n, q in enumerate(QUESTIONS)},
            "answer": {f"2024-01-0{n}": a for n, a in enumerate(ANSWERS)},
        }
    ),
    "lists one after the other": json.dumps(ROWS[:2]) + json.dumps(ROWS[2:]),
    "lists over lines": json.dumps(ROWS[:2], indent=1) + "\n" + json.dumps(ROWS[2:], indent=1),
    "a list of objects a line": lines([ROWS[:3], ROWS[3:]]),
    "a list of one a line": lines([[row] for row in ROWS]),
    "a list two names down": json.dumps({"data": {"rows": ROWS}}),
    "one row": lines(ROWS),
    "windows ends": lines(ROWS, "\r\n"),
    "mac ends": lines(ROWS, "\r"),
    "blank lines": lines(ROWS, "\n\n"),
    "a comma after each": lines(ROWS, ",\n") + ",",
    "record separators": "\x1e" + lines(ROWS, "\n\x1e"),
    "a mark in each": "\ufeff" + lines(ROWS, "\n\ufeff"),
    "one after the other": lines(ROWS, ""),
    "one after the other over lines": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "over lines with commas": ",\n".join(json.dumps(row, indent=2) for row in ROWS),
    "pandas' default": json.dumps({"question": by_place(QUESTIONS), "answer": by_place(ANSWERS)}),
    "pandas' index": json.dumps(by_place(ROWS)),
    "pandas' split": json.dumps(
        {"columns": LISTS[0], "index": list(range(6)), "data": list(map(list, PAIRS))}
    ),
    "pandas' table": json.dumps({"schema": {"fields": [{"name": "question"}]}, "data": ROWS}),
    "columns": json.dumps({"question": QUESTIONS, "answer": ANSWERS}),
    "columns under a name": json.dumps({"data": {"question": QUESTIONS, "answer": ANSWERS}}),
    "a list three names down": json.dumps({"result": {"payload": {"items": ROWS}}}),
    "rows by an id": json.dumps({f"q-{n}": row for n, row in enumerate(ROWS)}),
    "lists": json.dumps(LISTS),
    "a list a line": lines(LISTS),
    "the hub's viewer": json.dumps(
        {"features": [], "rows": [{"row_idx": n, "row": row} for n, row in enumerate(ROWS)]}
    ),
    "a comma too many": json.dumps(ROWS, indent=1)[:-2] + ",\n]",
    "commas too many": json.dumps(ROWS).replace("}", ",}").replace("]", ",]"),
    "python's list": repr(ROWS),
    "python's objects": "\n".join(map(repr, ROWS)),
    "questions with their answers": json.dumps(dict(PAIRS)),
}


def written(folder, text, name="rows.json"):
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_rows(tmp_path, shape):
    file = read_examples(written(tmp_path, SHAPES[shape]))
    assert [(e.prompt, e.answer) for e in file.examples] == PAIRS
    assert not file.bad_rows


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "Inns",
            "paragraphs": [
                {
                    "context": f"The inn has {n} rooms.",
                    "qas": [
                        {
                            "id": str(n),
                            "question": "How many rooms has it?",
                            "answers": [{"text": str(n), "answer_start": 12}],
                        }
                    ],
                }
                for n in range(6)
            ],
        }
    ],
}


def test_paragraphs_give_a_row_a_question_with_its_passage(tmp_path):
    file = read_examples(written(tmp_path, json.dumps(SQUAD)))
    assert [e.answer for e in file.examples] == [str(n) for n in range(6)]
    assert "The inn has 3 rooms." in file.examples[3].prompt


def test_paragraphs_without_a_version_are_the_same(tmp_path):
    file = read_examples(written(tmp_path, json.dumps(SQUAD["data"])))
    assert [e.answer for e in file.examples] == [str(n) for n in range(6)]


def test_lists_of_turns_are_a_talk_each(tmp_path):
    talks = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS
    ]
    for text in (lines(talks), json.dumps(talks)):
        file = read_examples(written(tmp_path, text))
        assert [(e.prompt, e.answer) for e in file.examples] == PAIRS


@pytest.mark.parametrize("key", ["data", "part"])
def test_rows_far_inside_of_a_document_are_refused_at_once(tmp_path, key):
    text = f'{{"{key}": ' * 900 + json.dumps(ROWS) + "}" * 900
    with pytest.raises(T2LocalError):
        read_examples(written(tmp_path, text))


ABOVE = {
    "a remark": ("// quiz of today, [1]\n", ""),
    "remarks": ("# mine\n/* and\n * theirs **/\n", "\n"),
    "a fence": ("```json\n", "\n```\n"),
    "a variable": ("data = ", ""),
    "a constant": ("const quiz = ", ";\n"),
    "a module": ("module.exports = ", ";"),
    "a default": ("export default ", ";\n"),
    "a call": ("callback(", ");"),
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(("above", "below"), ABOVE.values(), ids=ABOVE)
def test_what_stands_around_a_document_is_left_out_and_said(tmp_path, above, below, indent):
    file = read_examples(written(tmp_path, above + json.dumps(ROWS, indent=indent) + below))
    assert [(e.prompt, e.answer) for e in file.examples] == PAIRS
    assert "around the JSON is left out" in file.note


def test_damage_below_a_remark_is_refused_as_damage(tmp_path):
    text = "// mine\n" + json.dumps(ROWS, indent=1)[:-30]
    with pytest.raises(T2LocalError, match=r"the middle of .*, counted from below '// mine'"):
        read_rows(written(tmp_path, text))


@pytest.mark.parametrize("end", ["", "\n"])
def test_objects_in_a_fence_are_counted_by_their_lines(tmp_path, end):
    read = read_rows(written(tmp_path, "```\n" + lines(ROWS) + "\n```" + end))
    assert [row.number for row in read.rows] == [2, 3, 4, 5, 6, 7]
    assert [row.cells for row in read.rows] == ROWS


@pytest.mark.parametrize("text", ["# [1]\nquestion,answer\nx,y\n", "f(x) = ,g\n[1],y\n"])
def test_a_table_below_a_remark_is_a_table(tmp_path, text):
    assert [list(row.cells.values())[-1] for row in read_rows(written(tmp_path, text)).rows] == [
        "y"
    ]


@pytest.mark.parametrize("sign", ["\n", "\t", "\r\n"])
@pytest.mark.parametrize("between", ["\n", ",\n"])
def test_line_ends_and_tabs_inside_of_texts_are_part_of_them(tmp_path, sign, between):
    pairs = [(f"first{sign}second {n}", f"a{n}") for n in range(6)]
    objects = between.join(f'{{"question": "{q}", "answer": "{a}"}}' for q, a in pairs)
    for text in (objects, f"[{objects}]" if "," in between else objects):
        file = read_examples(written(tmp_path, text))
        assert [(e.prompt, e.answer) for e in file.examples] == pairs
        assert "were taken as part of them" in file.note


@pytest.mark.parametrize("short", [[0], [3], [0, 5], [1, 2]])
def test_objects_over_lines_are_read_though_some_stand_in_one(tmp_path, short):
    texts = [json.dumps(row, indent=None if n in short else 2) for n, row in enumerate(ROWS)]
    read = read_rows(written(tmp_path, "\n".join(texts)))
    assert ([row.cells for row in read.rows], read.bad) == (ROWS, [])


def test_a_text_that_is_never_closed_takes_no_other_row_in(tmp_path):
    texts = [json.dumps(row, indent=1) for row in ROWS]
    texts[2] = texts[2].replace('cats?"', "cats?")
    read = read_rows(written(tmp_path, "\n".join(texts)))
    assert [row.cells for row in read.rows] == ROWS[:2] + ROWS[3:]
    assert [number for number, _ in read.bad] == [9]


def test_the_end_of_file_of_old_systems_is_no_row(tmp_path):
    read = read_rows(written(tmp_path, lines(ROWS) + "\n\x1a"))
    assert ([row.cells for row in read.rows], read.bad) == (ROWS, [])


NOTED = {
    "beside": ("columns beside a title", "left out: 'title', 'about'"),
    "comma": ("a comma too many", "left out"),
    "python": ("python's objects", "Python's notation"),
    "pairs": ("questions with their answers", "as a prompt"),
}


@pytest.mark.parametrize(("shape", "word"), NOTED.values(), ids=NOTED)
def test_what_was_decided_is_said(tmp_path, shape, word):
    assert word in read_rows(written(tmp_path, SHAPES[shape])).note


def test_of_several_parts_the_one_to_train_on_is_read_and_the_others_are_named(tmp_path):
    text = json.dumps({"test": ROWS[:2], "train": ROWS[2:]})
    read = read_rows(written(tmp_path, text))
    assert [row.cells for row in read.rows] == ROWS[2:]
    assert read.note == "Only the part 'train' is read, not 'test'."


@pytest.mark.parametrize("others", [ROWS[:2], {"question": QUESTIONS[:2], "answer": ANSWERS[:2]}])
def test_parts_may_be_columns(tmp_path, others):
    text = json.dumps({"train": {"question": QUESTIONS, "answer": ANSWERS}, "test": others})
    read = read_rows(written(tmp_path, text))
    assert [row.cells for row in read.rows] == ROWS
    assert read.note == "Only the part 'train' is read, not 'test'."


def test_a_name_that_stands_twice_is_said(tmp_path):
    read = read_rows(written(tmp_path, '{"prompt": "a", "answer": "1", "answer": "2"}\n{"a": 1}'))
    assert read.rows[0].cells == {"prompt": "a", "answer": "2"}
    assert "'answer' stands twice" in read.note


def test_missing_numbers_are_empty_cells_and_not_the_word_nan(tmp_path):
    text = '{"question": "1 + 1?", "answer": NaN}\n{"question": "1 + 2?", "answer": 3}'
    file = read_examples(written(tmp_path, text))
    assert [e.answer for e in file.examples] == ["3"]
    assert file.bad_rows == ((1, "the answer is empty"),)


@pytest.mark.parametrize("odd", "\u2028\u2029\x85\x0b\x0c")
def test_no_other_sign_ends_a_line(tmp_path, odd):
    texts = [f"first{odd}second {n}" for n in range(4)]
    rows = [{"prompt": text, "answer": "a"} for text in texts]
    text = "\n".join(json.dumps(row, ensure_ascii=odd < " ") for row in rows)
    assert [e.prompt for e in read_examples(written(tmp_path, text)).examples] == texts


def test_long_numbers_keep_all_their_digits(tmp_path):
    text = '{"question": "2 ** 70?", "answer": 1180591620717411303424}\n' * 2
    assert read_examples(written(tmp_path, text)).examples[0].answer == str(2**70)


@pytest.mark.parametrize(
    "number", ["1e400", "-1E+999", "1e-400", "3.14159265358979323846", "1234567890123456.789"]
)
def test_a_number_that_no_float_can_hold_stays_as_it_is_written(tmp_path, number):
    text = f'{{"question": "Which one?", "answer": {number}}}\n' * 2
    assert [e.answer for e in read_examples(written(tmp_path, text)).examples] == [number] * 2


@pytest.mark.parametrize("number", ["2.5", "-0.1", "0.30000000000000004", "1e5", "0.0", "1.50"])
def test_every_other_number_is_a_number(tmp_path, number):
    text = f'{{"question": "Which one?", "answer": {number}}}\n' * 2
    assert read_rows(written(tmp_path, text)).rows[0].cells["answer"] == float(number)


def test_a_number_that_is_too_long_to_read_is_named_as_that(tmp_path):
    text = f'{{"a": {"7" * 5000}}}\n' + lines(ROWS)
    assert read_rows(written(tmp_path, text)).bad == [
        (1, "no valid JSON (a number has more than 4,300 digits)")
    ]


def test_a_damaged_object_is_named_by_its_line_and_the_others_are_read(tmp_path):
    texts = [json.dumps(row, indent=2) for row in ROWS]
    texts[2] = texts[2].replace('"answer":', "answer:")
    read = read_rows(written(tmp_path, "\n".join(texts)))
    assert [row.cells for row in read.rows] == ROWS[:2] + ROWS[3:]
    ((line, reason),) = read.bad
    assert (line, reason[:13]) == (9, "no valid JSON")


def test_a_line_cut_short_is_named_and_the_others_are_read(tmp_path):
    read = read_rows(written(tmp_path, lines(ROWS)[:-5]))
    assert [row.cells for row in read.rows] == ROWS[:-1]
    assert [number for number, _ in read.bad] == [6]


REFUSED = {
    "a comment": ('[\n  // mine\n  {"prompt":\n"a"}\n]', "comment stands in line 2"),
    "cut short": (json.dumps(ROWS, indent=1)[:-30], "ends in the middle"),
    "uneven columns": ('{"question": ["a", "b"], "answer": ["c"]}', "different lengths"),
    "lists without names": (json.dumps(LISTS[1:]), "does not name the columns"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_cause(tmp_path, text, words):
    with pytest.raises(T2LocalError, match=words):
        read_rows(written(tmp_path, text))


def test_a_single_row_is_no_table_of_its_choices(tmp_path):
    row = {
        "question": "Which flies?",
        "choices": [{"label": "A", "text": "a stone"}, {"label": "B", "text": "a bird"}],
        "answerKey": "B",
    }
    assert [r.cells for r in read_rows(written(tmp_path, json.dumps(row))).rows] == [row]


def test_columns_in_parts_are_read_as_one_part_and_the_others_named(tmp_path):
    part = {"question": QUESTIONS, "answer": ANSWERS}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": part, "test": {"question": ["x"], "answer": ["y"]}}))
    file = read_examples(path)
    assert [(e.prompt, e.answer) for e in file.examples] == PAIRS
    assert "Only the part 'train' is read, not 'test'." in file.note


def test_two_rows_by_names_of_their_own_are_told_from_columns_by_what_is_usual(tmp_path):
    path = tmp_path / "a.json"
    columns = {"question": {"x": "a", "y": "b"}, "answer": {"x": "1", "y": "2"}}
    path.write_text(json.dumps(columns))
    assert [(e.prompt, e.answer) for e in read_examples(path).examples] == [("a", "1"), ("b", "2")]


def test_a_number_too_large_for_a_float_stays_as_it_is_written(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a", "answer": 1e400}\n{"question": "b", "answer": 1.5}\n')
    assert [e.answer for e in read_examples(path).examples] == ["1e400", "1.5"]

import base64
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from t2local.pictures import open_picture
from t2local.tasks.datasets import split_rows
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example, split_held_out, too_long
from tests.pictures import painted

ROWS = [Example(f"question {i % 15}", str(i)) for i in range(20)]  # five prompts come twice


def test_no_prompt_is_on_both_sides_and_no_row_is_lost():
    rest, held_out = split_held_out(ROWS, 0.2, seed=1)
    assert not {e.prompt for e in rest} & {e.prompt for e in held_out}
    assert len(rest) + len(held_out) == len(ROWS)
    assert held_out


def test_the_seed_decides():
    assert split_held_out(ROWS, 0.2, 1) == split_held_out(ROWS, 0.2, 1)
    assert split_held_out(ROWS, 0.2, 1) != split_held_out(ROWS, 0.2, 2)


def test_at_least_one_row_is_on_each_side():
    two = ROWS[:2]
    assert [len(part) for part in split_held_out(two, 0.01)] == [1, 1]
    assert [len(part) for part in split_held_out(two, 0.99)] == [1, 1]


def test_a_large_share_leaves_rows_to_learn_from_and_to_check_on():
    ten = [Example(f"question {i}", str(i)) for i in range(10)]
    parts = split_rows("ten", ten, held_out_share=0.9)
    assert min(len(parts.train), len(parts.validation)) >= 1
    assert len(parts.held_out) == 8


def test_the_places_of_rows_above_the_most_are_given_in_order():
    rows = [Example("x" * length, "") for length in (3, 5, 4, 9)]
    assert too_long(rows, lambda row: len(row.prompt), 4) == [1, 3]
    assert too_long(rows, lambda row: len(row.prompt), 9) == []
    assert too_long([], lambda row: 1 / 0, 0) == []


# --- A column of pictures: every form a file may hold, and rows whose picture cannot be read.


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def row(**cells):
    return {"prompt": "what colour?", "answer": "red", **cells}


@pytest.fixture
def red(tmp_path):
    return Path(painted(tmp_path, "red"))


def test_paths_are_relative_to_the_data_file(tmp_path, red):
    forms = ["red.png", "./red.png", base64.b64encode(red.read_bytes()).decode()]
    file = read_examples(written(tmp_path, [row(image=form) for form in forms]))
    assert not file.bad_rows
    for example in file.examples:
        (picture,) = example.pictures
        assert open_picture(picture).getpixel((0, 0)) == (255, 0, 0)


def test_a_parquet_file_holds_its_pictures(tmp_path, red):
    content = red.read_bytes()
    table = {"prompt": ["a?", "b?"], "answer": ["x", "y"]}
    bare = pyarrow.table({**table, "image": [content, content]})
    stored = [{"bytes": content, "path": "gone.png"}, {"bytes": None, "path": "red.png"}]
    as_datasets = pyarrow.table({**table, "image": stored})
    for data in (bare, as_datasets):
        pyarrow.parquet.write_table(data, tmp_path / "rows.parquet")
        file = read_examples(tmp_path / "rows.parquet")
        assert not file.bad_rows
        assert all(open_picture(e.pictures[0]).size == (40, 30) for e in file.examples)


def test_a_picture_that_cannot_be_read_makes_a_bad_row(tmp_path, red):
    (tmp_path / "broken.png").write_bytes(red.read_bytes()[:40])
    cells = ["red.png", "gone.png", "broken.png", 7, ""]
    file = read_examples(written(tmp_path, [row(image=cell) for cell in cells]))
    assert [bad.number for bad in file.bad_rows] == [2, 3, 4]
    reasons = " ".join(bad.reason for bad in file.bad_rows)
    assert "'gone.png' is not taken" in reasons
    assert "'broken.png' is no picture" in reasons
    assert "int" in reasons
    assert [len(example.pictures) for example in file.examples] == [1, 0]


def test_several_pictures_of_a_row_keep_their_order(tmp_path, red):
    painted(tmp_path, "blue")
    file = read_examples(written(tmp_path, [row(images=["blue.png", "red.png"])]))
    names = [Path(picture).name for picture in file.examples[0].pictures]
    assert names == ["blue.png", "red.png"]


def test_one_question_about_two_pictures_is_no_duplicate(tmp_path, red):
    painted(tmp_path, "blue")
    rows = [row(image="red.png"), row(image="blue.png"), row(image="red.png")]
    assert read_examples(written(tmp_path, rows)).duplicates == ((3, 1),)


def test_a_picture_is_never_on_both_sides_of_a_split(tmp_path):
    colours = ("red", "blue", "green", "yellow", "black", "white")
    for colour in colours:
        painted(tmp_path, colour)
    rows = [row(image=f"{c}.png", prompt=f"{n}?") for c in colours for n in range(3)]
    examples = read_examples(written(tmp_path, rows)).examples
    rest, held_out = split_held_out(examples, 0.3)
    assert len(rest) + len(held_out) == 18
    assert {e.pictures for e in rest}.isdisjoint({e.pictures for e in held_out})
    assert len(held_out) % 3 == 0

"""Choices as data sets and people write them: texts, and the place of the right one."""

import json

import pytest

from t2local.evaluation.benchmark_tasks import question_set
from t2local.tasks.files import UnusableRows, read_examples
from t2local.tasks.uploads import suggest_reward, write_rows
from tests.tasks.test_columns import one, read

TEXTS = ["Oslo", "Paris", "Bern", "Riga"]
ROW = {"question": "Capital of France?"}
LETTERS = ["A", "B", "C", "D"]
CHOOSE = {
    "ARC": ({**ROW, "choices": {"text": TEXTS, "label": LETTERS}, "answerKey": "B"}, "B"),
    "ARC in numbers": (
        {**ROW, "choices": {"text": TEXTS, "label": ["1", "2", "3", "4"]}, "answerKey": "2"}, "B"),
    "a list of objects": (
        {**ROW, "choices": [{"label": x, "text": t} for x, t in zip(LETTERS, TEXTS, strict=True)],
         "answerKey": "B"}, "B"),
    "MMLU": ({**ROW, "choices": TEXTS, "answer": 1, "subject": "geography"}, "Paris"),
    "an index as text": ({**ROW, "options": TEXTS, "answer": "1"}, "Paris"),
    "an index as a decimal": ({**ROW, "options": TEXTS, "label": "1.0"}, "Paris"),
    "its text": ({**ROW, "choices": TEXTS, "answer": "paris "}, "Paris"),
    "its letter": ({**ROW, "options": TEXTS, "answer": "(b)"}, "B"),
    "its letter and text": ({**ROW, "options": TEXTS, "answer": "B. Paris"}, "B"),
    "semicolons": ({**ROW, "choices": "Oslo;Paris;Bern;Riga", "answer": "Paris"}, "Paris"),
    "bars": ({**ROW, "choices": "Oslo | Paris | Bern | Riga", "answer": "Paris"}, "Paris"),
    "JSON in a cell": ({**ROW, "choices": json.dumps(TEXTS), "answer": "B"}, "B"),
    "Python in a cell": ({**ROW, "choices": str(TEXTS), "answer": "B"}, "B"),
    "numpy in a cell": ({**ROW, "choices": "['Oslo' 'Paris' 'Bern'\n 'Riga']", "answer": 1},
                        "Paris"),
    "letters in a cell": ({**ROW, "options": "A. Oslo\nB. Paris\nC. Bern\nD. Riga",
                           "answer": "B"}, "B"),
    "MathQA": ({**ROW, "options": "a ) Oslo , b ) Paris , c ) Bern , d ) Riga", "correct": "b"},
               "B"),
    "letters in the texts": (
        {**ROW, "options": ["A)Oslo", "B)Paris", "C)Bern", "D)Riga"], "correct": "B"}, "B"),
    "an object": ({**ROW, "options": dict(zip(LETTERS, TEXTS, strict=True)), "answer_idx": "B",
                   "answer": "Paris"}, "Paris"),
    "A to D": ({**ROW, **dict(zip(LETTERS, TEXTS, strict=True)), "answer": "B"}, "B"),
    "option_a": ({**ROW, **{f"option_{x.lower()}": t for x, t in zip(LETTERS, TEXTS, strict=True)},
                  "answer": "option_b"}, "B"),
    "MedMCQA": ({**ROW, **{f"op{x.lower()}": t for x, t in zip(LETTERS, TEXTS, strict=True)},
                 "cop": 1}, "Paris"),
    "choice1": ({**ROW, **{f"choice{i}": t for i, t in enumerate(TEXTS, 1)}, "label": 1}, "Paris"),
    "SWAG": ({"sent1": "He", "question": ROW["question"],
              **{f"ending{i}": t for i, t in enumerate(TEXTS)}, "label": 1}, "Paris"),
    "HellaSwag": ({"ind": 4, "ctx": ROW["question"], "endings": TEXTS, "label": "1"}, "Paris"),
    "TruthfulQA": (
        {**ROW, "mc1_targets": {"choices": TEXTS, "labels": [0, 1, 0, 0]}}, "Paris"),
    "BIG-bench": (
        {"input": ROW["question"], "target_scores": {"Oslo": 0, "Paris": 1, "Bern": 0, "Riga": 0}},
        "Paris"),
    "ReClor": ({**ROW, "answers": TEXTS, "label": 1}, "Paris"),
}  # fmt: skip


@pytest.mark.parametrize("shape", CHOOSE)
def test_choices_are_texts_and_the_place_of_the_right_one(shape, tmp_path):
    row, answer = CHOOSE[shape]
    file = read(tmp_path, [row] * 3)
    assert not file.bad_rows
    example = file.examples[0]
    assert example.prompt == ROW["question"]
    assert example.columns["choices"] == TEXTS
    assert example.columns["label"] == 1
    assert example.answer == answer
    assert suggest_reward(file.examples).reward == "choice"
    assert len(file.found) == len(row)
    (again,) = read_examples(write_rows([example], "kept")).examples
    assert again == example


def test_winogrande_counts_from_one_and_piqa_from_zero(tmp_path):
    wino = [{"sentence": f"The _ is big {i}.", "option1": "cup", "option2": "jug", "answer": "1"}
            for i in range(3)]  # fmt: skip
    assert [e.answer for e in read(tmp_path, wino).examples] == ["cup"] * 3
    piqa = [{"goal": f"open it {i}", "sol1": "push", "sol2": "pull", "label": 1} for i in range(3)]
    assert [e.answer for e in read(tmp_path, piqa).examples] == ["pull"] * 3


def test_rows_say_from_where_indices_are_counted(tmp_path):
    rows = [{**ROW, "options": TEXTS, "answer": i} for i in (1, 2, 4)]
    assert [e.answer for e in read(tmp_path, rows).examples] == ["Oslo", "Paris", "Riga"]
    rows[0]["answer"] = 0
    file = read(tmp_path, rows)
    assert [e.answer for e in file.examples] == ["Oslo", "Bern"]
    assert file.bad_rows == ((3, "the answer '4' is none of the choices"),)


def test_wrong_answers_get_the_right_one_at_a_place_of_the_rows_own(tmp_path):
    sciq = [{"question": f"q {i}?", "distractor1": f"x{i}", "distractor2": f"y{i}",
             "distractor3": f"z{i}", "correct_answer": f"r{i}"} for i in range(40)]  # fmt: skip
    file = read(tmp_path, sciq)
    places = [e.columns["label"] for e in file.examples]
    assert set(places) == {0, 1, 2, 3}
    assert all(e.columns["choices"][e.columns["label"]] == e.answer for e in file.examples)
    assert [e.columns["label"] for e in read(tmp_path, sciq).examples] == places
    trivia = {"question": "q?", "correct_answer": "r", "incorrect_answers": ["x", "y"]}
    assert sorted(one(tmp_path, trivia).columns["choices"]) == ["r", "x", "y"]


UNCHOSEN = {
    "none of them": ({**ROW, "choices": TEXTS, "answer": "Rome"}, "answer 'Rome' is none of the"),
    "no answer": ({**ROW, "choices": TEXTS, "answer": ""}, "the answer is empty"),
    "twice there": ({**ROW, "choices": ["Oslo", "Rome", "Oslo"], "answer": "Oslo"}, "fits several"),
    "two right": ({**ROW, "choices": TEXTS, "answer": ["Oslo", "Bern"]}, "2 choices are right"),
    "one choice": ({**ROW, "choices": ["Oslo"], "answer": "Oslo"}, "fewer than two choices"),
    "a gap": ({**ROW, "choices": ["Oslo", "", "Bern"], "answer": "Oslo"}, "choice 2 is empty"),
}


def test_a_row_that_does_not_say_which_is_right_is_refused(tmp_path):
    good = [{**ROW, "choices": TEXTS, "answer": "Paris"}] * 7
    file = read(tmp_path, [row for row, _ in UNCHOSEN.values()] + good)
    assert len(file.examples) == 7
    for (_, says), bad in zip(UNCHOSEN.values(), file.bad_rows, strict=True):
        assert says in bad.reason


def test_an_evaluation_takes_any_of_these_shapes(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(CHOOSE["ARC in numbers"][0]) + "\n" for _ in range(5)))
    (question, *_) = question_set(str(path)).questions
    assert question.example.columns["label"] == 1


def test_a_number_that_may_be_a_text_or_a_place_is_refused(tmp_path):
    rows = [{"question": "2 + 1?", "choices": ["1", "2", "3"], "answer": i} for i in (1, 2, 1)]
    with pytest.raises(UnusableRows, match="the answer '1' fits several choices"):
        read(tmp_path, rows)
    rows[0]["answer"] = 0
    file = read(tmp_path, rows)
    assert [e.columns["label"] for e in file.examples] == [0, 2, 1]


def test_one_damaged_cell_does_not_hide_the_sign(tmp_path):
    rows = [{**ROW, "choices": "Oslo;Paris", "answer": "Paris"}] * 4
    file = read(tmp_path, [*rows, {**ROW, "choices": "Paris", "answer": "Paris"}])
    assert len(file.examples) == 4
    assert file.bad_rows == ((5, "there are fewer than two choices"),)

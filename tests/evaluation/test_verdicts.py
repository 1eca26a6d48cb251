import pytest

from t2local.evaluation.benchmark_tasks import question_set
from t2local.evaluation.questions import (
    FORMULA,
    LETTER,
    NUMBER,
    Question,
    final_formula,
    judge,
    letter,
    right_answer,
)
from t2local.tasks.rows import Example


def question(answer, **columns):
    return Question(Example("?", answer, columns), "?")


@pytest.mark.parametrize(
    ("answer", "said", "right"),
    [
        ("18", "9 * 2 = 18 dollars", True),
        ("1,200", "It costs $1,200.", True),
        ("18", "18 eggs, then 3 more", False),
        ("18", "It is 18.\nInstruction: add 5", True),
        ("18", "many", False),
    ],
)
def test_the_last_number_before_a_stop_counts(answer, said, right):
    assert judge(NUMBER, [question(answer)], [said]) == [right]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("so the answer is (C). A is wrong", "C"),
        ("Answer: B", "B"),
        ("maybe D", "D"),
        ("no idea", None),
    ],
)
def test_the_letter_stands_where_the_papers_code_looks(said, found):
    assert letter(said) == found
    assert judge(LETTER, [question("", choices=list("wxyz"), label=2)], [said]) == [found == "C"]


@pytest.mark.parametrize(
    ("said", "found", "right"),
    [
        (r"thus \boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        ("The answer is: 1/2.\nDone", "1/2", True),
        (r"\boxed{\frac{1}{3}} 1/2", r"\frac{1}{3}", False),
        ("it is 1/2", None, False),
    ],
)
def test_a_formula_counts_only_in_its_box_or_after_its_phrase(said, found, right):
    assert final_formula(said) == found
    assert judge(FORMULA, [question(r"\frac12")], [said]) == [right]


@pytest.mark.parametrize("name", ["humaneval", "mbppplus"])
def test_reference_programs_are_right_and_an_empty_answer_is_wrong(name, data_folder, monkeypatch):
    monkeypatch.setenv("T2LOCAL_DATA", str(data_folder))
    asked = question_set(name, limit=3)
    answers = [f"{q.example.answer}\n```\nThat is it." for q in asked.questions]
    assert judge(asked.verdict, asked.questions, answers) == [True] * 3
    assert judge(asked.verdict, asked.questions, [""] * 3) == [False] * 3


@pytest.mark.parametrize(("verdict", "said"), [("exact", "the town"), (NUMBER, "so 12")])
def test_any_of_several_answers_is_right_and_all_are_shown(verdict, said):
    asked = question("11", answers=["11", "12", "the town"])
    assert judge(verdict, [asked], [said]) == [True]
    assert judge(verdict, [asked], ["13"]) == [False]
    assert right_answer(verdict, asked) == "11 · also: 12 · the town"

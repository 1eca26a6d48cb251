import re

from t2local.training.curves import Curves
from t2local.ui.train_answers import answers_html, marked


def plain(html):
    return re.sub(r"</?(ins|del)>", "", html)


def test_marks_are_only_around_what_differs():
    left, right = marked("It is 4 legs.", "It is 56 legs.")
    assert left == "It is <del>4</del> legs."
    assert right == "It is <ins>56</ins> legs."


def test_equal_answers_carry_no_mark_and_no_word_is_lost():
    assert marked("the same", "the same") == ("the same", "the same")
    base, current = "one two\nthree", "two three four"
    left, right = marked(base, current)
    assert (plain(left), plain(right)) == (base, current)


def test_what_a_model_says_is_never_html():
    left, right = marked("<b>bold</b>", "<script>alert(1)</script>")
    assert "<b>" not in left
    assert "<script>" not in right


def test_the_newest_check_stands_open_and_earlier_ones_are_folded():
    rows = [("How many?", "4", "56")]
    html = answers_html(Curves(answers=[(0, rows), (5, rows), (10, rows)]))
    assert html.index("after step 10") < html.index("After step 5") < html.index("Before the")
    assert html.count("<details>") == 2
    assert answers_html(Curves()) == ""

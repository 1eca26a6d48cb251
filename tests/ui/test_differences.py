import re

from t2local.ui.differences import marked


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

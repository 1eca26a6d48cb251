import re

from t2local.ui.markdown import marked, render


def test_markdown_is_rendered():
    html = render("**bold** and `code`\n\n```python\nx = 1\n```\n\n|a|b|\n|-|-|\n|1|2|")
    assert "<strong>bold</strong>" in html
    assert "<code>code</code>" in html
    assert 'data-act="copy-code"' in html
    assert "<table>" in html


def test_an_answer_cannot_run_or_load_anything():
    hostile = (
        "<script>alert(1)</script> <img src=x onerror=alert(1)> ![x](http://a.test/x.png) "
        "[click](javascript:alert(1)) [ok](https://a.test)\n\n```<b>\n<i>\n```"
    )
    html = render(hostile)
    assert "<script" not in html
    assert "<img" not in html
    assert 'href="javascript' not in html
    assert 'rel="noopener noreferrer"' in html
    assert "<i>" not in html


def test_marks_appear_where_they_belong():
    html = render("one two", [(4, "<mark></mark>")])
    assert "one <mark></mark>two" in html


def test_marks_in_code_and_at_the_ends_do_not_break_the_html():
    text = "a\n\n```py\nx = 1\n```\n[l](http://a.test/bcd)"
    for at in range(len(text) + 1):
        html = render(text, [(at, '<b class="m"></b>')])
        assert 'href="<b' not in html
        assert html.count('<b class="m"></b>') <= 1


def test_private_characters_of_a_model_are_no_marks():
    assert "<b>" not in render("\ue000 x", [(2, "<i></i>")]).replace("<i></i>", "", 1)
    assert render("\ue005", [(0, "<i></i>")]).count("<i></i>") == 1


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

"""The one normalisation: what is the same text, and what is not."""

import doctest
import unicodedata

import pytest

from t2local.tasks.rewards import normal
from t2local.tasks.rewards.normal import plain, stands_in, tidy, without_emphasis

SAME = [
    ("ＡＢＣ１２３！", "ABC123!"), ("e\u0301", "é"), ("ﬁn", "fin"), ("“a”", '"a"'), 
    ("l’été", "l'été"),
    ("−5", "-5"), ("a–b", "a-b"), ("a\u00a0b", "a b"), ("a\u2009b", "a b"), ("a\u202fb", "a b"),
    ("a\u200bb", "ab"), ("a\u00adb", "ab"), ("\ufeffa", "a"), ("٤٢", "42"), ("४२", "42"),
    ("你好。", "你好."), ("ｶﾞ", "ガ"), ("…", "..."), ("مَرْحَبًا", "مرحبا"), ("كتـــاب", "كتاب"), 
    ("⁄", "/"),
    ("ﻣﺼﺮ", "مصر"), ("Å", "Å"),
]  # fmt: skip
CASES = [
    ("Straße", "STRASSE"),
    ("İzmir", "izmir"),
    ("ΑΘΗΝΑ", "Αθήνα"),
    ("ЁЛКА", "елка"),
    ("É", "é"),
]
DIFFERENT = [
    ("½", "1/2"),
    ("x²", "x2"),
    ("①", "1"),
    ("a", "á"),
    ("2*3", "23"),
    ("a_b", "ab"),
    ("5!", "5"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_ways_of_typing_are_one_text(one, other):
    assert plain(one) == plain(other) == other


@pytest.mark.parametrize(("one", "other"), CASES)
def test_case_counts_in_no_script(one, other):
    assert tidy(one) == tidy(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_a_reader_sees_as_different_stays_so(one, other):
    assert tidy(one) != tidy(other)


def test_a_plain_text_is_plain_already_however_it_was_composed():
    every = [chr(code) for code in range(0x3400) if unicodedata.category(chr(code))[0] in "LNPSZ"]
    for character in every:
        once = plain(character)
        assert plain(once) == once
        assert plain(unicodedata.normalize("NFD", character)) == once


@pytest.mark.parametrize(
    "text", ["**a**", "*a*", "***a***", "_a_", "__a__", "`a`", "~~a~~", "**_a_**", "# a", "**a"]
)
def test_emphasis_is_no_part_of_a_text(text):
    assert without_emphasis(text) == "a"


@pytest.mark.parametrize("text", ["*", "2*3*4", "a_b_c", "__", "a * b * c", "C#", "#1", "**"])
def test_what_only_looks_like_emphasis_stays(text):
    assert without_emphasis(text) == text


def test_a_text_stands_in_itself():
    for text in (
        "cat",
        "c++",
        ".net",
        "5",
        "-5",
        "서울",
        "القاهرة",
        "ירושלים",
        "दिल्ली",
        "กรุงเทพ",
        "?",
    ):
        assert stands_in(text, text)
        assert stands_in(text, f"x {text} x")
    assert not stands_in("", "x")


def test_the_examples_in_docstrings_hold():
    failed, attempted = doctest.testmod(normal)
    assert (failed, attempted > 0) == (0, True)

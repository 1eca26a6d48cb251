"""In which language an answer is written."""

import doctest

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.rewards import REWARDS, languages
from t2local.tasks.rewards.languages import LANGUAGES, code_of, language_of, one_language
from t2local.tasks.rows import Example
from t2local.tasks.uploads import suggest_reward, try_reward

TEXTS = [
    ("Gerne! Ich helfe dir heute mit deinem Garten.", "German", 1),
    ("Sure, I can help you with your garden today.", "German", -1),
    ("Bien sûr, je peux vous aider dans le jardin.", "fr", 1),
    ("Claro, puedo ayudarte con tu jardín hoy.", "español", 1),
    ("El faro avisa a los barcos de las rocas.", "French", -1),
    ("灯台は船に岩を警告します。", "Japanese", 1),
    ("灯塔警告船只注意礁石。", "Chinese", 1),
    ("Маяк предупреждает корабли о скалах.", "Russian", 1),
    ("Oui", "French", 1),
    ("Nein.", "German", 1),
    ("Yes, that is right.", "German", -1),
    (
        "```python\nfor line in open(path): print(line)\n```\nDas Programm liest jede Zeile.",
        "de",
        1,
    ),
    ("<think>I should answer in English here.</think>Das ist eine gute Frage.", "de", 1),
    ("**Wichtig:** [Hier](https://example.org) steht mehr dazu, und das ist gut.", "de", 1),
    ("12 + 3 = 15", "German", -1),
    ("", "German", -1),
    ("...", "German", -1),
    ("\U0001f600 \U0001f600", "German", -1),
]


@pytest.mark.parametrize(("completion", "answer", "wanted"), TEXTS)
def test_the_language_of_an_answer(completion, answer, wanted):
    assert REWARDS["language"](["?"], [completion], answer=[answer]) == [wanted]


@pytest.mark.parametrize("code", LANGUAGES)
def test_each_language_is_known_by_its_sentence_and_by_no_other(code):
    rows = [[names[0]] for names in LANGUAGES.values()]
    told = REWARDS["language"](["?"] * len(rows), [LANGUAGES[code][2]] * len(rows), answer=rows)
    assert [row[0] for row, reward in zip(rows, told, strict=True) if reward == 1.0] == [
        LANGUAGES[code][0]
    ]
    assert {code_of(name) for name in (code, *LANGUAGES[code][:2])} == {code}


def test_several_languages_may_be_right_and_an_unknown_one_is_told():
    said = ["Das ist eine gute Frage."]
    assert REWARDS["language"](["?"], said, answer=[["French", "German"]]) == [1.0]
    assert REWARDS["language"](["?"], said, answer=[None]) == [None]
    with pytest.raises(T2LocalError, match="'Klingon' is no language that is known; name one of"):
        REWARDS["language"](["?"], said, answer=["Klingon"])


def test_it_is_suggested_where_all_rows_name_one_language_and_tried():
    rows = [Example(f"Question {n}?", "German") for n in range(8)]
    assert suggest_reward(rows).reward == "language"
    trial = try_reward("language", rows)
    assert trial.problem == ""
    assert {tried.reward for tried in trial.rows} == {1.0}
    asked = ["German", "French"] * 4
    several = [Example(f"Which language is text {n}?", name) for n, name in enumerate(asked)]
    assert one_language(several) == ""
    assert suggest_reward(several).reward != "language"


def test_of_a_word_or_two_no_language_is_told():
    assert language_of("Oui") == ""
    assert language_of("Das ist eine gute Frage.") == "de"


def test_its_examples_hold():
    assert doctest.testmod(languages).failed == 0

"""Reward tables: what models write on the left, what it is worth on the right."""

import doctest

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.rewards import REWARDS, documents, figures, math_worker, programs, words
from t2local.tasks.rewards.programs import extract_program


def reward(name, completion, **row):
    columns = {key: [value] for key, value in row.items()}
    return REWARDS[name](["?"], [completion], **columns)[0]


NUMBERS = [
    ("The answer is **1,234.00**.", "1234", 1),
    ("$1,234", "1234", 1),
    ("#### 72", "72", 1),
    ("48 / 2 = <<48/2=24>>24\n48 + 24 = 72\n#### 72", "72", 1),
    (r"so \boxed{\frac12}", "1/2", 1),
    (r"\boxed{\frac{1}{2}}", "0.5", 1),
    (r"\boxed{18}. I hope that helps 5 people!", "18", 1),
    ("1/2", "0.5", 1),
    ("50%", "0.5", 1),
    ("50%", "50", 1),
    (r"18\%", "18", 1),
    ("**Answer:** 18", "18", 1),
    (r"The answer is $\$18$.", "18", 1),
    ("The answer is 3 apples, not 4.", "3", 1),
    ("The final answer is 1 + 1 = 2.", "2", 1),
    ("x = -3", "-3", 1),
    ("−3", "-3", 1),
    ("10-5 = 5", "5", 1),
    ("1000", "1e3", 1),
    ("#### 71", "72", -1),
    ("1000001", "1000000", -1),
    ("18.5", "18", -1),
    ("0.49", "1/2", -1),
    ("-18", "18", -1),
    ("no idea", "5", -1),
    ("", "5", -1),
]


@pytest.mark.parametrize("name", ["numeric", "math"])
@pytest.mark.parametrize(("completion", "answer", "wanted"), NUMBERS)
def test_numbers(name, completion, answer, wanted):
    assert reward(name, completion, answer=answer) == wanted


@pytest.mark.parametrize(
    ("completion", "answer", "wanted"),
    [
        ("$1+x^2$", "x^2+1", 1),
        (r"it is \boxed{\frac{\sqrt3}{2}}", r"\frac{\sqrt{3}}{2}", 1),
        (r"\boxed{\sqrt{4}}", "2", 1),
        ("$(1, 2)$", "(1,2)", 1),
        ("the answer is $2x$", "3x", -1),
        ("", "x", -1),
        ("9**9**9**9**9", "x", -1),
    ],
)
def test_formulas(completion, answer, wanted):
    assert reward("math", completion, answer=answer) == wanted


WORDS = [
    ("exact", "**Paris**.", {"answer": "paris"}, 1),
    ("exact", "It is Paris.", {"answer": "Paris"}, -1),
    ("exact", " new  york\n", {"answer": ["London", "New York"]}, 1),
    ("exact", "", {"answer": "Paris"}, -1),
    ("contains", "It is **Paris**, of course.", {"answer": "Paris"}, 1),
    ("contains", "Parisian food", {"answer": "Paris"}, -1),
    ("contains", "", {"answer": "Paris"}, -1),
    ("regex", "On 2024-05-01.", {"answer": r"\d{4}-\d\d-\d\d"}, 1),
    ("regex", "Yesterday.", {"answer": r"\d{4}"}, -1),
]
ANIMALS = {"choices": ["a cat", "a dog", "a dog and a cat"], "label": 1}
CHOICES = [
    ("B", 1),
    ("(B)", 1),
    ("**B**", 1),
    ("B) a dog", 1),
    ("The answer is B.", 1),
    ("The correct answer is (B), because A is wrong.", 1),
    (r"\boxed{B}", 1),
    ("a dog", 1),
    ("It must be a dog.", 1),
    ("A", -1),
    ("A or B", -1),
    ("I think it is a dog and a cat", -1),
    ("a bird", -1),
    ("", -1),
]


@pytest.mark.parametrize(("name", "completion", "row", "wanted"), WORDS)
def test_words(name, completion, row, wanted):
    assert reward(name, completion, **row) == wanted


@pytest.mark.parametrize(("completion", "wanted"), CHOICES)
def test_choices(completion, wanted):
    assert reward("choice", completion, **ANIMALS) == wanted
    lettered = {"choices": ANIMALS["choices"], "answer": "B"}
    assert reward("choice", completion, **lettered) == wanted


SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("completion", "wanted"),
    [
        ('{"name": "Ann", "age": 3}', 1),
        ('Sure!\n```json\n{"name": "Ann", "age": 3}\n```\nAnything else?', 1),
        ('Here: {"name": "Ann", "age": 3} as asked', 1),
        ("no JSON here", -1),
        ("", -1),
    ],
)
def test_json_of_a_schema(completion, wanted):
    assert reward("json", completion, schema=SCHEMA) == wanted


def test_json_gives_credit_for_each_demand_that_is_met():
    worse = reward("json", "[]", schema=SCHEMA)
    partly = reward("json", '{"name": "Ann"}', schema=SCHEMA)
    nearly = reward("json", '{"name": "Ann", "age": "three"}', schema=SCHEMA)
    assert -1 < worse < partly < 1
    assert worse < nearly < 1
    assert reward("json", '{"a": 1, "b": 3}', answer='{"a": 1, "b": 2}') == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("completion", "answer", "wanted"),
    [
        ("one two", "2", 1),
        ("one two three", "2", 0),
        ("one two three four five", "2", -1),
        ("one", "2-4", 0),
        ("one two three", "what four words are", 1),
        ("", "5", -1),
    ],
)
def test_length(completion, answer, wanted):
    assert reward("length", completion, answer=answer) == wanted


ADD = {"tests": ["assert f(1) == 2", "assert f(2) == 3"], "entry_point": "f"}
TALK = "Sure! Here it is:\n\n```python\ndef f(x):\n    return x + 1\n```\n\nIt adds one to `x`."
PROGRAMS = [
    ("def f(x):\n    return x + 1", 1, 1),
    (TALK, 1, 1),
    (TALK.replace("```\n\nIt", "\nIt").split("\nIt")[0], 1, 1),
    ("Of course.\ndef f(x):\n    return x + 1\nThat is all.", 1, 1),
    ("```\nprint(f(1))\n```\nafter\n```py\nf = lambda x: x + 1\n```", 1, 1),
    ("def f(x):\n    return x + 2", -1, -0.2),
    ("def f(x):\n    return 2", -1, 0.4),
    ("def g(x):\n    return x + 1", -1, -0.5),
    ("def f(x) return x + 1", -1, -1),
    ("", -1, -1),
]


@pytest.mark.parametrize(("completion", "whole", "partial"), PROGRAMS)
def test_programs(completion, whole, partial):
    assert reward("code", completion, **ADD) == whole
    assert reward("code_partial", completion, **ADD) == pytest.approx(partial)


@pytest.mark.parametrize(
    "completion",
    [
        "    return x + 1",
        "return x + 1",
        "def f(x):\n    return x + 1",
        "```python\n    return x + 1\n```",
        "y = x\n    return y + 1",
        TALK,
    ],
)
def test_a_body_continues_its_prefix(completion):
    prefix = 'import math\n\ndef f(x):\n    """Add one."""\n'
    assert reward("code", completion, prefix=prefix, **ADD) == 1
    assert extract_program(completion, "f", prefix).startswith("import math")


@pytest.mark.parametrize("name", REWARDS)
def test_chat_messages_count_as_their_last_words(name):
    row = {"answer": "2", "choices": ["1", "2"], "label": 1, "tests": ["assert f(1) == 2"]}
    row |= {"answer": "en"} if name == "language" else {}
    columns = {key: [value] for key, value in row.items()}
    chat = [[{"role": "assistant", "content": "2"}]]
    plain = REWARDS[name](["?"], ["2"], **columns)
    assert REWARDS[name]([[{"role": "user", "content": "?"}]], chat, **columns) == plain


@pytest.mark.parametrize("name", sorted(set(REWARDS) - {"json"}))
def test_a_row_that_cannot_be_scored_gives_none(name):
    assert REWARDS[name](["?", "?"], ["2", "2"], answer=[None, None]) == [None, None]


@pytest.mark.parametrize("module", [documents, figures, math_worker, programs, words])
def test_the_examples_in_docstrings_hold(module):
    failed, attempted = doctest.testmod(module)
    assert (failed, attempted > 0) == (0, True)


def test_a_broken_pattern_or_schema_is_said():
    with pytest.raises(T2LocalError, match="no regular expression"):
        reward("regex", "x", answer="(")
    with pytest.raises(T2LocalError, match="no JSON object"):
        reward("json", "{}", schema="[1]")

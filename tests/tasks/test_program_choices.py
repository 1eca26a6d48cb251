"""Wrong programs among which the right one is to be found: each differs, and each fails."""

import ast

from t2local.tasks.program_choices import changed_programs, program_choices
from t2local.tasks.rows import Example
from t2local.tasks.sandbox import run_tests

LARGER = Example(
    "Write a function for the larger of two numbers, plus one.",
    "def larger(a, b):\n    # a comment\n    if a > b:\n        return a + 1\n    return b + 1\n",
    {"tests": ["assert larger(1, 5) == 6", "assert larger(4, 2) == 5"], "entry_point": "larger"},
)


def test_one_choice_passes_its_tests_and_three_fail():
    built = program_choices(LARGER)
    results = [
        run_tests(text, LARGER.columns["tests"], entry_point="larger").ok
        for text in built.columns["choices"]
    ]
    assert results.count(True) == 1
    assert results[built.columns["label"]]
    assert "comment" not in built.answer


def test_seeded():
    assert program_choices(LARGER, 1) == program_choices(LARGER, 1)


def test_an_answer_that_fails_gives_none():
    broken = Example(LARGER.prompt, "def larger(a, b): return 0", LARGER.columns)
    assert program_choices(broken) is None
    assert program_choices(Example("?", "def larger(", LARGER.columns)) is None


def test_every_changed_program_parses_and_differs():
    source = "def f(x, y):\n    return (x + y) % 3 == 1 and not x in (True, max(x, y))"
    right = ast.unparse(ast.parse(source))
    changed = list(changed_programs(ast.parse(source)))
    assert len(changed) >= 9
    for text in changed:
        ast.parse(text)
        assert text != right

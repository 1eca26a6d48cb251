"""Choices built from word problems: true as arithmetic, different in value, one right."""

import ast
import re
from collections import Counter

import pytest

from t2local.tasks.arithmetic import arithmetic_choices
from t2local.tasks.benchmarks import load_task
from t2local.tasks.rows import Example

DISCOUNT = Example(
    "A pack costs 76 dollars, less 25.", "51", {"equation": "( 76.0 - 25.0 )", "type": "-"}
)


def value(side: str) -> float:
    return eval(compile(ast.parse(side, mode="eval"), "", "eval"), {"__builtins__": {}})


def test_the_right_equation_is_among_four():
    built = arithmetic_choices(DISCOUNT)
    assert built.answer == "76 - 25 = 51"
    assert built.columns["choices"][built.columns["label"]] == built.answer
    assert len(built.columns["choices"]) == 4
    assert built.columns["type"] == "-"


def test_the_same_seed_gives_the_same_choices_and_another_seed_others():
    assert arithmetic_choices(DISCOUNT, 3) == arithmetic_choices(DISCOUNT, 3)
    orders = {tuple(arithmetic_choices(DISCOUNT, seed).columns["choices"]) for seed in range(9)}
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("equation", "answer"),
    [
        ("8.0", "8"),
        ("( ( 4.0 - 2.0 ) + 3.0 )", "1"),
        ("( 3 / 0 )", "0"),
        ("f(2) + 1", "3"),
        ("", "1"),
    ],
)
def test_rows_that_allow_no_choice_give_none(equation, answer):
    assert arithmetic_choices(Example("?", answer, {"equation": equation})) is None


def test_brackets_stay_where_they_matter():
    example = Example("?", "4", {"equation": "( ( 4.0 + 8.0 ) / 3.0 )"})
    assert arithmetic_choices(example).answer == "(4 + 8) / 3 = 4"
    example = Example("?", "5", {"equation": "( 9.0 - ( 1.0 + 3.0 ) )"})
    assert arithmetic_choices(example).answer == "9 - (1 + 3) = 5"


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_choices_of_real_rows_are_true_and_different(split, data_folder):
    rows = load_task("svamp", split, data_folder)
    built = [choice for row in rows if (choice := arithmetic_choices(row))]
    assert len(built) >= 0.99 * len(rows)
    for row in built:
        sides = [text.split(" = ") for text in row.columns["choices"]]
        values = [value(left) for left, _ in sides]
        assert values == pytest.approx([float(right) for _, right in sides])
        assert len({round(v, 6) for v in values}) == 4
        assert not any(re.search(r"\d\.0\b", text) for text in row.columns["choices"])
    labels = Counter(row.columns["label"] for row in built)
    assert min(labels.values()) > 0.15 * len(built)

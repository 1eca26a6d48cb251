"""Arithmetic as a choice: the right equation among plausible wrong ones, from word problems.

Each is true as arithmetic ("76 - 25 = 51"); wrong ones use the same numbers with other orders,
operations and steps, so only reading tells them apart. `ast` parses them; nothing is evaluated.
"""

import ast
import itertools
import operator
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from t2local.tasks.rows import Example
from t2local.tasks.syntax import parse_expression

# A number, or (sign, left, right): ("-", 76, 25).
Equation = Fraction | tuple[str, "Equation", "Equation"]

CHOICES = 4
_MOST_NUMBERS = 4  # of the equation and the prompt together that wrong choices draw on
_MOST_REORDERED = 3  # equations of more numbers keep their order, or there are thousands
_MOST_RESIGNED = 5
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?")
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def arithmetic_choices(example: Example, seed: int = 0) -> Example | None:
    """A SVAMP row (column `equation`) as four equations in `choices`, the right one at `label`.

    `None` where the row allows no such task: no operation in the equation, an equation whose value
    is not the row's answer, or too few different results over its numbers.
    """
    equation = _parse(str(example.columns.get("equation", "")))
    if not isinstance(equation, tuple):
        return None
    right_value = _value(equation)
    shown = _shown(right_value)
    if shown is None or right_value != _fraction(example.answer):
        return None
    rng = random.Random(f"{seed}:{example.prompt}")
    right = f"{_text(equation)} = {shown}"
    wrong = _wrong_choices(equation, right_value, _numbers(example.prompt, equation), rng)
    if len(wrong) < CHOICES - 1:
        return None
    choices = [right, *wrong]
    rng.shuffle(choices)
    columns = {**example.columns, "choices": choices, "label": choices.index(right)}
    return replace(example, answer=right, columns=columns)


def _wrong_choices(
    equation: Equation, right_value: Fraction, numbers: list[Fraction], rng: random.Random
) -> list[str]:
    """Two equations of as many steps and one of fewer or more, where the numbers allow it.

    No two choices have the same result, so none is right by accident.
    """
    single = isinstance(equation, tuple) and len(_operands(equation)) == 2
    same = [*_same_shape(equation), *(_one_step(numbers) if single else ())]
    other = [*(_two_steps(numbers) if single else _one_step(_operands(equation)))]
    same, other = _ranked(same, rng), _ranked(other, rng)
    chosen = {right_value: ""}
    for candidates, wanted in ((same, CHOICES - 1), (other, CHOICES), (same, CHOICES)):
        for value, candidate in candidates:
            if len(chosen) == wanted:
                break
            if value not in chosen and (shown := _shown(value)) is not None:
                chosen[value] = f"{_text(candidate)} = {shown}"
    return [text for text in chosen.values() if text]


def _ranked(candidates: list[Equation], rng: random.Random) -> list[tuple]:
    """Values and equations, shuffled; whole results of zero or more first, as right ones are."""
    rng.shuffle(candidates)
    valued = [(_value(candidate), candidate) for candidate in candidates]
    return sorted(valued, key=lambda pair: _implausible(pair[0]))


def _implausible(value: Fraction | None) -> int:
    return 4 if value is None else 2 * (value < 0) + (value.denominator != 1)


def _same_shape(equation: Equation) -> Iterator[Equation]:
    """The equation with its numbers in every order and every choice of signs."""
    operands = _operands(equation)
    reorder = len(operands) <= _MOST_REORDERED
    orders = sorted(set(itertools.permutations(operands))) if reorder else [operands]
    signs = min(len(operands), _MOST_RESIGNED) - 1
    for order in orders:
        for chosen in itertools.product(_OPERATIONS, repeat=signs):
            yield _refilled(equation, list(order), list(chosen))


def _refilled(equation: Equation, numbers: list[Fraction], signs: list[str]) -> Equation:
    """A copy that takes its numbers and signs from the lists, from left to right."""
    if not isinstance(equation, tuple):
        return numbers.pop(0)
    left = _refilled(equation[1], numbers, signs)
    sign = signs.pop(0) if signs else equation[0]
    return (sign, left, _refilled(equation[2], numbers, signs))


def _one_step(numbers: list[Fraction]) -> Iterator[Equation]:
    for left, right in itertools.permutations(numbers, 2):
        for sign in _OPERATIONS:
            yield (sign, left, right)


def _two_steps(numbers: list[Fraction]) -> Iterator[Equation]:
    for first, second, third in itertools.permutations(numbers, 3):
        for inner, outer in itertools.product(_OPERATIONS, repeat=2):
            yield (outer, (inner, first, second), third)


def _numbers(prompt: str, equation: Equation) -> list[Fraction]:
    """The equation's numbers, then further ones of the prompt, without repeats."""
    found = dict.fromkeys(_operands(equation))
    further = (_fraction(text) for text in _NUMBER.findall(prompt))
    found.update(dict.fromkeys(number for number in further if number))
    return list(found)[: max(_MOST_NUMBERS, len(_operands(equation)))]


def _operands(equation: Equation) -> list[Fraction]:
    """The numbers of an equation from left to right."""
    if isinstance(equation, tuple):
        return _operands(equation[1]) + _operands(equation[2])
    return [equation]


def _parse(text: str) -> Equation | None:
    """`+ − × ÷` over plain numbers; `None` where the text is anything else."""
    try:
        return _from_ast(parse_expression(text.strip().replace(",", "")))
    except (SyntaxError, ValueError):
        return None


def _from_ast(node: ast.expr) -> Equation:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return (_SIGNS[type(node.op)], _from_ast(node.left), _from_ast(node.right))
    raise ValueError(ast.dump(node))


def _value(equation: Equation) -> Fraction | None:
    """The exact value; `None` for a division by zero."""
    if not isinstance(equation, tuple):
        return equation
    sign, left, right = equation[0], _value(equation[1]), _value(equation[2])
    if left is None or right is None or (sign == "/" and right == 0):
        return None
    return _OPERATIONS[sign](left, right)


def _text(equation: Equation, binding: int = 0) -> str:
    """As people write it: `76 - 25`, brackets only where they matter."""
    if not isinstance(equation, tuple):
        return _shown(equation) or f"{float(equation):g}"
    sign, left, right = equation
    own = 2 if sign in "*/" else 1
    text = f"{_text(left, own)} {sign} {_text(right, own + (sign in '-/'))}"
    return f"({text})" if own < binding else text


def _shown(value: Fraction | None) -> str | None:
    """Whole numbers without a point, others in at most two decimals; else `None`."""
    if value is None:
        return None
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.2f}".rstrip("0") if (value * 100).denominator == 1 else None


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip().replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None

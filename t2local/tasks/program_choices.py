"""Programs as a choice: the right one among slightly changed copies that fail its tests.

A wrong choice is the reference program with one change a hurried person might make: another
comparison, another operation, a number off by one, `and` for `or`, arguments swapped. Each was
run: a changed program that still passes its tests is no wrong choice. Seeded; runs the sandbox.
"""

import ast
import copy
import random
from collections.abc import Iterator
from dataclasses import replace

from t2local.tasks.rows import Example
from t2local.tasks.sandbox import run_tests

CHOICES = 4
_MOST_RUNS = 16  # changed programs tried for one example
_TIMEOUT_S = 3.0

_OTHER_OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.FloorDiv),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Mod, ast.Mult),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitXor,),
    ast.BitXor: (ast.BitAnd,),
}


def program_choices(example: Example, seed: int = 0) -> Example | None:
    """A program task as four programs in `choices`, the right one at `label`.

    All are written by `ast.unparse`, so layout and comments tell nothing. `None` where the answer
    does not pass its own tests or fewer than three changed copies fail them.
    """
    try:
        tree = ast.parse(example.answer)
    except SyntaxError:
        return None
    right = ast.unparse(tree)
    if not _passes(right, example):
        return None
    rng = random.Random(f"{seed}:{example.prompt}")
    changed = [text for text in dict.fromkeys(changed_programs(tree)) if text != right]
    rng.shuffle(changed)
    wrong: list[str] = []
    for candidate in changed[:_MOST_RUNS]:
        if len(wrong) < CHOICES - 1 and not _passes(candidate, example):
            wrong.append(candidate)
    if len(wrong) < CHOICES - 1:
        return None
    choices = [right, *wrong]
    rng.shuffle(choices)
    columns = {**example.columns, "choices": choices, "label": choices.index(right)}
    return replace(example, answer=right, columns=columns)


def changed_programs(tree: ast.Module) -> Iterator[str]:
    """Every program that differs from `tree` in one place."""
    for place, node in enumerate(ast.walk(tree)):
        for change in range(_changes(node)):
            changed = copy.deepcopy(tree)
            _change(list(ast.walk(changed))[place], change)
            yield ast.unparse(changed)


def _changes(node: ast.AST) -> int:
    """In how many ways a node can be changed."""
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            return len(_OTHER_OPERATORS.get(type(op), ()))
        case ast.Compare(ops=[op]):
            return len(_OTHER_OPERATORS.get(type(op), ()))
        case ast.Constant(value=value) if type(value) in (bool, int):
            return 1 if type(value) is bool else 2
        case ast.Call(args=[_, _], keywords=[]):
            return 1
        case ast.UnaryOp(op=ast.Not()):
            return 1
    return 0


def _change(node: ast.AST, change: int) -> None:
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            node.op = _OTHER_OPERATORS[type(op)][change]()
        case ast.Compare(ops=[op]):
            node.ops = [_OTHER_OPERATORS[type(op)][change]()]
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant():
            node.value += (1, -1)[change]
        case ast.Call():
            node.args.reverse()
        case ast.UnaryOp():  # `not x` becomes `not not x`
            node.operand = ast.UnaryOp(ast.Not(), node.operand)


def _passes(program: str, example: Example) -> bool:
    return run_tests(
        program,
        example.columns["tests"],
        setup=example.columns.get("test_setup") or "",
        entry_point=example.columns.get("entry_point") or "",
        timeout_s=_TIMEOUT_S,
    ).ok

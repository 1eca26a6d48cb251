"""Python's own parser, by one thread at a time: programs are judged in many.

Python 3.11 counts the depth of a tree for all threads together, and where a second one parses
while the first collects garbage, it raises `SystemError` (python/cpython#106905).
"""

import ast
import threading
from typing import Any

_one_at_a_time = threading.Lock()


def parse(source: str) -> ast.Module:
    """The statements of a program.

    Raises `SyntaxError`, `ValueError`, `MemoryError` or `RecursionError`, as `ast.parse` does.
    """
    with _one_at_a_time:
        return ast.parse(source)


def parse_expression(source: str) -> ast.expr:
    """The one expression of a text. Raises what `parse` does."""
    with _one_at_a_time:
        return ast.parse(source, mode="eval").body


def literal(text: str) -> Any:
    """The value of a literal in Python's notation. Raises what `parse` does, and `TypeError`."""
    with _one_at_a_time:
        return ast.literal_eval(text)

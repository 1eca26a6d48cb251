"""Rewards for programs: the tests decide, in the sandbox (`t2local.tasks.sandbox`)."""

import ast
import os
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from t2local.tasks.rewards.words import blocks, column, said
from t2local.tasks.sandbox import TestResult, run_tests

CPU_S = 5  # for all tests of one completion; what training leaves of the processor is not counted
TIMEOUT_S = 60.0  # by the clock, for programs that only sleep
PARSES_NOT, PARSES, DEFINES = -1.0, -0.5, -0.2

_NO_PROGRAM = (SyntaxError, ValueError, MemoryError, RecursionError)
_PYTHON = ("", "python", "python3", "py")
_CODE_STARTS = ("def ", "class ", "import ", "from ", "async def ", "@", "#", '"""')


def code(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """+1 where every test passes, else −1; `None` where a row has no tests.

    Columns: `tests` (list of Python statements), `test_setup`, `entry_point`; `prefix` where a
    completion may also be the body that follows it (HumanEval). The program is the code block
    of the completion that defines `entry_point`; talk around it does not count.

    >>> code(["Add one."], ["def f(x):\\n    return x + 1"], tests=[["assert f(1) == 2"]])
    [1.0]
    """
    return [
        None if result is None else 1.0 if result.ok else -1.0
        for result in outcomes(prompts, completions, **columns)
    ]


def code_partial(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """As `code`, with credit on the way for models that rarely pass.

    −1 no code, or it does not parse; −0.5 it parses; −0.2 it also defines `entry_point`; from
    there up to +1 by the share of its tests that pass (each adds 1.2 / number of tests).
    """
    return [
        None if result is None else partial_credit(result)
        for result in outcomes(prompts, completions, **columns)
    ]


def partial_credit(result: TestResult) -> float:
    """The scale of `code_partial`."""
    if not result.parses:
        return PARSES_NOT
    if not result.defines:
        return PARSES
    return 1.0 if result.ok else DEFINES + (1.0 - DEFINES) * result.share


def outcomes(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    tests: Sequence[Any] | None = None,
    test_setup: Sequence[Any] | None = None,
    entry_point: Sequence[Any] | None = None,
    prefix: Sequence[Any] | None = None,
    **_: Any,
) -> list[TestResult | None]:
    """What the tests found for each completion, several run at once.

    `None` for a row without tests.
    """
    count = len(completions)
    rows = zip(
        completions,
        *(column(values, count) for values in (tests, test_setup, entry_point, prefix)),
        strict=True,
    )
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(lambda row: _tested(*row), rows))


def _tested(
    completion: Any, tests: Any, setup: Any, entry_point: Any, prefix: Any
) -> TestResult | None:
    tests = [tests] if isinstance(tests, str) else list(tests or ())
    if not tests:
        return None
    entry_point, prefix = entry_point or "", prefix or ""
    program = extract_program(said(completion), entry_point, prefix)
    if not program.strip():
        return TestResult(False, False, (False,) * len(tests), error="no program was found")
    return run_tests(
        program,
        tests,
        setup=setup or "",
        trusted=prefix,
        entry_point=entry_point,
        timeout_s=TIMEOUT_S,
        cpu_s=CPU_S,
    )


def extract_program(text: str, entry_point: str = "", prefix: str = "") -> str:
    """The program in a completion, with `prefix` before it where one is given.

    Among fenced blocks the one that defines `entry_point`, else all of them; without a fence the
    longest run of lines that parses. A text that defines nothing is the body below `prefix`.
    """
    candidate = _code_in(text, entry_point)
    if not prefix or not text.strip():
        return candidate
    if _defines(candidate, entry_point):
        return f"{prefix.rstrip()}\n\n\n{candidate}"
    body = (candidate if blocks(text) else text).strip("\n")
    for written in (*([body] if body[:1].isspace() else []), *_indented(body)):
        whole = f"{prefix.rstrip()}\n{written}\n"
        if _compiles(whole):
            return whole
    return f"{prefix.rstrip()}\n{text}\n"


def _indented(body: str) -> tuple[str, str]:
    """A body whose lines, or whose first line alone, lost their indentation."""
    return textwrap.indent(textwrap.dedent(body), "    "), f"    {body.lstrip()}"


def _code_in(text: str, entry_point: str) -> str:
    fenced = [content for language, content in blocks(text) if language in _PYTHON]
    if fenced:
        defining = [content for content in fenced if _defines(content, entry_point)]
        return textwrap.dedent(defining[-1] if defining else "\n".join(fenced))
    if _parsed(text) is not None:
        return text
    return _longest_run(text)


def _longest_run(text: str) -> str:
    """From the first line that looks like code to the last with which it all parses."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(_CODE_STARTS)]
    for start in starts[:5]:
        for end in range(len(lines), max(start, len(lines) - 60), -1):
            run = "\n".join(lines[start:end])
            tree = _parsed(run)
            if tree is not None and tree.body:
                return run
    return "\n".join(lines[starts[0] :]) if starts else text


def _defines(source: str, entry_point: str) -> bool:
    tree = _parsed(textwrap.dedent(source))
    if tree is None or not entry_point:
        return False
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    functions = any(isinstance(n, kinds) and n.name == entry_point for n in tree.body)
    targets = (t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets)
    return functions or any(isinstance(t, ast.Name) and t.id == entry_point for t in targets)


def _compiles(source: str) -> bool:
    """Stricter than parsing: `return` outside a function, for one, is refused."""
    try:
        compile(source, "<program>", "exec")
    except _NO_PROGRAM:
        return False
    return True


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except _NO_PROGRAM:
        return None

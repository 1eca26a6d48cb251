"""Rewards for programs: the tests decide, in the sandbox (`t2local.tasks.sandbox`).

A completion is prose with a program somewhere in it. Its pieces are the fenced blocks, however they
are fenced, or, without a fence, the runs of lines that parse. The program is the last piece that
defines what is asked for (the entry point, else what the tests call), with the pieces before it
that it needs. The text of a piece is changed only where it does not parse as it stands.
"""

import ast
import builtins
import html
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from t2local.tasks.rewards.documents import fenced_blocks
from t2local.tasks.rewards.words import column, said
from t2local.tasks.sandbox import TestResult, run_tests
from t2local.tasks.syntax import parse

# Of processor time, for all tests of one completion. MBPP's slowest own answer takes 5 s on a quick
# processor and twice that on an old one, and a right program has to be right on both.
CPU_S = 15
TIMEOUT_S = 60.0  # by the clock, for programs that only sleep
PARSES_NOT, PARSES, DEFINES = -1.0, -0.5, -0.2
TEST_COLUMNS = ("tests", "test", "test_list")  # as ours, HumanEval's and MBPP's are called
SETUP_COLUMNS = ("test_setup", "test_setup_code", "test_imports")

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)


def code(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """+1 where every test passes, else −1; `None` where a row has no tests that test anything.

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
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[TestResult | None]:
    """What the tests found for each completion, several run at once.

    `None` for a row without tests that test anything.
    """
    count = len(completions)
    names = (*TEST_COLUMNS, *SETUP_COLUMNS, "entry_point", "prefix", "answer")
    values = {name: column(columns.get(name), count) for name in names}
    rows = [{name: values[name][i] for name in names} for i in range(count)]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(_tested, prompts, completions, rows))


def _tested(prompt: Any, completion: Any, row: Mapping[str, Any]) -> TestResult | None:
    tests, setup = runnable_tests(row), _setup(row)
    if not tests:
        return None
    entry_point = row["entry_point"] or ""
    prefix = row["prefix"] or _own_prefix(prompt, entry_point)
    asked_for = _asked_for(tests, setup)
    program = extract_program(said(completion), entry_point, prefix, asked_for)
    program += "".join(_callable(program, {entry_point} if entry_point else asked_for))
    if not program.strip():
        return TestResult(False, False, (False,) * len(tests), error="no program was found")
    limits = {"timeout_s": TIMEOUT_S, "cpu_s": CPU_S}
    return run_tests(program, tests, setup=setup, trusted=prefix, entry_point=entry_point, **limits)


def _own_prefix(prompt: Any, entry_point: str) -> str:
    """A prompt that is the head of the function itself, as HumanEval's are."""
    if not entry_point or not isinstance(prompt, str) or f"def {entry_point}(" not in prompt:
        return ""
    return prompt if _parsed(f"{prompt.rstrip()}\n    pass\n") else ""


# --- Tests.


def runnable_tests(row: Mapping[str, Any]) -> list[str]:
    """The tests of a row's columns, each of which runs something; empty where none tests anything.

    A text that only defines something goes before the next. What is defined to be called and is
    not, is: `check(candidate)` with the entry point, functions called `test…`, unittest's classes.
    """
    texts = list(map(_without_runner, _texts(row, TEST_COLUMNS)))
    found, waiting = [], ""
    for text in texts:
        tree = _parsed(text)
        if tree is not None and not any(map(_acts, tree.body)):
            waiting += f"{text}\n"
        else:
            found.append(waiting + text)
            waiting = ""
    whole = _parsed("\n".join(texts))
    if whole is None:
        return found
    entry_point = row.get("entry_point") or _last_function(str(row.get("answer") or ""))
    calls = list(_missing_calls(whole, entry_point))
    if calls:
        found += [waiting + calls[0], *calls[1:]]
    return found if _asked_for([*texts, *calls], _setup(row), entry_point) else []


def _texts(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The first of the columns that has something, as a list of texts."""
    value = next((row[name] for name in names if row.get(name)), ())
    return [text for text in ([value] if isinstance(value, str) else value) if type(text) is str]


def _setup(row: Mapping[str, Any]) -> str:
    return "\n".join(_texts(row, SETUP_COLUMNS))


def _acts(statement: ast.stmt) -> bool:
    """Whether a test's statement does more than define, import or say something."""
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Import() | ast.ImportFrom():
            return False
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return False
        case ast.Assign() | ast.AnnAssign():
            return any(isinstance(node, ast.Call) for node in ast.walk(statement))
    return True


def _without_runner(test: str) -> str:
    """Without `unittest.main()`, which looks for a file, and an import from the file `solution`."""
    tree = _parsed(test)
    if tree is None or not any(map(_is_runner, tree.body)):
        return test
    return ast.unparse(ast.Module([node for node in tree.body if not _is_runner(node)], []))


def _is_runner(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(ast.Call(ast.Attribute(attr="main"))) | ast.ImportFrom(module="solution"):
            return True
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return all(map(_is_runner, node.body))
    return False


def _missing_calls(tests: ast.Module, entry_point: str) -> Iterator[str]:
    called = {node.id for node in ast.walk(tests) if _is_loaded(node)}
    for node in tests.body:
        if isinstance(node, ast.FunctionDef) and node.name not in called:
            needed = len(node.args.args) - len(node.args.defaults)
            if node.name == "check" and needed == 1 and entry_point:
                yield f"check({entry_point})"
            elif node.name.startswith("test") and needed == 0:
                yield f"{node.name}()"
        elif isinstance(node, ast.ClassDef) and "TestCase" in "".join(map(ast.unparse, node.bases)):
            yield _RUN_CASE.format(name=node.name)


_RUN_CASE = """
import unittest as _unittest
_cases = _unittest.defaultTestLoader.loadTestsFromTestCase({name})
assert _cases.countTestCases()
_cases.debug()
"""


def _asked_for(tests: Sequence[str], setup: str, entry_point: str = "") -> set[str]:
    """The names that tests use and have from nowhere else: the program's."""
    used: set[str] = set()
    own = {*dir(builtins), "__name__"} - {entry_point}
    trees = [tree for tree in map(_parsed, (setup, *tests)) if tree is not None]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            own.add(node.name)
        elif _is_loaded(node):
            used.add(node.id)
        else:
            own |= _bound_by(node)
    return used - own


def _last_function(source: str) -> str:
    """What a reference program defines last, where no entry point is named."""
    nodes = getattr(_parsed(source), "body", ())
    return next((n.name for n in reversed(nodes) if isinstance(n, ast.FunctionDef)), "")


# --- What tests call as a bare function.

_METHOD = "\n\n\n{name} = {owner}().{name}\n"
# Without an event loop, which needs sockets: what only awaits runs to its end.
_COROUTINE = """


def {name}(*args, _begin={name}, **kwargs):
    running = _begin(*args, **kwargs)
    try:
        while True:
            running.send(None)
    except StopIteration as done:
        return done.value
"""


def _callable(program: str, wanted: set[str]) -> Iterator[str]:
    """What makes a method of a class, or an `async def`, the function that is asked for."""
    nodes = getattr(_parsed(program), "body", ())
    functions = {node.name: node for node in nodes if isinstance(node, _FUNCTIONS)}
    owned = {
        node.name: (owner.name, node)
        for owner in nodes
        if isinstance(owner, ast.ClassDef) and owner.name not in wanted
        for node in owner.body
        if isinstance(node, _FUNCTIONS)
    }
    have = _names(nodes)
    for name in sorted(wanted):
        node = functions.get(name)
        if name not in have and name in owned:
            owner, node = owned[name]
            yield _METHOD.format(name=name, owner=owner)
        if isinstance(node, ast.AsyncFunctionDef):
            yield _COROUTINE.format(name=name)


# --- The program in a completion.


class _Piece(NamedTuple):
    """A part of a completion that parses. `names`: what it binds; `needs`: what it loads."""

    source: str
    names: set[str]
    needs: set[str]
    defines: bool  # a function or a class


def extract_program(
    text: str, entry_point: str = "", prefix: str = "", asked_for: Iterable[str] = ()
) -> str:
    """The program in a completion, with `prefix` before it where one is given.

    `asked_for`: what the tests call, where there is no `entry_point`. A text that defines nothing
    is the body below `prefix`; where no piece parses, the text of all of them is the program.
    """
    wanted = {entry_point} if entry_point else set(asked_for)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    blocks = fenced_blocks(text)
    fenced = [content for language, content in blocks if _is_code(language, content)]
    for content in (content for language, content in blocks if not _is_code(language, content)):
        text = text.replace(content, "")
    candidate = _program_of(text, fenced, wanted)
    if not prefix or not text.strip():
        return candidate
    if _defines(candidate, wanted):
        return f"{prefix.rstrip()}\n\n\n{candidate}"
    body = ("\n".join(fenced) if fenced else text).strip("\n")
    for written in (*([body] if body[:1].isspace() else []), *_indented(body)):
        whole = f"{prefix.rstrip()}\n{written}\n"
        if _parsed(whole, _compiled):
            return whole
    return f"{prefix.rstrip()}\n{text}\n"


# Stricter than parsing: `return` outside a function, for one, is refused.
_compiled = partial(compile, filename="<program>", mode="exec")


def _indented(body: str) -> tuple[str, str]:
    """A body whose lines, or whose first line alone, lost their indentation."""
    return textwrap.indent(textwrap.dedent(body), "    "), f"    {body.lstrip()}"


def _program_of(text: str, fenced: Sequence[str], wanted: set[str]) -> str:
    """From the fences, else from runs of lines, first within them and then in all of the text."""
    blocks = [_without_words(one) for one in map(_mended, fenced) if one is not None]
    if chosen := _chosen(blocks, wanted):
        return chosen
    if not fenced and (whole := _mended(text)) is not None and _defines(whole, wanted or None):
        return _without_words(whole)
    inside = [run for content in fenced for run in _runs(content)]
    if chosen := _chosen(inside, wanted):
        return chosen
    loose = list(_runs(_FENCE_LINE.sub("", text)))
    loose += [source for code in _INLINE.findall(text) if (source := _mended(code)) is not None]
    if chosen := _chosen(loose, wanted):
        return chosen
    if fenced:
        return "\n".join(_mended(content) or textwrap.dedent(content) for content in fenced)
    return text if _parsed(text) is not None else "\n".join(loose) or text


def _chosen(sources: Sequence[str], wanted: set[str]) -> str:
    """The last source that defines most of what is wanted, and those it needs; "" for none.

    Where nothing is wanted by name, the last that defines a function or a class.
    """
    pieces = [_piece(source) for source in sources]
    counts = [len(p.names & wanted) if wanted else p.defines for p in pieces]
    if not any(counts):
        return ""
    last = max(i for i, count in enumerate(counts) if count == max(counts))
    needs, have, taken = wanted | pieces[last].needs, pieces[last].names, {last}
    for i in reversed([i for i in range(len(pieces)) if i != last]):
        if pieces[i].names & (needs - have):
            taken.add(i)
            needs, have = needs | pieces[i].needs, have | pieces[i].names
    return "\n\n\n".join(pieces[i].source.strip("\n") for i in sorted(taken))


def _piece(source: str) -> _Piece:
    tree = parse(source)
    loaded = {node.id for node in ast.walk(tree) if _is_loaded(node)}
    return _Piece(source, _names(tree.body), loaded, _defines(source, None))


def _defines(source: str, wanted: set[str] | None) -> bool:
    """Whether it defines something wanted; None: any function or class."""
    tree = _parsed(source)
    if tree is None:
        return False
    if wanted is None:
        return any(isinstance(node, _DEFINITIONS) for node in tree.body)
    return bool(wanted & _names(tree.body))


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    """What a module binds, also inside `if` and `try`, but in no function and no class."""
    names: set[str] = set()
    for node in nodes:
        names |= _bound_by(node)
        if not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            names |= _names(ast.iter_child_nodes(node))
    return names


def _bound_by(node: ast.AST) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Import() | ast.ImportFrom():
            return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        case ast.Name(ctx=ast.Store()):
            return {node.id}
    return set()


def _is_loaded(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


_FENCE_LINE = re.compile(r"(?m)^[> \t]*(?:`{3,}|~{3,})[^`\n]*$")
_INLINE = re.compile(r"`{1,3}(?:python[\d.]* |py )? *([^`\n]+?) *`{1,3}")
_PYTHON = re.compile(r"(?:i?python|py)[\d.]*|python-?repl|pycon|")


def _is_code(language: str, content: str) -> bool:
    return _PYTHON.fullmatch(language) is not None or _SESSION.match(content) is not None


# --- Text that does not parse as it stands.

_SESSION = re.compile(r"\s*(?:>>> |In \[\d+\]: )")
_TYPED_LINE = re.compile(r"(?:>>>|\.\.\.|In \[\d+\]:|[ ]*\.\.\.:)(?: |$)")
_SPACES = {
    **dict.fromkeys(map(ord, "\u00a0\u1680\u202f\u205f\u3000"), " "),
    **dict.fromkeys(range(0x2000, 0x200B), " "),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), None),
    **dict.fromkeys(map(ord, "\u2028\u2029\u0085"), "\n"),
}
_LOOKALIKES = {
    **dict.fromkeys(map(ord, "“”„‟«»"), '"'),
    **dict.fromkeys(map(ord, "‘’‚‛´′"), "'"),
    **dict.fromkeys(map(ord, "−–‐‑"), "-"),
    **{wide: chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)},
}


def _mended(source: str) -> str | None:
    """The source as it parses, changed as little as possible; None where it never does."""
    return next((one for one in _variants(source) if _parsed(one) is not None), None)


def _variants(source: str) -> Iterator[str]:
    spaced = textwrap.dedent(source.translate(_SPACES))
    if _SESSION.match(spaced):
        yield _typed(spaced)
    yield source
    yield textwrap.dedent(source)
    yield spaced
    yield spaced.expandtabs(4)
    yield spaced.expandtabs(8)
    yield html.unescape(spaced)
    yield html.unescape(spaced.expandtabs(4)).translate(_LOOKALIKES)


def _typed(session: str) -> str:
    """What an interpreter was told, without what it showed, nor what asked only to be shown."""
    lines = session.splitlines()
    typed = "\n".join(line[mark.end() :] for line in lines if (mark := _TYPED_LINE.match(line)))
    tree = _parsed(typed)
    if tree is None:
        return typed
    return ast.unparse(ast.Module([n for n in tree.body if not isinstance(n, ast.Expr)], []))


# --- Programs between lines of prose.

_START = re.compile(
    r"[ \t]*(?:(?:async )?def \w|class \w|import \w|from [\w.]+ import |@\w|#|\"{3}|'{3}"
    r"|>>> |In \[\d+\]: |if __name__|[A-Za-z_]\w*(?:\s*:\s*[\w\[\], .|]+)?\s*=[^=])"
)
_MOST_STARTS, _MOST_CUTS = 60, 40


def _runs(text: str) -> Iterator[str]:
    """Runs of lines, from one that looks like code to the last with which they all parse."""
    lines, done = text.translate(_SPACES).split("\n"), 0
    starts = [i for i, line in enumerate(lines) if _START.match(line)]
    for start in islice(starts, _MOST_STARTS):
        if start >= done:
            source, done = _run_from(lines, start)
            if source:
                yield source


def _run_from(lines: Sequence[str], start: int) -> tuple[str, int]:
    """The longest source that starts there, and the line after it; "" for none.

    It is cut before the line over which the parser stumbles, until it parses.
    """
    end = len(lines)
    for _ in range(_MOST_CUTS):
        written = textwrap.dedent("\n".join(lines[start:end]))
        source = _typed(written) if _SESSION.match(written) else written
        try:
            tree = parse(source)
        except SyntaxError as error:
            stumbled = start + (error.lineno or 1) - 1
            end = stumbled if start < stumbled < end else end - 1
        except (ValueError, MemoryError, RecursionError):
            break
        else:
            return (_without_words(source), end) if tree.body else ("", start)
    return "", start


_WORD = re.compile(r"\w*[^\W\d]\w*|\[[A-Z]+\]")


def _without_words(source: str) -> str:
    """Without words that happen to parse, such as "Done" or "[DONE]" on a line of its own."""
    body = parse(source).body
    kept = [n for n in body if not (isinstance(n, ast.Expr) and _WORD.fullmatch(ast.unparse(n)))]
    return source if len(kept) == len(body) else ast.unparse(ast.Module(kept, []))


def _parsed(source: str, reader: Callable[[str], Any] = parse) -> Any | None:
    try:
        return reader(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None

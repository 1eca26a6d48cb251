"""What the page uses of an engine, the engine has, and the tests' fake one has the same."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from t2local.engine.chats import ChatStore
from t2local.engine.engine import Engine, Seat
from t2local.engine.people import GUEST, OWNER, Account
from t2local.paths import PROJECT_ROOT
from tests.ui.fake_engine import FakeEngine

FILES = sorted((PROJECT_ROOT / "t2local" / "ui").rglob("*.py"))

Chain = tuple[str, ...]  # `engine.chats.save` -> ("chats", "save")


def chain_of(node: ast.expr, named: dict[str, Chain]) -> Chain | None:
    """The attributes by which an expression is reached from the engine, None for anything else."""
    text = ast.unparse(node)
    if text in named:
        return named[text]
    if text in ("engine", "self.engine", "room.engine"):
        return ()
    if not isinstance(node, ast.Attribute):
        return None
    before = chain_of(node.value, named)
    return None if before is None else (*before, node.attr)


def assigned(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Target and value of an assignment, of tuples one by one."""
    for target in node.targets:
        pair = (target, node.value)
        if all(isinstance(side, ast.Tuple) for side in pair):
            yield from zip(target.elts, node.value.elts, strict=True)
        else:
            yield pair


def used_in(source: str) -> set[Chain]:
    """`engine.X` and `engine.X.Y` in a file, also where `engine.X` has a name of its own."""
    tree, named = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target, value in assigned(node):
                if chain := chain_of(value, named):
                    named[ast.unparse(target)] = chain
    found = {chain_of(node, named) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {chain[:2] for chain in found if chain}


def used(files: list[Path]) -> set[Chain]:
    return set().union(*(used_in(path.read_text(encoding="utf-8")) for path in files))


def reached(engine: Any, chain: Chain) -> Any:
    for name in chain:
        engine = getattr(engine, name)
    return engine


def incompatible(real: Any, fake: Any) -> str:
    """What a caller of `real` may do that `fake` does not take, "" where there is nothing."""
    if callable(real) != callable(fake):
        return "one is called, the other is not"
    if not callable(real):
        return ""
    taken = dict(inspect.signature(fake).parameters)
    for name, parameter in inspect.signature(real).parameters.items():
        other = taken.pop(name, None)
        if other is None:
            return f"'{name}' is not taken"
        if other.kind != parameter.kind:
            return f"'{name}' is given in another way"
        if other.default is other.empty and parameter.default is not parameter.empty:
            return f"'{name}' must be given"
    needed = [name for name, other in taken.items() if other.default is other.empty]
    return f"{needed} must be given too" if needed else ""


def problems(real: Any, fake: Any, chains: set[Chain]) -> dict[str, str]:
    """Chain -> what is wrong with it."""
    found = {}
    for chain in sorted(chains):
        try:
            why = incompatible(reached(real, chain), reached(fake, chain))
        except AttributeError as error:
            why = str(error)
        if why:
            found[".".join(chain)] = why
    return found


def test_the_fake_engine_offers_what_the_page_uses_of_the_real_one():
    chains = used(FILES)
    assert {("answers", "start"), ("chats", "load_or_new"), ("status", "ready")} <= chains
    assert not problems(Engine("embedded"), FakeEngine(), chains)


def seated(role: str, folder: Path) -> tuple[Engine, Seat]:
    engine = Engine("embedded")
    return engine, Seat(engine, Account("somebody", role, "x"), ChatStore(folder))


def test_an_owners_seat_offers_what_the_page_uses_of_the_engine(tmp_path):
    assert not problems(*seated(OWNER, tmp_path), used(FILES))


def test_a_guests_seat_offers_what_its_tabs_use(tmp_path):
    """Also what is refused there: it takes what the engine takes, and says so."""
    for_guests = [path for path in FILES if path.parent.name in ("chat", "experts", "jobs", "ui")]
    chains = used(for_guests)
    assert {("library", "rename"), ("jobs", "history"), ("answers", "start")} <= chains
    assert not problems(*seated(GUEST, tmp_path), chains - {("start",)})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PROJECT_ROOT).as_posix())
def test_whoever_takes_an_engine_says_so(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            for argument in node.args.args:
                if argument.arg == "engine":
                    assert argument.annotation is not None, node.name
                    assert ast.unparse(argument.annotation) == "Engine", node.name


SOURCE = """
class Events:
    def __init__(self, engine):
        self.engine, self.desk = engine, engine.desk
        jobs = self.desk.jobs
    def act(self):
        self.desk.start(self.engine.chats.list()[0].title)
"""


def test_the_check_sees_attributes_under_other_names():
    chains = {("desk",), ("desk", "jobs"), ("desk", "start"), ("chats",), ("chats", "list")}
    assert used_in(SOURCE) == chains


def test_the_check_fails_for_what_is_missing_or_takes_something_else():
    def one(name, other="x"): ...

    def two(name): ...

    def three(name, other="x", *, more): ...

    def four(name, other): ...

    def five(name, other="x", more=0): ...

    def fails(fake: Any) -> str:
        return problems(SimpleNamespace(a=one), SimpleNamespace(**fake), {("a",)}).get("a", "")

    assert not fails({"a": one})
    assert not fails({"a": five})
    assert "'other' is not taken" in fails({"a": two})
    assert "more" in fails({"a": three})
    assert "'other' must be given" in fails({"a": four})
    assert "called" in fails({"a": 3})
    assert "no attribute 'a'" in fails({"b": one})

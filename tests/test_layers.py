"""The house, enforced: who may import whom, what a module is called, and how large things get."""

import ast
import statistics
import sys
from collections import Counter
from pathlib import Path

import pytest

from t2local.paths import PROJECT_ROOT

ROWS = (
    (
        "errors",
        "html",
        "locks",
        "paths",
        "pictures",
        "progress",
        "provenance",
        "statistics",
        "thinking",
        "untrusted",
    ),
    ("svf", "models", "tasks"),
    ("experts",),
    ("adapt",),
    ("training", "evaluation", "export"),
    ("engine", "plots"),
    ("bench", "experiments"),
    ("ui", "api", "cli"),
    ("app", "__main__"),
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
ONLY_IN = {
    "gradio": {"ui"},
    "fastapi": {"api"},
    "plotly": {"plots"},
    "bitsandbytes": {"models"},
    "peft": {"export", "experts", "training"},
}
SVF_MAY_IMPORT = {"torch", "safetensors", "triton"}  # beside the standard library and row 0
MOST_MODULES, LEAST_MEDIAN = 230, 130
MOST_LINES, LINES = 500, {"app.py": 60}
MOST_FUNCTION_LINES, LOOP = 60, "t2local/training/loop.py:train"
TAB_MODULES = {"layout", "events", "view"}  # each tab's folder in `ui` has them

SOURCES = [PROJECT_ROOT / "app.py", *sorted((PROJECT_ROOT / "t2local").rglob("*.py"))]
TESTS = sorted((PROJECT_ROOT / "tests").rglob("*.py"))
PACKAGE = [path for path in SOURCES if path.name != "app.py"]


def relative(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


def package_of(path: Path) -> str:
    """`t2local/svf/basis.py` -> svf, `t2local/errors.py` -> errors, `app.py` -> app."""
    parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "t2local" else parts[1]


def module_of(path: Path) -> str:
    """`t2local/svf/__init__.py` -> t2local.svf"""
    parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def imported(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: write imports in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_packages(path: Path) -> set[str]:
    """The parts of t2local that a file imports: `from t2local import paths` is `paths`."""
    split = (name.split(".") for name in imported(path))
    return {parts[1] for parts in split if parts[0] == "t2local"}


def import_graph() -> dict[str, set[str]]:
    """Module -> the modules of t2local it imports, also inside functions."""
    modules = {module_of(path): path for path in PACKAGE}
    graph = {}
    for module, path in modules.items():
        found = set()
        for name in imported(path):
            owner = name if name in modules else name.rpartition(".")[0]
            if owner in modules and owner != module:
                found.add(owner)
        graph[module] = found
    return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """One cycle of imports, or []."""
    done: set[str] = set()

    def follow(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            if found := follow(other, [*way, module]):
                return found
        done.add(module)
        return []

    for module in sorted(graph):
        if found := follow(module, []):
            return found
    return []


def functions(path: Path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_imports_only_from_rows_above_its_own(path):
    own = package_of(path)
    if own == "__init__":
        assert not own_packages(path)
        return
    assert own in ROW_OF, f"{relative(path)}: '{own}' stands in no row"
    for other in own_packages(path) - {own}:
        assert other in ROW_OF, f"{relative(path)} imports t2local.{other}, which has no row"
        above = ROW_OF[other] < ROW_OF[own] or ROW_OF[other] == ROW_OF[own] == 0
        assert above, f"{relative(path)} in row {ROW_OF[own]} imports {other} in {ROW_OF[other]}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_library_is_imported_only_where_it_belongs(path):
    outside = {name.split(".")[0] for name in imported(path)}
    for library, packages in ONLY_IN.items():
        assert library not in outside or package_of(path) in packages, (
            f"{relative(path)} imports {library}; only {sorted(packages)} may"
        )


@pytest.mark.parametrize("path", [p for p in SOURCES if package_of(p) == "svf"], ids=relative)
def test_svf_needs_torch_alone(path):
    outside = {name.split(".")[0] for name in imported(path)}
    assert outside - SVF_MAY_IMPORT - {"t2local"} <= sys.stdlib_module_names


def test_no_files_import_each_other_in_a_circle():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert not cycle_in(import_graph())


def test_no_two_modules_share_a_name():
    """A tab's folder has its own `layout`, `events` and `view`; a package its `__init__`."""
    names = Counter(
        path.stem
        for path in PACKAGE
        if path.stem != "__init__"
        and not (path.parent.parent.name == "ui" and path.stem in TAB_MODULES)
    )
    assert not {name: count for name, count in names.items() if count > 1}


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=relative)
def test_no_file_is_too_long(path):
    most = LINES.get(relative(path), MOST_LINES)
    assert lines_of(path) <= most, f"{relative(path)} has {lines_of(path)} lines"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_function_is_too_long(path):
    for name, lines in functions(path):
        if f"{relative(path)}:{name}" != LOOP:
            assert lines <= MOST_FUNCTION_LINES, f"{relative(path)}: {name} has {lines} lines"


def test_the_house_has_few_and_large_rooms():
    lines = [n for path in PACKAGE if (n := lines_of(path)) > 1]  # an empty __init__ is no room
    assert len(lines) <= MOST_MODULES, f"{len(lines)} modules"
    assert statistics.median(lines) >= LEAST_MEDIAN


def test_every_row_is_looked_at():
    """The checks above see the packages they are about."""
    assert {"svf", "models", "ui", "cli", "app"} <= {package_of(path) for path in SOURCES}

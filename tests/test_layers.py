"""The layers of the design, enforced: who may import whom, and how long a file may be."""

import ast
import sys
from pathlib import Path

import pytest

from t2local.paths import PROJECT_ROOT

ROWS = (
    ("errors", "paths", "pictures", "progress", "provenance"),
    ("svf", "models", "tasks"),
    ("experts",),
    ("adapt",),
    ("training", "evaluation", "export"),
    ("proof",),
    ("engine", "plots"),
    ("ui", "api", "cli"),
    ("app", "__main__"),
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
ONLY_IN = {
    "gradio": {"ui", "api"},
    "plotly": {"plots"},
    "bitsandbytes": {"models"},
    "peft": {"export", "training"},
}
SVF_MAY_IMPORT = {"torch", "safetensors", "triton"}  # beside the standard library and row 0
LINES = {"app.py": 60}
MOST_LINES = 300

SOURCES = [PROJECT_ROOT / "app.py", *sorted((PROJECT_ROOT / "t2local").rglob("*.py"))]
TESTS = sorted((PROJECT_ROOT / "tests").rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PROJECT_ROOT).as_posix()


def package_of(path: Path) -> str:
    """`t2local/svf/basis.py` -> svf, `t2local/errors.py` -> errors, `app.py` -> app."""
    parts = path.relative_to(PROJECT_ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "t2local" else parts[1]


def imported(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=relative)
def test_no_file_is_too_long(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES.get(relative(path), MOST_LINES), f"{relative(path)} has {lines} lines"


def test_every_row_is_looked_at():
    """The checks above see the packages they are about."""
    assert {"svf", "models", "ui", "cli", "app"} <= {package_of(path) for path in SOURCES}

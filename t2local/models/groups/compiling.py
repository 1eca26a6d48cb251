"""Compiled code of products and steps: made for this processor once, then read from the disk.

Making it takes a quarter of a minute, so a process of its own does it beside other work. LLVM also
ends a process where it cannot make something, and this one shall live.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from t2local import paths

PRODUCTS = "t2local.models.groups.products"
COMPILE = "from t2local.models.groups import compiling, model_step; compiling.noted()"
WHOLE = "whole"  # a file beside the code: all of it is there


def compiled_folder() -> Path:
    """Where it is kept: numba looks for changes in a function's own file alone.

    Raises `PackageNotFoundError` where there is no numba.
    """
    digest = hashlib.sha256(version("numba").encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return paths.home() / "compiled" / digest.hexdigest()[:16]


def noted() -> None:
    """Note that all has been compiled; where the disk has no room for that, it is done again."""
    with contextlib.suppress(OSError):
        (compiled_folder() / WHOLE).touch()


def compiling() -> Generator[None, None, str]:
    """Compile in a process of its own; a turn each time that somebody looks whether it goes on.

    Returns why that failed, "" where it did not, had been done before, or cannot be tried: whoever
    needs the code finds out. The process ends with the generator.
    """
    with contextlib.suppress(PackageNotFoundError, OSError), tempfile.TemporaryFile() as told:
        if PRODUCTS in sys.modules or (compiled_folder() / WHOLE).exists():
            return ""
        places = [str(paths.PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
        child = subprocess.Popen(
            [sys.executable, "-c", COMPILE],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            stdout=subprocess.DEVNULL,
            stderr=told,
        )
        try:
            while child.poll() is None:
                yield
        finally:
            child.kill()
            child.wait()
        told.seek(0)
        lines = told.read().decode("utf-8", "replace").strip().splitlines()
        if child.returncode != 0:
            return lines[-1] if lines else f"its compiler ended with {child.returncode}"
    return ""

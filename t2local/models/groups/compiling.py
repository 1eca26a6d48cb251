"""Compiled code of products and steps: made for this processor once, then read from the disk.

Making it takes a quarter of a minute, so a process of its own does it beside other work.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from t2local import paths

PRODUCTS = "t2local.models.groups.products"
COMPILE = "from t2local.models.groups import linear; linear.compiling_problem()"
WHOLE = "whole"  # a file beside the code: all of it is there


def compiled_folder() -> Path:
    """Where it is kept: numba looks for changes in a function's own file alone.

    Raises `PackageNotFoundError` where there is no numba.
    """
    digest = hashlib.sha256(version("numba").encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return paths.home() / "compiled" / digest.hexdigest()[:16]


def compiled_whole() -> None:
    """Note that all of it has been compiled."""
    with contextlib.suppress(OSError):
        (compiled_folder() / WHOLE).touch()


def compiling() -> Iterator[None]:
    """Compile in a process of its own; a turn each time that somebody looks whether it goes on.

    Nothing where that has been done before, or cannot be done: whoever needs the code finds out.
    """
    child = None
    with contextlib.suppress(PackageNotFoundError, OSError):
        if PRODUCTS not in sys.modules and not (compiled_folder() / WHOLE).exists():
            places = [str(paths.PROJECT_ROOT), os.environ.get("PYTHONPATH", "")]
            child = subprocess.Popen(
                [sys.executable, "-c", COMPILE],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
    while child is not None and child.poll() is None:
        yield

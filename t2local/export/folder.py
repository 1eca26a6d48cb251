"""A folder that comes to be all at once: written under a temporary name, then renamed.

Knows nothing of what is in it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t2local import paths
from t2local.errors import DiskFull, T2LocalError


@contextmanager
def new_folder(target: Path, needed_bytes: int) -> Iterator[Path]:
    """Give an empty temporary folder beside `target`; rename it if the block succeeds.

    Raises `T2LocalError` where `target` is there already, cannot be written, or space is short;
    nothing half-written stays.
    """
    _check_absent(target)
    temporary = None
    try:
        with paths.saving(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(target.parent).free
            if free < needed_bytes:
                raise DiskFull(
                    f"'{target}' needs {needed_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are "
                    "free; free some space, or choose another folder."
                )
            temporary = Path(
                tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
            )
            yield temporary
            temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
            for file in temporary.iterdir():
                file.chmod(0o644)  # and so are safetensors' files
            _check_absent(target)
            paths.move(temporary, target)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_absent(target: Path) -> None:
    if target.exists():
        raise T2LocalError(
            f"'{target}' is there already and was not touched; choose another --out, or remove it."
        )

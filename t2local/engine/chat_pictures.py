"""The pictures of a chat: copies in a folder of its own.

A file is named by what is in it, so one that is sent twice is kept once. Knows nothing of models.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from t2local import paths
from t2local.errors import T2LocalError
from t2local.pictures import check_picture, picture_kind

MOST_BYTES = 32 * 2**20  # of one file
MOST_PICTURES = 16  # of one message


def keep(folder: Path, sources: Sequence[str]) -> tuple[str, ...]:
    """Copy picture files into `folder` and give their paths there; all of them, or none.

    Raises `T2LocalError` for what is no picture, too large or too many, and for a full disk.
    """
    if len(sources) > MOST_PICTURES:
        raise T2LocalError(
            f"{len(sources)} pictures were attached; send at most {MOST_PICTURES} with a message."
        )
    for source in map(Path, sources):
        size = source.stat().st_size
        if size > MOST_BYTES:
            raise T2LocalError(
                f"The picture '{source.name}' has {size / 2**20:.0f} MB, the most is "
                f"{MOST_BYTES // 2**20}; make it smaller."
            )
        check_picture(str(source))
    return tuple(_copied(folder, Path(source)) for source in sources)


def forget(folder: Path) -> None:
    """Delete a chat's pictures; nothing happens where it had none."""
    shutil.rmtree(folder, ignore_errors=True)


def _copied(folder: Path, source: Path) -> str:
    content = source.read_bytes()
    name = f"{hashlib.sha256(content).hexdigest()[:24]}.{picture_kind(content) or 'img'}"
    kept = folder / name
    if not kept.is_file():
        with paths.atomic_write(kept) as temporary:
            temporary.write_bytes(content)
    return str(kept)

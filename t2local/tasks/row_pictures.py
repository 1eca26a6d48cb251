"""A row's pictures, whatever a file holds in that cell, as paths or data URIs that can be read.

Known: a path (relative to the data file), base64, a data URI, what `datasets` stores (`bytes` and
`path`), and lists of these. Knows nothing of models.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2local.pictures import check_picture, resolved


def pictures_of(value: Any, folder: Path) -> str | list[str]:
    """One picture, or all of a list. `folder`: where the data file is.

    Raises `T2LocalError` for a picture that is missing or damaged, `ValueError` for a cell that
    holds none.
    """
    if isinstance(value, list):
        return [_picture(part, folder) for part in value]
    return _picture(value, folder)


def _picture(value: Any, folder: Path) -> str:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the picture is a {type(value).__name__}, not a path or base64")
    picture = resolved(value, folder)
    check_picture(picture)
    return picture

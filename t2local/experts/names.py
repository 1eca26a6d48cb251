"""What an expert may be called: the same rule for training, renaming, copying and importing.

A name is a file's name and a label of the dispatcher. Knows nothing of files or models.
"""

from collections.abc import Collection

from t2local import paths
from t2local.errors import T2LocalError

RESERVED = ("base", "manual", "other")  # the dispatcher's own words
LONGEST = 64  # characters; with its ending it is a file's name everywhere


def check_name(name: str) -> str:
    """Give `name` back. Raises `T2LocalError` for one that cannot be an expert's."""
    if name.casefold() in RESERVED:
        raise T2LocalError(
            f"'{name}' already means something to the dispatcher; choose another name."
        )
    if not name.strip() or paths.slug(name) != name:
        raise T2LocalError(
            f"'{name}' cannot be an expert's name; "
            "use letters, digits, dots, dashes and underscores."
        )
    if len(name) > LONGEST:
        raise T2LocalError(
            f"The name '{name[:20]}…' has {len(name)} characters; use {LONGEST} at most."
        )
    return name


def is_taken(name: str, taken: Collection[str]) -> bool:
    """Whether two files of these names would be one where capitals do not count."""
    return name.casefold() in {other.casefold() for other in taken}


def free_name(wanted: str, taken: Collection[str]) -> str:
    """`wanted`, or `wanted-2`, `wanted-3`, ... where it is taken or cannot be a name."""
    stem = paths.slug(wanted)[: LONGEST - 5].rstrip("-.") or "expert"
    if not is_taken(stem, (*taken, *RESERVED)):
        return stem
    number = 2
    while is_taken(f"{stem}-{number}", taken):
        number += 1
    return f"{stem}-{number}"


def check_free(name: str, taken: Collection[str]) -> str:
    """`name` itself. Raises `T2LocalError` where it cannot be a name or is one already."""
    check_name(name)
    if is_taken(name, taken):
        raise T2LocalError(
            f"There is an expert '{name}' already; choose another name, such as "
            f"'{free_name(name, taken)}'."
        )
    return name

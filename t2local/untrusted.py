"""Files that are read back, and the JSON in them: of bounded size and depth, of the types expected.

A file may be damaged, or made by somebody who wants to do harm. Whatever is wrong is a `ValueError`
(`OSError` where the system refuses) whose text says where and what, `'status.step' is a text, not a
whole number`; whoever reads the file makes a sentence of it. Also here: opening a file that may be
no file at all, such as a pipe that nobody writes to.
"""

import json
import math
import os
import stat
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, is_typeddict

from t2local.errors import T2LocalError

MOST_BYTES = 64 * 2**20  # of one document
MOST_LINES_BYTES = 512 * 2**20  # of a file that grows by a line an event
DEEPEST = 50  # lists and objects inside one another
EXACT = 2**53  # up to here a float says which whole number is meant
LONGEST_NUMBER = 40  # characters of a whole number; one of ours has 20 at most
_WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false",
    type(None): "nothing", dict: "an object", list: "a list",
}  # fmt: skip
# Without O_NONBLOCK a pipe is waited for; neither flag exists on Windows, where O_BINARY does.
_FLAGS = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
OPEN_FLAGS = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in _FLAGS)


# --- The bytes of a file.


def file_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """All of a plain file. A pipe, a device, a folder and what is larger is refused unread.

    The size and the kind are those of the opened file, so nothing can be put in its place between.
    """
    return read_handle(os.open(path, OPEN_FLAGS), most_bytes)


def read_handle(handle: int, most_bytes: int) -> bytes:
    """As `file_bytes`, of a file that is open; closes it."""
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no plain file")
        content = b""
        if about.st_size <= most_bytes:
            with open(handle, "rb", closefd=False) as file:
                content = file.read(most_bytes + 1)
        if max(about.st_size, len(content)) > most_bytes:
            raise ValueError(f"it has more than {most_bytes / 2**20:.3g} MB")
        return content
    finally:
        os.close(handle)


# --- JSON.


def read_document(
    path: Path, most_bytes: int = MOST_BYTES, finite: bool = True, once: bool = True
) -> dict[str, Any]:
    """The object that a JSON file holds. `finite`, `once`: as in `parsed`."""
    return typed(dict, parsed(file_bytes(path, most_bytes), finite, once))


def read_lines(path: Path, most_bytes: int = MOST_LINES_BYTES) -> Iterator[Any]:
    """The values of a file with one a line; a line that is no JSON is passed over.

    A crash may cut off the last one. NaN and infinity count as numbers: measurements may have them.
    """
    for line in file_bytes(path, most_bytes).splitlines():
        try:
            value = parsed(line, finite=False)
        except ValueError:
            continue
        yield value


def parsed(text: str | bytes, finite: bool = True, once: bool = True) -> Any:
    """The value of a JSON text in UTF-8.

    Refused: a number of very many digits, half of a character, more than `DEEPEST` lists and
    objects inside one another; where `once`, a name that comes twice (else the last counts, as for
    everybody who reads other people's files); and where `finite`, NaN and infinity.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        value = json.loads(
            text,
            object_pairs_hook=_different_names if once else None,
            parse_constant=_no_constant if finite else None,
            parse_float=_finite if finite else None,
            parse_int=_whole,
        )
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    _check_parts(value)
    return value


_TOO_DEEP = f"more than {DEEPEST} lists and objects lie inside one another"


def _different_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name '{word(twice)}' comes twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {word(text)} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _check_parts(value: Any) -> None:
    """One level of nesting after another, for a recursion would itself end at some depth."""
    level = [value]
    for _ in range(DEEPEST + 1):
        deeper: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                deeper += part
                deeper += part.values()
            elif isinstance(part, list):
                deeper += part
            elif isinstance(part, str) and not encodes(part):
                raise ValueError("half of a character (a lone surrogate) stands in a text")
        level = deeper
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def encodes(text: str) -> bool:
    """Whether a text can be written down: half of a character, a lone surrogate, cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_encodes(text: str, what: str) -> None:
    """Raise `T2LocalError` for a text of a person's that cannot be written down; `what` it is."""
    if not encodes(text):
        raise T2LocalError(
            f"{what[:1].upper()}{what[1:]} is not UTF-8 text: half of a character (a lone "
            "surrogate) stands in it; take it out, or check your terminal's encoding."
        )


# --- Values of the types one expects.


def typed(kind: Any, value: Any, where: str = "") -> Any:
    """`value`, taken from JSON, as `kind`: a type, a dataclass, or what annotates a field.

    A list becomes the tuple, an object the dataclass that is asked for, a whole number the float,
    256.0 the whole number; a dataclass's missing fields take their defaults, and names that it does
    not have are left out (another version's file may have them); of a `TypedDict` they are kept.
    Raises `ValueError` that says where the first fault is.

    >>> typed(tuple[int, ...], [1, 2])
    (1, 2)
    """
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(parts, value, where)
    if kind is Any:
        return value
    if origin in (int, float, str, bool, type(None)):
        return _plain(origin, value, where)
    if is_dataclass(origin):
        return origin(**_fields(origin, _of(dict, value, where), where))
    if is_typeddict(origin):
        return value | _fields(origin, _of(dict, value, where), where)
    if issubclass(origin, Mapping):
        name, part = parts or (str, Any)
        return {
            typed(name, n, where): typed(part, v, _inside(where, n))
            for n, v in _of(dict, value, where).items()
        }
    assert issubclass(origin, Sequence), kind
    return _sequence(origin, parts, _of(list, value, where), where)


def _plain(kind: type, value: Any, where: str) -> Any:
    """A `bool` is no number, although Python calls it one."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer() and abs(value) <= EXACT:
        return int(value)  # other programs write 256.0 for 256
    return _of(kind, value, where)


def _of(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:
        found = _WORDS.get(type(value), type(value).__name__)
        raise ValueError(f"{_quoted(where)} is {found}, not {_WORDS[kind]}")
    return value


def _one_of(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """`X | None`; of several kinds the first that fits."""
    if value is None and type(None) in kinds:
        return None
    faults = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return typed(kind, value, where)
            except ValueError as fault:
                faults.append(fault)
    raise faults[0]


def _sequence(origin: type, parts: Sequence[Any], values: list[Any], where: str) -> Any:
    if not parts:
        parts = (Any, ...)
    if origin is tuple and parts[-1] is not Ellipsis:
        if len(values) != len(parts):
            raise ValueError(f"{_quoted(where)} has {len(values)} entries, not {len(parts)}")
        kinds = parts
    else:
        kinds = (parts[0],) * len(values)
    pairs = zip(kinds, values, strict=True)
    found = [typed(kind, value, f"{where}[{i}]") for i, (kind, value) in enumerate(pairs)]
    return found if origin is list else tuple(found)


def _fields(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    lacking = [name for name in _needed(kind) if name not in values]
    if lacking:
        raise ValueError(f"{_quoted(where)} lacks '{lacking[0]}'")
    annotated = _annotations(kind)
    known = values.keys() & annotated.keys()
    return {n: typed(annotated[n], values[n], _inside(where, n)) for n in sorted(known)}


@cache
def _annotations(kind: type) -> Mapping[str, Any]:
    if is_typeddict(kind):
        return kind.__annotations__
    return {f.name: f.type for f in fields(kind) if f.init}


@cache
def _needed(kind: type) -> tuple[str, ...]:
    if is_typeddict(kind):
        return tuple(sorted(kind.__required_keys__))
    return tuple(
        f.name
        for f in fields(kind)
        if f.init and f.default is MISSING and f.default_factory is MISSING
    )


def _inside(where: str, name: str) -> str:
    return f"{where}.{word(name)}" if where else word(name)


def _quoted(where: str) -> str:
    return f"'{where}'" if where else "it"


def word(text: str) -> str:
    """A name out of a file, inside a sentence: printable, and cut after 40 characters."""
    text = "".join(c if c.isprintable() else " " for c in text[:41])
    return f"{text[:40]}…" if len(text) > 40 else text

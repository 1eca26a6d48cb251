"""Files as a fault, a crash or an enemy leaves them: one way to spoil a good one after another.

`spoilt(text, rng)` gives the bytes of a JSON file with one thing wrong; `no_file(path, rng)` puts
something else in a file's place. Both are drawn by a seeded generator, so a failure comes again.
"""

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRONG_VALUES = (
    None, True, -1, 0, 10**30, 1e308, -1e308, "x", "<img src=x onerror=alert(1)>", "../../up", "",
    [], {}, [[]], [None], {"a": 1}, [1, "2"], {"": {}},
)  # fmt: skip
TOKENS = (
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    '"\\ud800"',
    "nul",
    '{"a": 1, "a": 2}',
    "[" * 500,
)


def places(value: Any, way: tuple = ()) -> Iterator[tuple]:
    """The ways to every part of a JSON value, the whole of it last."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for name, part in value.items() if isinstance(value, dict) else ():
        yield from places(part, (*way, name))
    yield way


def with_part(value: Any, way: tuple, part: Any) -> Any:
    if not way:
        return part
    copy = value.copy()
    copy[way[0]] = with_part(value[way[0]], way[1:], part)
    return copy


def other_type(text: str, rng: random.Random) -> bytes:
    value = json.loads(text)
    way = rng.choice(list(places(value)))
    return json.dumps(with_part(value, way, rng.choice(WRONG_VALUES))).encode()


def token(text: str, rng: random.Random) -> bytes:
    value = json.loads(text)
    way = rng.choice(list(places(value)))
    return (
        json.dumps(with_part(value, way, "<HERE>")).replace('"<HERE>"', rng.choice(TOKENS)).encode()
    )


def without_a_part(text: str, rng: random.Random) -> bytes:
    value = json.loads(text)
    way = rng.choice([way for way in places(value) if way])
    whole = value
    for name in way[:-1]:
        value = value[name]
    del value[way[-1]]
    return json.dumps(whole).encode()


def twice(text: str, rng: random.Random) -> bytes:
    return text.replace("{", '{"schema": 1, "schema": 1,', 1).encode()


def cut(text: str, rng: random.Random) -> bytes:
    return text.encode()[: rng.randrange(len(text))]


def deep(text: str, rng: random.Random) -> bytes:
    return rng.choice([b"[" * 100_000, b'{"a":' * 100_000, b"[" * 60 + b"]" * 60])


def long(text: str, rng: random.Random) -> bytes:
    value = json.loads(text)
    way = rng.choice(list(places(value)))
    return json.dumps(with_part(value, way, "x" * 300_000)).encode()


def other_encoding(text: str, rng: random.Random) -> bytes:
    return text.encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))


def noise(text: str, rng: random.Random) -> bytes:
    content = bytearray(text.encode())
    for _ in range(rng.randrange(1, 5)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def empty(text: str, rng: random.Random) -> bytes:
    return rng.choice([b"", b"\0" * 100, b" \n", b"null", b"[]", b'""', b"7"])


WAYS = (
    other_type, other_type, other_type, other_type, token, token, without_a_part, twice, cut, deep,
    long, other_encoding, noise, empty,
)  # fmt: skip


def spoilt(text: str, rng: random.Random) -> bytes:
    return rng.choice(WAYS)(text, rng)


def no_file(path: Path, rng: random.Random) -> None:
    """A folder, a pipe, a link to itself or to nothing, where a file is expected."""
    path.unlink(missing_ok=True)
    kinds = ["folder"] if sys.platform == "win32" else ["folder", "pipe", "loop", "gone", "zero"]
    kind = rng.choice(kinds)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"loop": path, "gone": path.parent / "gone", "zero": "/dev/zero"}[kind])

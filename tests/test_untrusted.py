"""What is read back from disk: of bounded size and depth, of the types that are expected."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pytest

from t2local.untrusted import (
    DEEPEST,
    file_bytes,
    parsed,
    read_document,
    read_lines,
    typed,
)


@dataclass(frozen=True)
class Inner:
    name: str
    share: float = 0.5


class Said(TypedDict, total=False):
    tokens: int


@dataclass(frozen=True)
class Outer:
    inner: Inner
    numbers: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    weights: Mapping[str, float] | None = None
    said: Said | None = None
    anything: Any = None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": 1, "a": 2}', "'a' comes twice"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "is no number"),
        ("[1e999]", "too large"),
        ("1" * 100, "100 digits"),
        ("[" * 100_000, "inside one another"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "inside one another"),
        ('["\\ud800"]', "surrogate"),
        (b"\xff\xfe{}", "decode"),
        ("", "Expecting value"),
    ],
)
def test_what_is_no_json_of_ours_is_told(text, fault):
    with pytest.raises(ValueError, match=fault):
        parsed(text)


def test_plain_json_is_read_and_measurements_may_be_infinite():
    assert parsed('{"a": [1, 2.5, "é", null, true]}') == {"a": [1, 2.5, "é", None, True]}
    assert parsed("[-Infinity]", finite=False) == [float("-inf")]
    assert parsed('{"a": 1, "a": 2}', once=False) == {"a": 2}
    with pytest.raises(ValueError, match="comes twice"):
        parsed('{"a": 1, "a": 2}', finite=False)


def test_a_whole_number_may_be_written_with_a_point():
    assert repr(typed(int, 256.0)) == "256"
    for no_whole_number in (256.5, float("inf"), float("nan"), 1e300, True):
        with pytest.raises(ValueError, match="not a whole number"):
            typed(int, no_whole_number)


def test_values_become_what_a_dataclass_says():
    found = typed(
        Outer,
        {
            "inner": {"name": "x", "share": 1, "newer": 3},
            "numbers": [1, 2],
            "pair": [1, "b"],
            "weights": {"m": 2},
            "said": {"tokens": 3, "more": "kept"},
            "anything": [{}],
        },
    )
    said = {"tokens": 3, "more": "kept"}
    assert found == Outer(Inner("x", 1.0), (1, 2), (1, "b"), {"m": 2.0}, said, [{}])
    assert isinstance(found.inner.share, float)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([], "it is a list, not an object"),
        ({}, "it lacks 'inner'"),
        ({"inner": {}}, "'inner' lacks 'name'"),
        ({"inner": {"name": 3}}, "'inner.name' is a whole number, not a text"),
        ({"inner": {"name": "x", "share": True}}, "'inner.share' is true or false, not a number"),
        ({"inner": {"name": "x"}, "numbers": [1, "2"]}, r"'numbers\[1\]' is a text"),
        ({"inner": {"name": "x"}, "numbers": [1.5]}, r"'numbers\[0\]' is a number, not a whole"),
        ({"inner": {"name": "x"}, "pair": [1]}, "'pair' has 1 entries, not 2"),
        ({"inner": {"name": "x"}, "weights": {"m": None}}, "'weights.m' is nothing, not a number"),
        ({"inner": {"name": "x"}, "said": {"tokens": "<b>"}}, "'said.tokens' is a text"),
    ],
)
def test_the_first_fault_is_told_with_its_place(values, fault):
    with pytest.raises(ValueError, match=fault):
        typed(Outer, values)


def test_a_name_out_of_a_file_fits_into_a_sentence():
    with pytest.raises(ValueError, match="is a text") as error:
        typed(Mapping[str, int], {"line\nbreak" + "x" * 10_000: "text"})
    assert len(str(error.value)) < 120
    assert "\n" not in str(error.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # no machine could read it
    with pytest.raises(ValueError, match="more than"):
        read_document(path)


def n_open() -> int:
    """Files that this process has open, where Linux tells."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes in folders")
def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opened to be read, it would wait for a writer
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = n_open()
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "loop", "/dev/zero", tmp_path / "gone"):
        with pytest.raises((ValueError, OSError)):
            file_bytes(path)
    assert n_open() == before, "a file was left open"


def test_lines_that_are_no_json_are_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a": 1}\nnonsense\n[[[\n\xff\xff\n{"a": 2, "a": 3}\n{"a": 4}\n{"a"')
    assert list(read_lines(path)) == [{"a": 1}, {"a": 4}]

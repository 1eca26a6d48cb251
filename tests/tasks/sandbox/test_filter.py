"""The system call filter, followed step by step as the kernel would, for both processors."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from t2local.tasks.sandbox import walls

KILLED, ALLOWED, REFUSED, UNKNOWN = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
COLUMN = {"x86_64": 0, "aarch64": 1}
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
THREAD, NEW_NETWORK = 0x00010000, 0x40000000


@pytest.fixture(params=COLUMN)
def processor(request, monkeypatch):
    monkeypatch.setattr(walls.os, "uname", lambda: SimpleNamespace(machine=request.param))
    return request.param


def verdict(processor: str, number: int, *arguments: int, architecture: int = 0) -> int:
    """What the filter answers to a call."""
    head = [number, architecture or ARCHITECTURE[processor]]
    call = b"".join(value.to_bytes(4, "little") for value in head) + bytes(8)
    for value in (*arguments, *[0] * (6 - len(arguments))):
        call += (value % 2**64).to_bytes(8, "little")
    program, at, held = walls._filter(), 0, 0
    while True:
        step = program[8 * at : 8 * at + 8]
        code, value = int.from_bytes(step[:2], "little"), int.from_bytes(step[4:], "little")
        at += 1
        if code == 0x20:  # load a word of the call
            held = int.from_bytes(call[value : value + 4], "little")
        elif code == 0x54:
            held &= value
        elif code == 0x15:
            at += step[2] if held == value else step[3]
        elif code == 0x35:
            at += step[2] if held >= value else step[3]
        else:
            assert code == 0x06
            return value


def numbers(processor: str) -> dict[str, int]:
    words = walls._ALLOWED.split()
    listed = zip(words[::3], words[COLUMN[processor] + 1 :: 3], strict=True)
    return {name: int(number) for name, number in listed if number != "-"}


def test_the_listed_calls_are_allowed_and_no_other(processor):
    plain = set(numbers(processor).values())
    on_terms = {pair[COLUMN[processor]] for pair in walls._ON_TERMS.values()}
    assert not plain & on_terms
    for number in {*range(600), 0x40000000 + 57} - on_terms:
        wanted = ALLOWED if number in plain else REFUSED if number < 435 else UNKNOWN
        assert verdict(processor, number) == wanted


def test_a_call_of_another_processor_ends_the_process(processor):
    assert verdict(processor, 0, architecture=0x40000003) == KILLED


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("clone", (THREAD | 0x3D0F00,), ALLOWED),
        ("clone", (17,), REFUSED),
        ("clone", (THREAD | NEW_NETWORK,), REFUSED),
        ("socketpair", (1,), ALLOWED),
        ("socketpair", (2,), REFUSED),
        ("sendto", (3, 1, 1, 0, 0), ALLOWED),
        ("sendto", (3, 1, 1, 0, 0x1000), REFUSED),
        ("sendto", (3, 1, 1, 0, 0x100000000), REFUSED),
        ("kill", (os.getpid(),), ALLOWED),
        ("kill", (os.getppid(),), REFUSED),
        ("kill", (0,), REFUSED),
        ("kill", (-1,), REFUSED),
        ("tgkill", (os.getppid(),), REFUSED),
        ("prlimit64", (0,), ALLOWED),
        ("prlimit64", (1,), REFUSED),
        ("sched_setaffinity", (1,), REFUSED),
        ("prctl", (15,), ALLOWED),
        ("prctl", (4,), REFUSED),
        ("ioctl", (0, 0x5401), ALLOWED),
        ("ioctl", (0, 0x5412), REFUSED),
        ("fcntl", (0, 4), ALLOWED),
        ("fcntl", (0, 8), REFUSED),
        ("fcntl", (0, 1031), REFUSED),
        ("utimensat", (3, 0), ALLOWED),
        ("utimensat", (-100, 0x7F0000000000), REFUSED),
    ],
)
def test_the_terms_of_a_call(processor, name, arguments, wanted):
    number = walls._ON_TERMS[name][COLUMN[processor]]
    assert verdict(processor, number, *arguments) == wanted


def test_the_numbers_are_the_kernels(processor):
    path = Path(HEADERS[processor])
    if not path.exists():
        pytest.skip("the kernel's headers are not here")
    text = path.read_text().replace("__NR3264_", "__NR_").replace("NR_fstatat ", "NR_newfstatat ")
    found: dict[str, int] = {}
    for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)", text):
        found.setdefault(name, int(number))
    ours = numbers(processor)
    ours |= {name: pair[COLUMN[processor]] for name, pair in walls._ON_TERMS.items()}
    assert {name: found[name] for name in ours} == ours


def test_another_processor_has_no_filter(monkeypatch):
    monkeypatch.setattr(walls.os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    with pytest.raises(OSError, match="no filter for this processor"):
        walls._filter()

"""What holds when the audit hook is gone: each program here runs without it, or is rid of it.

In every set of walls that this machine has, started as root and as an ordinary user.
"""

import ctypes
import functools
import importlib
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from t2local.errors import T2LocalError
from t2local.tasks.sandbox import process, protection, run_code, run_tests
from tests.tasks.sandbox import attacks
from tests.tasks.sandbox.test_hostile import MAIN, MODES, left_running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="walls are Linux's")
SYSTEM_PYTHON = "/usr/bin/python3"  # one that every user can start
NOBODY = 65534
FILTERED = [walls for walls in MODES if process.SECCOMP in walls]


def as_nobody(folder: str, telling: int, reading: int) -> subprocess.Popen:
    """The launcher as a user without rights starts it."""
    os.chown(folder, NOBODY, NOBODY)
    return subprocess.Popen(
        [SYSTEM_PYTHON, *process._LAUNCH, str(telling), str(reading)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        pass_fds=(telling, reading), env={}, cwd=folder, start_new_session=True, bufsize=0,
        user=NOBODY, group=NOBODY, extra_groups=[],
    )  # fmt: skip


@pytest.fixture(params=["as we are", "as nobody"])
def user(request, monkeypatch):
    if request.param == "as nobody":
        if os.getuid() != 0 or not Path(SYSTEM_PYTHON).exists():
            pytest.skip("only root starts the launcher as another user")
        monkeypatch.setattr(process, "_start", as_nobody)
        monkeypatch.setattr(process, "_user", lambda walls: 0)
    return request.param


@pytest.fixture(params=MODES, ids="+".join)
def walls(request, user, monkeypatch):
    """Every set of walls."""
    return _put_up(request.param, user, monkeypatch)


@pytest.fixture(params=MAIN, ids="+".join)
def either(request, user, monkeypatch):
    """All walls, and either kind alone."""
    return _put_up(request.param, user, monkeypatch)


def _put_up(walls, user, monkeypatch):
    if user == "as nobody" and not process._holds(walls):
        pytest.skip("this machine allows it to root only")
    monkeypatch.setattr(process, "_walls", lambda: walls)
    return walls


@pytest.fixture
def hookless(monkeypatch):
    job = process._job
    monkeypatch.setattr(process, "_job", lambda *asked: job(*asked) | {"hook": False})


@pytest.fixture
def outside(tmp_path):
    """Constants of `attacks.WAYS`: what is to be had outside, and what listens there."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    secret = tmp_path / "secret"
    secret.write_text("blue-heron-42")
    secret.chmod(0o666)
    path, abstract = str(tmp_path / "line"), "t2local-" + secrets.token_hex(8)
    with (
        socket.socket(socket.AF_UNIX) as one,
        socket.socket(socket.AF_UNIX) as two,
        socket.create_server(("127.0.0.1", 0)) as three,
    ):
        one.bind(path)
        two.bind("\0" + abstract)
        one.listen()
        two.listen()
        Path(path).chmod(0o777)
        yield {
            "SECRET": str(secret), "TARGET": str(tmp_path / "evil"), "SOCKET": path,
            "ABSTRACT": abstract, "PORT": three.getsockname()[1], "APP": os.getpid(),
            "EXECUTABLE": process._python(),
        }  # fmt: skip


def _indented(source: str, spaces: int) -> str:
    return textwrap.indent(source, " " * spaces)


def with_constants(values: dict, source: str) -> str:
    return "".join(f"{name} = {value!r}\n" for name, value in values.items()) + source


def test_no_way_leads_outside(walls, hookless, outside):
    result = run_code(with_constants(outside, attacks.WAYS), timeout_s=20)
    assert result.ok, result.error
    assert "OPEN" not in result.stdout
    assert Path(outside["SECRET"]).read_text() == "blue-heron-42"
    assert not Path(outside["TARGET"]).exists()
    assert Path(outside["SECRET"]).stat().st_mode & 0o777 == 0o666


def test_the_ways_are_ways(outside, tmp_path):
    """Without walls they are open, or the test above could not fail."""
    program = with_constants(outside, attacks.WAYS)
    plain = [sys.executable, "-I", "-c", program]
    said = subprocess.run(plain, cwd=tmp_path, capture_output=True, text=True, timeout=60).stdout
    for way in ("read /etc/passwd", "chmod", "local socket", "datagram", "abstract", "internet"):
        assert way == "datagram" or f"OPEN {way}" in said


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are x86_64's")
@pytest.mark.parametrize("walls", FILTERED, ids="+".join)
def test_no_dangerous_call_is_possible(walls, user, hookless, monkeypatch):
    monkeypatch.setattr(process, "_walls", lambda: walls)
    result = run_code(attacks.DANGEROUS)
    assert result.ok, result.error
    assert result.stdout == ""


def test_an_error_inside_the_hook_leaves_no_way_to_it():
    program = attacks.THROUGH_FRAMES + "import gc\ngc.get_objects()"
    assert run_code(program, timeout_s=20).error.startswith("refused: ")


@pytest.mark.parametrize("removal", attacks.REMOVALS)
def test_a_program_rid_of_the_hook_reaches_nothing(removal, walls, outside):
    attack = attacks.REMOVALS[removal] + with_constants(outside, attacks.WAYS)
    program = f"def answer():\n{_indented(attack, 4)}\n    return 1"
    result = run_tests(program, ["answer()", "assert answer() == 2"], timeout_s=20)
    assert not result.ok
    assert "OPEN" not in result.stdout
    assert Path(outside["SECRET"]).read_text() == "blue-heron-42"


def test_the_tests_of_a_dataset_stand_behind_the_same_walls(walls, outside):
    attack = attacks.THROUGH_GC + with_constants(outside, attacks.WAYS)
    result = run_tests("def f(): return 1", [attack], entry_point="f", timeout_s=20)
    assert "OPEN" not in result.stdout
    assert Path(outside["SECRET"]).read_text() == "blue-heron-42"


def secret_value() -> str:
    return "KEY-" + secrets.token_hex(8)


PEEKS = {
    "its memory": "(sorted(find(rb'KEY-[0-9a-f]{16}')) or [b'none'])[-1].decode()",
    "its objects": "next((o for o in gc.get_objects() if 'KEY-' in str(o)[:99]), 'none')",
    "its globals": "globals().get('WANTED', 'none')",
    "the reference": "reference()",
}


@pytest.mark.parametrize("peek", PEEKS)
def test_no_test_and_no_expected_value_is_found_in_the_programs_process(peek, either, hookless):
    program = f"{attacks.SEARCH}\ndef answer(): return {PEEKS[peek]}"
    wanted, other = secret_value(), secret_value()
    setup = f"WANTED = {wanted!r}\ndef reference(): return {wanted!r}"
    tests = [f"assert answer() == {one!r}" for one in (wanted, other)]
    result = run_tests(program, tests, setup=setup, entry_point="answer", timeout_s=30)
    assert result.parses
    assert result.passed == (False, False)


def test_the_search_finds_what_is_there(either, hookless):
    """Or the test above could not fail."""
    program = f"{attacks.SEARCH}\nhidden = ['KEY-' + 'ab' * 8]\nprint(find(rb'KEY-[0-9a-f]{{16}}'))"
    assert "KEY-abababababababab" in run_code(program, timeout_s=30).stdout


FORGERIES = {
    "every descriptor": "for n in range(3, 64):\n    try: os.write(n, b'sdPP' * 99)\n"
    "    except OSError: pass",
    "another's descriptors": "for p in (os.getppid(), 1, 2, 3):\n    for n in range(64):\n"
    "        try: open(f'/proc/{p}/fd/{n}', 'wb').write(b'sdPP' * 99)\n"
    "        except OSError: pass",
    "an endless message": "while 1: os.write(4, b'\\xff' * 65536)",
    "a deep message": "body = b'l1:' * 10**5\nos.write(4, len(body).to_bytes(8, 'big') + body)",
    "a huge message": "os.write(4, b'\\x7f' * 8)",
    "half a message": "os.write(4, bytes(7) + b'\\x09x')",
    "a foolish message": "body = b's3:abc'\nos.write(4, len(body).to_bytes(8, 'big') + body)",
}


@pytest.mark.parametrize("when", ["loaded", "called"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_verdict_cannot_be_forged(forgery, when, user, hookless):
    program = f"import os\ndef answer():\n{_indented(FORGERIES[forgery], 4)}\n    return 1\n"
    program += "answer()" if when == "loaded" else ""
    tests = ["assert answer() == 2", "try: answer()\nexcept: pass\nassert answer() == 2"]
    result = run_tests(program, tests, entry_point="answer", timeout_s=2)
    assert not any(result.passed)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_not_even_without_walls(forgery, user, hookless, monkeypatch):
    monkeypatch.setattr(process, "_walls", tuple)
    program = f"import os\ndef answer():\n    def act():\n{_indented(FORGERIES[forgery], 8)}\n"
    program += "    act()\n    return 1"
    assert not run_tests(program, ["assert answer() == 2"], entry_point="answer", timeout_s=2).ok


def test_what_the_app_knows_is_closed_to_its_user_even_without_walls(hookless, monkeypatch):
    monkeypatch.setattr(process, "_walls", tuple)
    names = [f"/proc/{os.getpid()}/{name}" for name in ("environ", "mem", "maps", "fd/0")]
    program = f"for name in {names}:\n    try: open(name, 'rb').read(1); print('OPEN', name)\n"
    result = run_code(program + "    except OSError: pass")
    assert result.ok
    assert result.stdout == ""


def test_a_reply_that_makes_no_sense_is_no_expected_error(hookless):
    program = "import os\ndef f():\n    os.write(4, b'\\x7f' * 8)\n    return 1"
    test = "try: f()\nexcept BaseException: pass"
    assert run_tests(program, [test], entry_point="f", timeout_s=2).passed == (False,)


@pytest.mark.parametrize(
    "modes", [walls for walls in MODES if process.SECCOMP not in walls], ids="+".join
)
def test_memory_is_limited_for_all_processes_together(modes, hookless, monkeypatch):
    monkeypatch.setattr(process, "_walls", lambda: modes)
    started = time.monotonic()
    result = run_code(attacks.SUM, timeout_s=20, memory_bytes=400 * 2**20)
    assert result.error == f"took more than {400 * 2**20} bytes of memory in all its processes"
    assert time.monotonic() - started < 15
    assert not left_running()


def test_eight_children_are_refused_or_limited(walls, hookless):
    result = run_code(attacks.SUM, timeout_s=20, memory_bytes=400 * 2**20)
    assert not result.ok
    assert "not permitted" in result.error or "in all its processes" in result.error


FILLS = {
    "large files": "for n in range(999): open(str(n), 'wb').write(bytes(2**22))",
    "many files": "for n in range(10**6): open(str(n), 'wb')",
    "deep folders": "import os\nfor n in range(10**6): os.mkdir('d' * 20 + str(n))",
    "removed files": attacks.REMOVED + "keep = lambda handle: kept.append(handle)\nfill(40)",
    "removed and mapped files": attacks.REMOVED + attacks.MAPPED + "fill(100)",
    "such by the name of memory": attacks.REMOVED + attacks.MAPPED + "os.mkdir('dev')\n"
    "fill(100, 'dev/zero')",
}


@pytest.mark.parametrize("fill", FILLS)
def test_a_folder_is_not_filled(fill, either, hookless):
    result = run_code(FILLS[fill] + "\nimport time\ntime.sleep(5)", timeout_s=10)
    assert not result.ok
    assert "No space left" in result.error or "wrote more than" in result.error


SHARES = {"files of no folder": attacks.MEMORY_FILES, "segments of nobody": attacks.SEGMENTS}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    "modes", [walls for walls in MODES if process.SECCOMP not in walls], ids="+".join
)
def test_memory_of_no_process_is_limited_too(share, modes, hookless, monkeypatch):
    monkeypatch.setattr(process, "_walls", lambda: modes)
    result = run_code(SHARES[share], timeout_s=10, memory_bytes=256 * 2**20)
    assert "wrote more than" in result.error or "took more than" in result.error


def test_the_disk_is_not_filled_where_nobody_can_look(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(process._LAUNCHER.parent))
    launcher = importlib.import_module("launcher")
    watch = launcher._Watch({"memory_bytes": 2**30, "walls": ()}, str(tmp_path), None, [])
    assert not watch.trouble()
    monkeypatch.setattr(launcher, "_free_bytes", lambda folder: 2**20)
    assert "wrote more than" in watch.trouble()
    watch.free_bytes = 2**21  # it was full before
    assert not watch.trouble()


def test_folders_below_folders_are_removed_all_the_same(either, hookless, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    program = "import os\nat = os.open('.', 0)\nfor _ in range(1200):\n"
    program += "    os.mkdir('d', dir_fd=at)\n    at, old = os.open('d', 0, dir_fd=at), at\n"
    assert run_code(program + "    os.close(old)").ok
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "trick",
    [
        "import signal\nfor n in range(1, 64):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        "import time\ntime.time = time.monotonic = lambda: 0\ntime.sleep(60)",
        "import signal\nsignal.alarm(0)\nsignal.pause()",
    ],
    ids=["ignores signals", "changes the clock", "waits for a signal"],
)
def test_time_is_kept_outside(trick, either, hookless):
    started = time.monotonic()
    assert not run_code(trick, timeout_s=0.5).ok
    assert time.monotonic() - started < 0.5 + process.START_S


def test_the_launcher_and_the_app_are_closed_to_others_of_their_user(user):
    if user == "as we are":
        run_code("pass")
        assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0  # PR_GET_DUMPABLE
        return
    with tempfile.TemporaryDirectory() as folder:
        job = process._job(process._walls(), "import time\ntime.sleep(60)", 5.0, 2**29)
        job["folder"] = folder
        telling, reading = os.pipe(), os.pipe()
        with as_nobody(folder, telling[1], reading[0]) as launcher:
            process._send(launcher.stdin.fileno(), process.marshal.dumps(job))
            deadline = time.monotonic() + 10
            while not psutil.Process(launcher.pid).children() and time.monotonic() < deadline:
                time.sleep(0.01)
            family = [launcher.pid, *(c.pid for c in psutil.Process(launcher.pid).children())]
            owners = [Path(f"/proc/{number}/environ").stat().st_uid for number in family]
            launcher.kill()
        for handle in (*telling, *reading):
            os.close(handle)
    assert len(family) == 2
    assert owners[0] == 0  # nobody's process, but root's to look into


RIGHT = {
    "asyncio": "import asyncio\nasync def g(): await asyncio.sleep(0.01)\nasyncio.run(g())",
    "threads": "import threading as t\na = [t.Thread(target=int) for _ in range(20)]\n"
    "[x.start() for x in a]\n[x.join() for x in a]",
    "a pool of threads": "from concurrent.futures import ThreadPoolExecutor as P\n"
    "with P(4) as pool: assert list(pool.map(abs, [-1])) == [1]",
    "files": "import os, pathlib, shutil, tempfile\nos.makedirs('a/b')\n"
    "pathlib.Path('a/b/c').write_text('x')\npathlib.Path('a/b/c').touch()\n"
    "shutil.copyfile('a/b/c', 'd')\nos.rename('d', 'a/e')\nos.truncate('a/e', 0)\n"
    "with tempfile.TemporaryDirectory(dir='.') as t: open(t + '/x', 'w').close()\n"
    "shutil.rmtree('a')\nassert os.listdir('.') == []",
    "an archive": "import zipfile\nwith zipfile.ZipFile('z', 'w') as z: z.writestr('a/b', 'x')\n"
    "zipfile.ZipFile('z').extractall('out')\nassert open('out/a/b').read() == 'x'",
    "time zones": "import zoneinfo, datetime, time\ntime.localtime()",
    "a signal to itself": "import signal\nsignal.signal(10, lambda *a: print('got'))\n"
    "signal.raise_signal(10)",
    "a pipe": "import os\na, b = os.pipe()\nos.write(b, b'x')\nassert os.read(a, 1) == b'x'",
    "mmap": "import mmap\nwith open('m', 'wb') as f: f.write(bytes(4096))\n"
    "with open('m', 'r+b') as f: mmap.mmap(f.fileno(), 0)[0] = 1",
    "logging": "import logging, traceback, warnings, unittest\nlogging.warning('x')",
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_program_passes(name, walls):
    result = run_code(RIGHT[name])
    assert result.ok, result.error


def test_a_setup_gives_the_program_its_imports_only():
    program = "def f(): return sqrt(4)"
    setup = "from math import sqrt\nWANTED = 2"
    assert run_tests(program, ["assert f() == WANTED"], setup=setup, entry_point="f").ok


def test_a_mode_is_not_claimed_untried(monkeypatch):
    """A wall that is not put up is found out by the program that tries it."""
    for walls in MODES:
        job = process._job
        with monkeypatch.context() as patched:
            fewer = functools.partial(job, walls[1:])
            patched.setattr(process, "_job", lambda _, *rest, fewer=fewer: fewer(*rest))
            assert not process._holds(walls)


@pytest.fixture
def without_walls(monkeypatch):
    monkeypatch.setattr(process, "_possible_modes", tuple)
    protection.cache_clear()
    process.allow_unsafe_code(False)
    yield
    process.allow_unsafe_code(False)
    protection.cache_clear()


def test_without_walls_programs_run_only_when_somebody_says_so(without_walls):
    found = protection()
    assert (found.mode, found.contains) == ("limits", False)
    assert "--allow-unsafe-code" in found.statement
    with pytest.raises(T2LocalError, match=r"change whatever you can \(--allow-unsafe"):
        run_code("pass")
    process.allow_unsafe_code()
    assert run_code("pass").ok
    assert run_tests("def f(): return 1", ["assert f() == 1"], entry_point="f").ok


def test_what_is_in_force_is_said_in_full():
    found = protection()
    for wall in process.WALLS:
        assert (wall in found.mode) == (process._MEANT[wall] in found.statement)

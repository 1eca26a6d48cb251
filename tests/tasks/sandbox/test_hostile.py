"""One hostile program for every promise of the sandbox: none passes, none harms.

With the audit hook, which names what it refuses, behind all walls and behind either kind alone;
`test_walls` has what is tried without the hook.
"""

import time
from pathlib import Path

import psutil
import pytest

from t2local.tasks.sandbox import process, run_code, run_tests

SECRET = "blue-heron-42"
MODES = [walls for walls in process._possible_modes() if process._holds(walls)]
ALONE = (("seccomp", "landlock"), ("namespaces",))
MAIN = [walls for walls in MODES if walls == process.WALLS or walls in ALONE]

ENDS_EARLY = {
    "os._exit": "import os\nos._exit(0)\nassert False",
    "sys.exit": "import sys\nsys.exit(0)\nassert False",
    "SystemExit": "raise SystemExit\nassert False",
    "patched exit and assert": (
        "import builtins, sys\n"
        "builtins.AssertionError = type('Quiet', (BaseException,), {})\n"
        "sys.exit = sys.excepthook = lambda *a: None\nassert False"
    ),
    "prints the marker": "print('PASSED', 'ok', True)\nimport os\nos._exit(0)",
    "writes to every descriptor": (
        "import os\nfor n in range(1, 64):\n    try: os.write(n, b'P' * 16)\n"
        "    except OSError: pass\nos._exit(0)"
    ),
    "closes every descriptor": "import os\nos.closerange(0, 64)",
    "leaves a thread": (
        "import os, threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
        "os._exit(0)"
    ),
    "walks the frames for the secret": (
        "import os, sys\nframe, found = sys._getframe(), []\n"
        "while frame:\n"
        "    for value in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "        for one in value if isinstance(value, (list, tuple)) else [value]:\n"
        "            if type(one) is bytes: found.append(one)\n"
        "    frame = frame.f_back\n"
        "for secret in found:\n    for n in range(3, 64):\n"
        "        try: os.write(n, secret)\n        except OSError: pass\nos._exit(0)"
    ),
}
REFUSED = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "starts a program": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'])",
    "opens a socket": "import socket\nsocket.socket()",
    "asks a name server": "import socket\nsocket.getaddrinfo('example.org', 80)",
    "lists the home folder": f"import os\nprint(os.listdir({str(Path.home())!r}))",
    "reads another process": "print(open('/proc/1/environ').read())",
    "reads its own memory": "open('/proc/self/mem', 'rb').read(1)",
    "writes beside its folder": "open('../evil', 'w').write('x')",
    "links out of its folder": "import os\nos.symlink('/', 'root')",
    "kills its parent": "import os\nos.kill(os.getppid(), 9)",
    "kills everybody": "import os\nos.kill(-1, 9)",
    "looks through the interpreter": "import gc\ngc.get_objects()",
    "calls into C": "import ctypes\nctypes.string_at(0)",
    "writes its own bytecode": "(lambda: 0).__code__.replace(co_code=b'\\xff\\xff')",
}
EXHAUSTS = {
    "ten gigabytes": "block = bytearray(10 * 2**30)",
    "ever more memory": "blocks = []\nwhile True: blocks.append(bytearray(10**7))",
    "a gigabyte of output": "import sys\nfor _ in range(1024): sys.stdout.write('x' * 2**20)",
    "a large file": "file = open('a', 'wb')\nwhile True: file.write(b'x' * 2**20)",
    "deep recursion": "def f(): f()\nf()",
    "recursion in C": (
        "import sys\nsys.setrecursionlimit(10**8)\nx = ()\nfor _ in range(10**6): x = (x,)\nrepr(x)"
    ),
    "an endless loop": "while True: pass",
    "an endless sleep": "import time\ntime.sleep(100)",
    "an endless thread": "import threading\nthreading.Thread(target=input).join()\nwhile 1: pass",
}
HOSTILE = {**ENDS_EARLY, **REFUSED, **EXHAUSTS}


@pytest.fixture(params=MAIN, ids="+".join)
def mode(request, monkeypatch):
    monkeypatch.setattr(process, "_walls", lambda: request.param)
    return request.param


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_does_not_pass_and_ends_in_time(name, mode):
    started = time.monotonic()
    result = run_code(HOSTILE[name], timeout_s=1, memory_bytes=256 * 2**20)
    assert not result.ok
    assert result.error
    assert time.monotonic() - started < 1 + process.START_S
    assert len(result.stdout) <= process.OUTPUT_BYTES


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_forbidden_is_named(name, mode):
    assert "refused" in run_code(REFUSED[name], timeout_s=2).error


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_passes_no_test(name, mode):
    body = "\n".join("    " + line for line in HOSTILE[name].splitlines())
    program = f"def answer(x):\n{body}\n"
    result = run_tests(program, ["assert answer(1) == 2"], entry_point="answer", timeout_s=1)
    assert result.passed == (False,)
    assert result.error


CHEATS = {
    "an object that equals everything": (
        "class Same:\n    __eq__ = lambda self, other: True\n    __hash__ = None\n"
        "def answer(x): return Same()"
    ),
    "a number that equals everything": (
        "class Same(int):\n    __eq__ = lambda self, other: True\ndef answer(x): return Same(7)"
    ),
    "a list of such": (
        "class Same:\n    __eq__ = lambda self, other: True\ndef answer(x): return [Same()]"
    ),
    "a builtin of its own": "def sorted(x): return [1, 2]\ndef answer(x): return [9]",
    "patched builtins": (
        "import builtins\nbuiltins.sorted = lambda x: [1, 2]\nbuiltins.AssertionError = OSError\n"
        "def answer(x): return [9]"
    ),
    "an exit once called": "import sys\ndef answer(x): sys.exit(0)",
    "an exit at once": "import os\ndef answer(x): return 1\nos._exit(0)",
    "nothing by that name": "x = 1",
    "messages of its own": (
        "import os\ndef answer(x):\n    for n in range(3, 64):\n"
        "        try: os.write(n, b'P' * 16)\n        except OSError: pass\n    os._exit(0)"
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheating_answer_passes_no_test(name, mode):
    tests = ["assert sorted(answer([2, 1])) == [1, 2]", "assert answer(3) == [1, 2]"]
    result = run_tests(CHEATS[name], tests, entry_point="answer", timeout_s=3)
    assert result.passed == (False, False)


QUIET_ENDS = (
    "assert all(map(lambda x: answer(x) == 2 * x, [1, 2]))",
    "assert list(map(answer, [])) == [*map(answer, [1])]",
    "for found in map(answer, [1, 2]): assert found == 5",
)


@pytest.mark.parametrize("kind", ["StopIteration", "type('Own', (StopIteration,), {})"])
def test_an_answer_does_not_end_a_tests_loop(kind):
    """All that a `map` has not looked at would pass."""
    program = f"def answer(x): raise {kind}"
    assert not any(run_tests(program, QUIET_ENDS, entry_point="answer").passed)


CLAIMS = {
    "that all is in it": "__contains__ = lambda self, other: True",
    "that it is near": "__sub__ = __rsub__ = __abs__ = lambda *a: 0",
    "that it is less": "__lt__ = __gt__ = __le__ = __ge__ = lambda *a: True",
    "that it is such a number": "__int__ = __index__ = __float__ = lambda self: 2",
    "that it is the same": "__eq__ = lambda *a: True\n    __hash__ = lambda self: hash(2)",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_an_object_is_not_asked_whether_it_is_right(claim):
    program = f"class Own:\n    {CLAIMS[claim]}\ndef answer(x): return Own()"
    tests = (
        "assert 2 in answer(1)",
        "assert abs(answer(1) - 2) < 0.1",
        "assert 1 < answer(1) <= 2",
        "assert [0, 0, 7][answer(1)] == 7",
        "assert answer(1) == 2 or 2 == answer(1) or answer(1) in {2: 0}",
    )
    assert not any(run_tests(program, tests, entry_point="answer").passed)


def test_nothing_of_the_environment_is_seen(mode, monkeypatch):
    monkeypatch.setenv("T2LOCAL_TEST_SECRET", SECRET)
    result = run_code("import os\nprint(dict(os.environ))")
    assert result.ok
    assert SECRET not in result.stdout
    assert "HOME" not in result.stdout


def test_the_folder_is_empty_and_gone_afterwards(mode):
    program = "import os\nprint(os.getcwd(), os.listdir('.'))\nopen('kept', 'w').write('x')"
    result = run_code(program)
    folder, listed = result.stdout.split(" ", 1)
    assert result.ok
    assert listed.strip() == "[]"
    assert not (Path(folder) / "kept").exists()


def test_a_secret_in_the_home_folder_stays_there(mode, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    result = run_code(f"print(open({str(tmp_path / 'secret')!r}).read())")
    assert not result.ok
    assert SECRET not in result.stdout + result.stderr


def test_no_file_appears_outside(mode, tmp_path):
    target = tmp_path / "evil"
    assert not run_code(f"open({str(target)!r}, 'w').write('x')").ok
    assert not target.exists()


def test_this_process_lives_and_no_child_is_left(mode):
    for name in ("kills its parent", "kills everybody", "fork bomb", "leaves a thread"):
        run_code(HOSTILE[name], timeout_s=1)
    assert not left_running()


def left_running() -> list[psutil.Process]:
    """What a sandbox of this process left behind."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "launcher.py" in " ".join(child.cmdline())]

"""Programs that a model wrote, run where they can do no harm and cannot claim a success.

Each run is a process of its own: empty temporary folder, no inherited environment, standard library
only, limits on memory, time, files and output, killed with all it started. Around it stand walls
outside the interpreter (`WALLS`), as many as the system has; `protection()` tries them with a
hostile program. Where too few stand, no program is run unless `allow_unsafe_code` was called. On
Windows none is run. Safe to call from many threads.

`run_tests` decides in a process that never shared memory with the program's and never sends it a
test or an expected value. The tests are as little trusted and stand behind the same walls.

What remains: `run_code` knows a good end by a number that is written after the program's last line;
a program that searches its own memory could find it, so it is no verdict on a hostile program. A
kernel bug is beyond both.
"""

import argparse
import ast
import contextlib
import ctypes
import functools
import itertools
import marshal
import math
import os
import random
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2local.errors import T2LocalError
from t2local.tasks.syntax import parse

OUTPUT_BYTES = 2**20  # of stdout and of stderr; a program that writes more is ended
MEMORY_BYTES = 512 * 2**20
TIMEOUT_S = 5.0
START_S = 5.0  # beyond the time limit, for a busy machine to start and end the launcher

NAMESPACES, SECCOMP, LANDLOCK = WALLS = ("namespaces", "seccomp", "landlock")
UNSAFE, NONE = "limits", "none"  # modes without walls

_LAUNCHER = Path(__file__).with_name("launcher.py")
# Imported, since a script is compiled on every run.
_START = (
    "import sys; sys.path.insert(0, sys.argv[1].rpartition('/')[0]); "
    "import launcher; launcher.main()"
)
_LAUNCH = ("-I", "-S", "-E", "-c", _START, str(_LAUNCHER))
_FIRST_USER, _USERS = 200_000, 400_000
_NO_INPUT = ("EOFError", "EOFError: EOF when reading a line")
_REFUSED = 97  # exit code of a program that the audit hook ended
_TAG_BYTES = 16
_SET_DUMPABLE = 4


@dataclass(frozen=True)
class RunResult:
    """`ok`: the program ran to its last line without an exception. `error`: one line, else ""."""

    ok: bool
    stdout: str
    stderr: str
    error: str = ""


@dataclass(frozen=True)
class TestResult:
    """What a program's tests found; `passed` has one entry a test."""

    __test__ = False  # not a test of pytest's

    parses: bool
    defines: bool
    passed: tuple[bool, ...]
    stdout: str = ""
    stderr: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.passed) and all(self.passed)

    @property
    def share(self) -> float:
        """Share of the tests that passed, 0 to 1."""
        return sum(self.passed) / len(self.passed) if self.passed else 0.0


@dataclass(frozen=True)
class Protection:
    """Which walls stand on this machine; `statement` says it in a sentence for the page.

    `mode`: the walls joined by " + "; "limits" without any that hold, "none" where nothing runs.
    """

    mode: str
    statement: str

    @property
    def contains(self) -> bool:
        """Whether programs can be run without asking."""
        return self.mode not in (UNSAFE, NONE)


_MODES = (
    (NAMESPACES, SECCOMP, LANDLOCK),
    (NAMESPACES, SECCOMP),
    (SECCOMP, LANDLOCK),
    (NAMESPACES, LANDLOCK),
    (NAMESPACES,),
)
_MEANT = {
    NAMESPACES: "their own network, processes and root folder",
    SECCOMP: "a kernel filter that refuses other processes, programs and sockets",
    LANDLOCK: "a kernel rule that opens Python's library and one empty folder only",
}
RISK = "A program that a model or a dataset wrote could read and change whatever you can."
_UNCONTAINED = (
    "Programs cannot be contained on this system (limits only): it allows neither namespaces nor "
    "seccomp with Landlock, so none is run unless you accept the risk with --allow-unsafe-code."
)
_NO_PROGRAMS = (
    "Programs cannot be run safely on this system, so none is run: rewards and benchmarks "
    "that run code need Linux, macOS or WSL. Everything else works."
)
_ENVIRONMENT = ("PATH", "SYSTEMROOT", "WINDIR", "TEMP", "TMP", "TMPDIR", "LANG", "LC_ALL")


@functools.cache
def protection() -> Protection:
    """The strongest mode that holds here, found by running a hostile program in each."""
    if sys.platform == "win32":
        return Protection(NONE, _NO_PROGRAMS)
    for walls in _possible_modes():
        if _holds(walls):
            meant = ", ".join(_MEANT[wall] for wall in walls)
            return Protection(
                " + ".join(walls),
                f"Programs run behind {' + '.join(walls)}: {meant}; without network or environment "
                "and under limits on memory, time and files.",
            )
    return Protection(UNSAFE, _UNCONTAINED)


_consent = threading.Event()  # programs may run uncontained in this process


def allow_unsafe_code(allowed: bool = True) -> None:
    """A person's explicit yes (or no), for this process: run programs also where no wall holds."""
    _consent.set() if allowed else _consent.clear()


def is_unsafe_code_allowed() -> bool:
    return _consent.is_set()


class _Consent(argparse.Action):
    """A flag that says yes as soon as it is read."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        told = f"run programs even where this system cannot contain them. {RISK}"
        super().__init__(option_strings, dest, nargs=0, default=False, help=told)

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        allow_unsafe_code()
        setattr(namespace, self.dest, True)


def add_consent_argument(parser: argparse.ArgumentParser) -> None:
    """`--allow-unsafe-code`, the same for whatever runs programs."""
    parser.add_argument("--allow-unsafe-code", action=_Consent)


def check_allowed() -> None:
    """Raise `T2LocalError` where a program would not be run."""
    found = protection()
    if found.mode == NONE:
        raise T2LocalError(
            f"Programs cannot be run safely on this system ({sys.platform}); "
            "use Linux, macOS or WSL for rewards that run code."
        )
    if not found.contains and not _consent.is_set():
        raise T2LocalError(
            f"Programs cannot be contained on this system ({sys.platform} with limits only); "
            "use Linux with seccomp and Landlock, or accept that a program could read and change "
            "whatever you can (--allow-unsafe-code, or the box beside the reward in the page)."
        )


def bare_environment() -> dict[str, str]:
    """What a process that reads untrusted input needs of ours, without tokens and secrets."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def run_code(
    source: str, *, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES
) -> RunResult:
    """Run one program. A program's failure is a result; only a system without a sandbox raises.

    `timeout_s`: wall clock. `memory_bytes`: of all its processes and of each. Raises
    `T2LocalError` where no program can be run (see `check_allowed`).
    """
    told = _launch(_job(_walls(), source, timeout_s, memory_bytes))
    return RunResult(told.ok, told.stdout, told.stderr, "" if told.ok else told.reason)


def run_tests(
    program: str,
    tests: Sequence[str],
    *,
    setup: str = "",
    trusted: str = "",
    entry_point: str = "",
    timeout_s: float = TIMEOUT_S,
    cpu_s: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> TestResult:
    """Run a program's tests, each a piece of Python that raises where it fails, one by one.

    `setup` runs before the tests, in their process; the program gets its imports only. `trusted` is
    text the tests may use but the program must not change (HumanEval's prompt). `timeout_s` is for
    all of it together by the clock, `cpu_s` (a second more, if not given) for the program's own
    work: tests not reached have failed. Raises `T2LocalError` where no program can be run.
    """
    job = _job(_walls(), program, timeout_s, memory_bytes)
    job |= {"tested": True, "imports": _imports_of(setup), "entry_point": entry_point}
    job["cpu_s"] = cpu_s or job["cpu_s"]
    tag = os.urandom(_TAG_BYTES)
    texts = {"tag": tag, "tests": list(tests), "setup": setup, "trusted": trusted}
    told = _launch(job, texts)
    said = _reports(told.data, tag)
    passed = [byte == b"P" for byte in said[2 : 2 + len(tests)]]
    passed += [False] * (len(tests) - len(passed))
    parses, defines = said[:1] == [b"s"], said[1:2] == [b"d"]
    reason = "" if all(passed) else told.reason
    if reason.startswith("left early") and parses:
        number, last = passed.index(False) + 1, _last(told.stderr)
        reason = f"test {number} of {len(tests)} failed: {last}"
        reason += ": the program asks for input, and there is none" if last in _NO_INPUT else ""
    return TestResult(parses, defines, tuple(passed), told.stdout, told.stderr, reason)


def _reports(told: bytes, tag: bytes) -> list[bytes]:
    """The bytes that carry the tag; what follows one that does not is nobody's."""
    found = []
    for at in range(0, len(told), len(tag) + 1):
        if told[at : at + len(tag)] != tag:
            break
        found.append(told[at + len(tag) : at + len(tag) + 1])
    return found


def _imports_of(setup: str) -> str:
    """The import statements of a tests' setup: all that a program needs of it, and may know."""
    try:
        lines = parse(setup).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ""
    return "\n".join(ast.unparse(o) for o in lines if isinstance(o, ast.Import | ast.ImportFrom))


@dataclass(frozen=True)
class _Told:
    ok: bool
    data: bytes
    stdout: str
    stderr: str
    reason: str


def _walls() -> tuple[str, ...]:
    """The walls that stand, once it is certain that programs may run."""
    check_allowed()
    return tuple(wall for wall in WALLS if wall in protection().mode)


def _possible_modes() -> tuple[tuple[str, ...], ...]:
    """Sets of walls that contain a program, the best first."""
    return _MODES if sys.platform == "linux" else ()


_PROBE = """
import ctypes, os, socket
held = set()
def refuses(wall, act, *arguments):
    try:
        act(*arguments)
    except OSError:
        held.add(wall)
def starts():
    if os.fork() == 0:
        os._exit(0)
refuses("seccomp", starts)
refuses("landlock", os.listdir, "/")
if os.getppid() == 0 and not os.path.exists("/proc") and not os.path.exists("/etc"):
    held.add("namespaces")
try:
    socket.create_connection(("127.0.0.1", PORT), 1).close()
    held.clear()
except OSError:
    pass
print(*sorted(held))
"""


def _holds(walls: tuple[str, ...]) -> bool:
    """Whether each of `walls` refuses a program, without a friendly hook, what it should refuse."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        job = _job(walls, f"PORT = {port}\n{_PROBE}", 20.0, MEMORY_BYTES) | {"hook": False}
        told = _launch(job)
    return told.ok and told.stdout.split() == sorted(walls)


def _job(
    walls: tuple[str, ...], program: str, timeout_s: float, memory_bytes: int
) -> dict[str, Any]:
    """What the launcher reads; nothing in it must be kept from the program."""
    return {
        "walls": walls,
        "user": _user(walls),
        "program": program,
        "imports": "",
        "entry_point": "",
        "tested": False,
        "hook": True,
        "timeout_s": float(timeout_s),
        "cpu_s": math.ceil(timeout_s) + 1,
        "memory_bytes": int(memory_bytes),
    }


def _user(walls: tuple[str, ...]) -> int:
    """As root every run gets a user of its own (0: as we are), if that one can reach the library.

    In a root folder of its own it always can; elsewhere a folder above may be closed to others.
    """
    if os.getuid() != 0 or not (NAMESPACES in walls or _open_to_others()):
        return 0
    return _FIRST_USER + random.SystemRandom().randrange(_USERS)


def _open_to_others() -> bool:
    places = [Path(sys.base_prefix), Path(tempfile.gettempdir()).resolve()]
    return all(one.stat().st_mode & 1 for place in places for one in (place, *place.parents))


def _launch(job: Mapping[str, Any], texts: Mapping[str, Any] | None = None) -> _Told:
    """Start the launcher, hand it the job, collect what is said until it ends or must be ended.

    `texts` is for the tests' process alone and comes to it by another pipe.
    """
    _hide_from_others()
    with tempfile.TemporaryDirectory(prefix="t2local-run-", ignore_cleanup_errors=True) as folder:
        listening, telling = os.pipe()
        reading, handing = os.pipe()
        try:
            process = _start(folder, telling, reading)
        except OSError:
            os.close(listening)
            os.close(handing)
            raise
        finally:
            os.close(telling)
            os.close(reading)
        with process, os.fdopen(listening, "rb", buffering=0) as result:
            try:
                with os.fdopen(handing, "wb", buffering=0):
                    _send(process.stdin.fileno(), marshal.dumps({**job, "folder": folder}))
                    if texts is not None:
                        _send(handing, marshal.dumps(dict(texts)))
                said, problem = _collect(process, result, job["timeout_s"] + START_S)
            finally:
                _finish(process)
                _empty(Path(folder))
    return _understand(said, problem, job["timeout_s"])


def _start(folder: str, telling: int, reading: int) -> subprocess.Popen:
    return subprocess.Popen(
        [_python(), *_LAUNCH, str(telling), str(reading)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(telling, reading),
        env={},
        cwd=folder,
        start_new_session=True,
        bufsize=0,
    )


@functools.cache
def _hide_from_others() -> None:
    """Close our memory, descriptors and environment (tokens!) to others of the same user."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _finish(process: subprocess.Popen) -> None:
    """The launcher ends its program and itself once nobody waits for it; if not, it is killed."""
    process.stdin.close()
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()


def _empty(folder: Path) -> None:
    """Remove what a program left, however deep: folders are moved up, so no path gets long."""
    waiting, prefix, number = [folder], os.urandom(8).hex(), itertools.count()
    with contextlib.suppress(OSError):  # what is left then is left to `TemporaryDirectory`
        while waiting:
            one = waiting.pop()
            one.chmod(0o700)
            for entry in list(one.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    waiting.append(entry.rename(folder / f"{prefix}-{next(number)}"))
                else:
                    entry.unlink()
            if one != folder:
                one.rmdir()


def _python() -> str:
    """The interpreter itself rather than a virtual environment's link to it: it starts faster."""
    return getattr(sys, "_base_executable", "") or sys.executable


def _send(pipe: int, message: bytes) -> None:
    data = memoryview(len(message).to_bytes(8, "big") + message)
    try:
        while data:
            data = data[os.write(pipe, data) :]
    except BrokenPipeError:
        return  # the launcher has failed; what it said on stderr tells why


def _collect(process: subprocess.Popen, result: Any, limit_s: float) -> tuple[dict, str]:
    """All that comes from the three pipes, and why it was cut short ("" if it was not)."""
    said = {"stdout": b"", "stderr": b"", "result": b""}
    deadline = time.monotonic() + limit_s
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "stdout")
        selector.register(process.stderr, selectors.EVENT_READ, "stderr")
        selector.register(result, selectors.EVENT_READ, "result")
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return said, "timed out"
            for key, _ in ready:
                part = os.read(key.fd, 1 << 16)
                said[key.data] += part
                if not part:
                    selector.unregister(key.fileobj)
                elif key.data != "result" and len(said[key.data]) > OUTPUT_BYTES:
                    return said, f"wrote more than {OUTPUT_BYTES} bytes"
    return said, ""


def _understand(said: Mapping[str, bytes], problem: str, timeout_s: float) -> _Told:
    stdout = said["stdout"][:OUTPUT_BYTES].decode("utf-8", "replace")
    stderr = said["stderr"][:OUTPUT_BYTES].decode("utf-8", "replace")
    if problem or not said["result"]:
        return _Told(False, b"", stdout, stderr, problem or f"could not start: {_last(stderr)}")
    ok, data, trouble, statuses = marshal.loads(said["result"])
    reason = trouble or _reason(statuses, stderr)
    if trouble == "timed out":
        reason = f"timed out after {timeout_s:g} s"
    return _Told(ok, data, stdout, stderr, reason)


def _reason(statuses: Sequence[int], stderr: str) -> str:
    """Why a program did not end well, in one line; of the program and its tests the first to say.

    A program that we killed ourselves, because its tests were done, says nothing.
    """
    program, last = statuses[0], statuses[-1]
    if os.WIFEXITED(program) and os.WEXITSTATUS(program) == _REFUSED:
        refusals = [line for line in stderr.splitlines() if line.startswith("refused: ")]
        return refusals[-1] if refusals else "refused"
    if os.WIFSIGNALED(last):
        return f"was ended by signal {os.WTERMSIG(last)}"
    if os.WEXITSTATUS(last) in (1, _REFUSED) and stderr.strip():
        return _last(stderr)
    return f"left early with exit code {os.WEXITSTATUS(last)}"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else "no reason given"

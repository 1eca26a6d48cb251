"""Programs that a model wrote, run where they can do no harm and cannot claim a success.

Each run is a process of its own: empty temporary folder, no inherited environment, standard library
only, limits on memory, time, files, processes and output, killed with all it started. On Linux it
also gets its own network, processes and root folder, where the kernel allows (`protection()` says).
On Windows, which has none of this, no program is run. Safe to call from many threads.

What remains: `run_code` knows a good end by a number that is written after the program's last line;
a program that corrupts the interpreter's memory could find it. `run_tests` has no such gap, since
the tests run in another process and compare plain values. A kernel bug is beyond both.
"""

import functools
import marshal
import math
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2local.errors import T2LocalError

OUTPUT_BYTES = 2**20  # of stdout and of stderr; a program that writes more is ended
MEMORY_BYTES = 512 * 2**20
TIMEOUT_S = 5.0
START_S = 5.0  # beyond the time limit, for a busy machine to start and end the launcher

_LAUNCHER = Path(__file__).with_name("launcher.py")
_FIRST_USER, _USERS = 200_000, 400_000
_REFUSED = 97


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
    """Which walls stand on this machine; `statement` says it in a sentence for the page."""

    mode: str  # "namespaces" | "other user" | "limits" | "none"
    statement: str


_STATEMENTS = {
    "namespaces": "Programs run in a process of their own without network, with an empty folder "
    "and a read-only Python as their only files, under limits on memory, time and processes.",
    "other user": "Programs run as a user without rights and under limits on memory, time and "
    "processes; this system allows no namespaces, so network and files are refused by Python's "
    "audit hook alone.",
    "limits": "Programs run under limits on memory and time only; this system allows no "
    "namespaces, so network, files and processes are refused by Python's audit hook alone.",
    "none": "Programs cannot be run safely on this system, so none is run: rewards and benchmarks "
    "that run code need Linux, macOS or WSL. Everything else works.",
}


@functools.cache
def protection() -> Protection:
    """The strongest mode that works here, found by trying each once."""
    mode = next((mode for mode in _possible_modes() if _works(mode)), "none")
    return Protection(mode, _STATEMENTS[mode])


def run_code(
    source: str, *, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES
) -> RunResult:
    """Run one program. A program's failure is a result; only a system without a sandbox raises.

    `timeout_s`: wall clock. Raises `T2LocalError` where no program can be run (Windows).
    """
    told = _launch(_job(_mode(), source, timeout_s, memory_bytes))
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

    `setup` runs before the tests; `trusted` is text the tests may use but the program must not
    change (HumanEval's prompt). `timeout_s` is for all of it together by the clock, `cpu_s` (a
    second more, if not given) for the program's own work: tests not reached have failed. Raises
    `T2LocalError` where no program can be run.
    """
    job = _job(_mode(), program, timeout_s, memory_bytes)
    job |= {"tests": list(tests), "setup": setup, "trusted": trusted, "entry_point": entry_point}
    job["cpu_s"] = cpu_s or job["cpu_s"]
    told = _launch(job)
    passed = [byte == ord("P") for byte in told.data[2 : 2 + len(tests)]]
    passed += [False] * (len(tests) - len(passed))
    parses, defines = told.data[:1] == b"s", told.data[1:2] == b"d"
    reason = "" if all(passed) else told.reason
    if reason.startswith("left early") and parses:
        number = passed.index(False) + 1
        reason = f"test {number} of {len(tests)} failed: {_last(told.stderr)}"
    return TestResult(parses, defines, tuple(passed), told.stdout, told.stderr, reason)


@dataclass(frozen=True)
class _Told:
    ok: bool
    data: bytes
    stdout: str
    stderr: str
    reason: str


def _mode() -> str:
    mode = protection().mode
    if mode == "none":
        raise T2LocalError(
            f"Programs cannot be run safely on this system ({sys.platform}); "
            "use Linux, macOS or WSL for rewards that run code."
        )
    return mode


def _possible_modes() -> tuple[str, ...]:
    if sys.platform == "win32":
        return ()
    if sys.platform != "linux":
        return ("limits",)
    return ("namespaces", "other user", "limits") if os.getuid() == 0 else ("namespaces", "limits")


def _works(mode: str) -> bool:
    return _launch(_job(mode, "import random, decimal", 20.0, MEMORY_BYTES)).ok


def _job(mode: str, program: str, timeout_s: float, memory_bytes: int) -> dict[str, Any]:
    """What the launcher reads. As root every run gets a user of its own, so limits are its own."""
    as_root = mode != "limits" and os.getuid() == 0
    return {
        "mode": mode,
        "user": _FIRST_USER + random.SystemRandom().randrange(_USERS) if as_root else 0,
        "program": program,
        "tests": None,
        "timeout_s": float(timeout_s),
        "cpu_s": math.ceil(timeout_s) + 1,
        "memory_bytes": int(memory_bytes),
    }


def _launch(job: Mapping[str, Any]) -> _Told:
    """Start the launcher, hand it the job, collect what is said until it ends or must be ended."""
    with tempfile.TemporaryDirectory(prefix="t2local-run-", ignore_cleanup_errors=True) as folder:
        listening, telling = os.pipe()
        try:
            process = subprocess.Popen(
                [_python(), "-I", "-S", str(_LAUNCHER), str(telling)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(telling,),
                env={},
                cwd=folder,
                start_new_session=True,
                bufsize=0,
            )
        finally:
            os.close(telling)
        with process, os.fdopen(listening, "rb", buffering=0) as result:
            try:
                _send(process, marshal.dumps({**job, "folder": folder}))
                said, problem = _collect(process, result, job["timeout_s"] + START_S)
            finally:
                _finish(process)
    return _understand(said, problem, job["timeout_s"])


def _finish(process: subprocess.Popen) -> None:
    """The launcher ends its program and itself once nobody waits for it; if not, it is killed."""
    process.stdin.close()
    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        process.kill()


def _python() -> str:
    """The interpreter itself rather than a virtual environment's link to it: it starts faster."""
    return getattr(sys, "_base_executable", "") or sys.executable


def _send(process: subprocess.Popen, job: bytes) -> None:
    data = memoryview(len(job).to_bytes(8, "big") + job)
    try:
        while data:
            data = data[os.write(process.stdin.fileno(), data) :]
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
    ok, data, in_time, status = marshal.loads(said["result"])
    return _Told(ok, data, stdout, stderr, _reason(in_time, status, stderr, timeout_s))


def _reason(in_time: bool, status: int, stderr: str, timeout_s: float) -> str:
    """Why a program did not end well, in one line."""
    if not in_time:
        return f"timed out after {timeout_s:g} s"
    if os.WIFSIGNALED(status):
        return f"was ended by signal {os.WTERMSIG(status)}"
    if os.WEXITSTATUS(status) in (1, _REFUSED) and stderr.strip():
        return _last(stderr)
    return f"left early with exit code {os.WEXITSTATUS(status)}"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:500] if lines else "no reason given"

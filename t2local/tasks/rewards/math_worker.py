"""math-verify in a process of its own, asked over pipes one question at a time.

math-verify bounds its time with `signal.alarm`, which works on a main thread only, and callbacks
and trainers run elsewhere; sympy can also take for ever or all memory on a hostile formula. So it
runs here, on a main thread, and is ended and started anew when it does not answer in time or
takes too much memory.

On Windows math-verify's own limit is of no use: it starts a process with a function that cannot be
pickled, and every formula counts as unreadable. There the time limit of the asker is the only one.
"""

import atexit
import contextlib
import json
import queue
import subprocess
import sys
import threading
import time

import psutil

from t2local.paths import PROJECT_ROOT
from t2local.tasks.sandbox import bare_environment

ANSWER_S = 5  # math-verify's own limit for parsing and for comparing, each
PATIENCE_S = 4 * ANSWER_S
WATCH_S = 0.2  # between two looks at the worker's memory
MEMORY_BYTES = 3 * 2**30
MOST_CHARACTERS = 20_000  # the end of a completion, where its answer stands

_lock = threading.Lock()
_workers: list[subprocess.Popen] = []


def equal(answer: str, text: str) -> bool:
    """Whether the last formula in `text` equals `answer` (LaTeX, or plain). Thread safe."""
    question = json.dumps([answer, text[-MOST_CHARACTERS:]]) + "\n"
    with _lock:
        worker = _worker()
        reply = _reply(worker, question.encode())
        if not reply:
            _end(worker)
        return reply.strip() == b"true"


def _reply(worker: subprocess.Popen, question: bytes) -> bytes:
    """The worker's line; b"" where it ends, is not done in time or takes too much memory.

    A thread waits for the line, since Windows can wait for sockets only, and not for pipes.
    """
    replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask() -> None:
        try:
            worker.stdin.write(question)
            worker.stdin.flush()
            replies.put(worker.stdout.readline())
        except OSError:  # the worker has ended
            replies.put(b"")

    threading.Thread(target=ask, daemon=True).start()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            return replies.get(timeout=WATCH_S)
        if held_bytes(worker) > MEMORY_BYTES:
            break
    return b""


def held_bytes(process: subprocess.Popen) -> int:
    """Memory of a process and of those it started; 0 once it has ended.

    In a virtual environment on Windows `python.exe` starts the interpreter as a second process.
    """
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(process.pid)
        return sum(one.memory_info().rss for one in (first, *first.children(recursive=True)))
    return 0


def _worker() -> subprocess.Popen:
    if not _workers or _workers[0].poll() is not None:
        _workers[:] = [
            subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=PROJECT_ROOT,
                env=bare_environment(),
            )
        ]
        atexit.register(_end, _workers[0])
    return _workers[0]


def _end(worker: subprocess.Popen) -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        with contextlib.suppress(OSError):
            pipe.close()


def _serve() -> None:
    """Answer questions from stdin, a line each, until it ends."""
    _bound_memory()
    for line in sys.stdin:
        answer, text = json.loads(line)
        print(json.dumps(same(answer, text)), flush=True)


def same(answer: str, text: str) -> bool:
    """What `equal` tells, on a main thread and in this process."""
    from math_verify import parse, verify  # half a second of imports that only a worker needs

    limit_s = None if sys.platform == "win32" else ANSWER_S

    def understood(text: str) -> list:
        return parse(text, parsing_timeout=limit_s)

    wanted = understood(f"${answer.strip().strip('$')}$") or understood(answer)
    agree = bool(wanted) and verify(wanted, understood(text), timeout_seconds=limit_s)
    return bool(agree) or answer.strip() == text.strip()


def _bound_memory() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    _serve()

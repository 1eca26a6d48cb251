"""math-verify in a process of its own, asked over pipes one question at a time.

math-verify bounds its time with `signal.alarm`, which works on a main thread only, and callbacks
and trainers run elsewhere; sympy can also take for ever or all memory on a hostile formula. So it
runs here, on a main thread, and is ended and started anew when it does not answer in time.
"""

import atexit
import contextlib
import json
import select
import subprocess
import sys
import threading

from t2local.paths import PROJECT_ROOT

ANSWER_S = 5  # math-verify's own limit for parsing and for comparing, each
PATIENCE_S = 4 * ANSWER_S
MEMORY_BYTES = 3 * 2**30
MOST_CHARACTERS = 20_000  # the end of a completion, where its answer stands

_lock = threading.Lock()
_workers: list[subprocess.Popen] = []


def equal(answer: str, text: str) -> bool:
    """Whether the last formula in `text` equals `answer` (LaTeX, or plain). Thread safe."""
    question = json.dumps([answer, text[-MOST_CHARACTERS:]]) + "\n"
    with _lock:
        worker = _worker()
        try:
            worker.stdin.write(question.encode())
            worker.stdin.flush()
            ready, _, _ = select.select([worker.stdout], [], [], PATIENCE_S)
            reply = worker.stdout.readline() if ready else b""
        except BrokenPipeError:
            reply = b""
        if not reply:
            _end(worker)
        return reply.strip() == b"true"


def _worker() -> subprocess.Popen:
    if not _workers or _workers[0].poll() is not None:
        _workers[:] = [
            subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=PROJECT_ROOT,
            )
        ]
        atexit.register(_end, _workers[0])
    return _workers[0]


def _end(worker: subprocess.Popen) -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def _serve() -> None:
    """Answer questions from stdin, a line each, until it ends."""
    from math_verify import parse, verify  # half a second of imports that only a worker needs

    _bound_memory()

    def understood(text: str) -> list:
        return parse(text, parsing_timeout=ANSWER_S)

    for line in sys.stdin:
        answer, text = json.loads(line)
        wanted = understood(f"${answer.strip().strip('$')}$") or understood(answer)
        same = bool(wanted) and verify(wanted, understood(text), timeout_seconds=ANSWER_S)
        print(json.dumps(bool(same) or answer.strip() == text.strip()), flush=True)


def _bound_memory() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    _serve()

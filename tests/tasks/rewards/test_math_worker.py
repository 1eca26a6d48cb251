"""math-verify asked from any thread: the answers, and what becomes of a worker that gives none."""

import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from t2local.tasks.rewards import math_worker
from t2local.tasks.rewards.math_worker import equal, same

HALF = r"It is $\frac{1}{2}$."


@pytest.fixture
def worker_says(monkeypatch):
    """`worker_says(program)`: the worker is this program instead."""
    started = []

    def say(program):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen([sys.executable, "-c", program], **pipes))
        monkeypatch.setattr(math_worker, "_workers", [started[-1]])
        return started[-1]

    yield say
    for process in started:
        process.kill()
        process.wait()


def test_from_several_threads():
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(equal, ["0.5", "0.6"] * 4, [HALF] * 8))
    assert found == [True, False] * 4


def test_a_worker_knows_no_token_of_ours(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(math_worker, "_workers", [])
    assert equal("1/2", HALF)
    (worker,) = math_worker._workers
    environment = psutil.Process(worker.pid).environ()
    math_worker._end(worker)
    assert "HF_TOKEN" not in environment
    assert "HOME" not in environment


def test_pipes_are_not_waited_for_as_sockets(monkeypatch):
    """Windows' `select` takes sockets only."""
    monkeypatch.setattr(select, "select", lambda *_: pytest.fail("no socket"))
    assert equal("1/2", HALF)


def test_a_worker_that_ends_is_followed_by_another(worker_says):
    process = worker_says("raise SystemExit")
    process.wait()
    assert equal("1/2", HALF)
    process = worker_says("input()")  # dies of the question
    assert not equal("1/2", HALF)
    assert equal("1/2", HALF)


def test_a_worker_that_does_not_answer_is_ended(worker_says, monkeypatch):
    monkeypatch.setattr(math_worker, "PATIENCE_S", 0.5)
    process = worker_says("import time\ntime.sleep(60)")
    assert not equal("1/2", HALF)
    assert process.poll() is not None


def test_a_worker_that_takes_too_much_memory_is_ended(worker_says, monkeypatch):
    monkeypatch.setattr(math_worker, "MEMORY_BYTES", 100_000_000)
    process = worker_says("held = b'x' * 300_000_000\nimport time\ntime.sleep(60)")
    assert not equal("1/2", HALF)
    assert process.poll() is not None


@pytest.mark.parametrize("platform", [sys.platform, "win32"])
def test_the_same_verdicts_on_windows(platform, monkeypatch):
    """math-verify's own limit needs `alarm`, or, on Windows, to pickle what cannot be pickled."""
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "win32":
        monkeypatch.delattr(signal, "alarm")
    assert same("0.5", HALF)
    assert same("(x+1)^2", "$x^2 + 2x + 1$")
    assert not same("0.6", HALF)
    assert not same("0.5", "I do not know.")


def test_the_memory_of_a_process_is_that_of_those_it_started_too():
    """`python.exe` of a virtual environment on Windows starts the interpreter."""
    inner = "held = b'x' * 300_000_000; print('held', flush=True); import time; time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert 300_000_000 < math_worker.held_bytes(process) < 600_000_000
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()
    assert math_worker.held_bytes(process) == 0

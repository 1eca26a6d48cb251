"""One run in the sandbox, started as `python -I -S launcher.py RESULT_FD` with the job on stdin.

Three processes at most: the launcher, which keeps time and tells the result; below it, in the jail,
either the program alone or the tests, and below these the program. Only the launcher and the tests
hold what decides. Standard library only; every import here is paid on every run.

How "ran to its end" is known: a random number is written after the program's last line, by a chain
of built-in calls that leaves no Python frame with the number in it. What is left to an attacker is
to find a C object by other means than those the audit hook refuses.
"""

# pathlib would cost its import on every run:
# ruff: noqa: PTH100, PTH120, PTH123

import marshal
import os
import select
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import _collections
import _functools
import _operator

import jail
import remote

NAMESPACES, LIMITS = "namespaces", "limits"  # modes of `process.Protection`
KILL = 9


def main():
    result = int(sys.argv[1])
    job = marshal.loads(_exactly(int.from_bytes(_exactly(8), "big")))
    started = time.monotonic()
    null = os.open("/dev/null", os.O_RDWR)
    work = job["folder"]
    if job["mode"] == NAMESPACES:
        jail.separate(work)
        work = jail.WORK
    if job["user"]:
        os.chown(work, job["user"], jail.NOBODY)
    os.chdir(work)
    jail.adopt_orphans()
    incoming, outgoing = os.pipe()
    secret = [os.urandom(16)]
    child = os.fork()
    if child == 0:
        os.setsid()  # a signal to its own group must not reach us
        os.dup2(null, 0)
        for handle in (null, incoming, result):
            os.close(handle)
        try:
            _inside(job, work, outgoing, secret)
        finally:
            os._exit(1)
    os.close(outgoing)
    told, in_time = _listen(incoming, secret[0], started + job["timeout_s"])
    status = _end(child)
    ok = told == secret[0] if job["tests"] is None else False
    os.write(result, marshal.dumps((ok, told, in_time, status)))


def _listen(incoming, wanted, deadline):
    """What the child tells until it ends, its time is over, or whoever waits for us is gone."""
    told = b""
    poll = select.poll()
    poll.register(incoming, select.POLLIN)
    poll.register(0, 0)
    while told != wanted:
        left = deadline - time.monotonic()
        events = poll.poll(max(0, left * 1000))
        if not events:
            return told, False
        if any(handle == 0 for handle, _ in events):
            return told, True
        part = os.read(incoming, 65536)
        if not part:
            break
        told += part
    return told, True


def _end(child):
    """Kill the child and whatever it left behind; the child's wait status."""
    finished, status = os.waitpid(child, os.WNOHANG)
    if not finished:
        time.sleep(0.001)  # a program that has just ended by itself tells why
        finished, status = os.waitpid(child, os.WNOHANG)
    if not finished:
        os.kill(child, KILL)
        status = os.waitpid(child, 0)[1]
    while True:
        try:
            left = _children()
            for process in left:
                os.kill(process, KILL)
            os.waitpid(-1, 0)
        except (ChildProcessError, ProcessLookupError):
            return status


def _children():
    """Orphans that came to us; in a namespace the kernel has already ended them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="utf-8") as file:
            return [int(number) for number in file.read().split()]
    except OSError:
        return []


def _inside(job, work, outgoing, secret):
    jail.give_up_rights(job["user"])
    jail.limit(job["memory_bytes"], job["cpu_s"])
    if job["tests"] is not None:
        secret.clear()
        _run_tested(job, work, outgoing)
        return
    if job["mode"] != LIMITS:
        jail.limit_processes()
    jail.install_hook(work, may_start=job["mode"] != LIMITS)
    try:
        _collections.deque(map(_operator.call, _steps(job, outgoing, secret)), 0)
    except BaseException:
        kind, error, frames = sys.exc_info()
        error.__traceback__ = None if kind is SyntaxError else frames.tb_next
        sys.__excepthook__(kind, error, error.__traceback__)
    sys.stdout.flush()


def _steps(job, outgoing, secret):
    """Run, flush, tell. Only the chain that calls these holds them once the program runs."""
    code = compile(job.pop("program"), "<program>", "exec")
    return (
        _functools.partial(exec, code, _main_namespace()),
        sys.stdout.flush,
        _functools.partial(os.write, outgoing, secret.pop()),
    )


def _run_tested(job, work, outgoing):
    to_program, to_tests = os.pipe(), os.pipe()
    program = os.fork()
    texts = job.pop("trusted"), job.pop("setup"), job.pop("tests")
    if program == 0:
        setup = texts[1]
        del texts
        os.close(outgoing)
        os.close(to_program[1])
        os.close(to_tests[0])
        jail.end_with_parent()
        if job["mode"] != LIMITS:
            jail.limit_processes()
        jail.install_hook(work, may_look=True, may_start=job["mode"] != LIMITS)
        pipe = remote.Pipe(to_program[0], to_tests[1])
        remote.serve(pipe, job["program"], setup, job["entry_point"], _main_namespace())
    os.close(to_program[0])
    os.close(to_tests[1])
    jail.install_hook(work, may_look=True, may_start=job["mode"] != LIMITS)
    pipe = remote.Pipe(to_tests[0], to_program[1])
    trusted, setup, tests = texts

    def report(byte):
        os.write(outgoing, byte)

    remote.run_tests(pipe, report, job["program"], trusted, setup, tests, job["entry_point"])
    os._exit(0)


def _main_namespace():
    """The globals of a fresh `__main__`, without the launcher's modules in sight."""
    for name in ("ctypes", "_ctypes", "ctypes._endian", "jail", "remote", "wire", "resource"):
        sys.modules.pop(name, None)
    jail.ctypes = jail.resource = None
    del sys.path[0]
    sys.dont_write_bytecode = True
    main_module = type(sys)("__main__")
    sys.modules["__main__"] = main_module
    return main_module.__dict__


def _exactly(size):
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            os._exit(3)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()

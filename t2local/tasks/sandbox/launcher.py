"""One run in the sandbox: `python -I -S -E -c "import launcher" PATH RESULT TESTS`, job on stdin.

Three processes at most: the launcher, which keeps time, adds up memory and tells the result; the
program; and the tests, which read their texts from `TESTS`. Neither the launcher nor any process
before the program's has ever held a test, so there is nothing to be found in memory it inherits.
Standard library only; every import here is paid on every run.

How "ran to its end" is known without tests: a random number is written after the program's last
line, by a chain of built-in calls that leaves no Python frame with the number in it.
"""

# pathlib would cost its import on every run:
# ruff: noqa: PTH120, PTH208

import _collections
import _functools
import _operator
import marshal
import os
import select
import stat
import sys
import time

sys.path.insert(0, os.path.dirname(__file__))

import jail
import remote
import walls

NAMESPACES, SECCOMP, LANDLOCK = "namespaces", "seccomp", "landlock"  # as in `process.WALLS`
KILL = 9
WATCH_S = 0.05  # between two looks at memory and files
SECRET_BYTES = 16
MOST_TOLD = 2**20
RESERVE_BYTES = 2**28  # of the disk, which no program may take
_COUNTED_AS_MEMORY = b"/dev/zero (deleted)"  # what processes share without a file


def main():
    result, tests = [_lowest(int(number)) for number in sys.argv[2:]]
    job = marshal.loads(_exactly(0, int.from_bytes(_exactly(0, 8), "big")))
    deadline = time.monotonic() + job["timeout_s"]
    processes, null = _processes(), os.open(os.devnull, os.O_RDWR)
    work = _work_folder(job)
    jail.watch_over_children()
    incoming, outgoing = os.pipe()
    secret = [] if job["tested"] else [os.urandom(SECRET_BYTES)]
    if job["tested"]:
        children = _with_tests(job, work, null, outgoing, tests)
    else:
        children = [_start(job, work, {null: 0, outgoing: 3}, _run_alone, secret)]
    os.close(outgoing)
    os.close(tests)
    watch = _Watch(job, work, processes, children)
    told, trouble = _listen(incoming, SECRET_BYTES if secret else MOST_TOLD, deadline, watch)
    statuses = _end(children)
    os.write(result, marshal.dumps(([told] == secret, told, trouble, statuses)))


def _lowest(handle):
    """The same under a low number, so that all that is open can be closed at once."""
    low = os.dup(handle)
    os.close(handle)
    return low


def _work_folder(job):
    work = job["folder"]
    if NAMESPACES in job["walls"]:
        jail.separate(work)
        work = jail.WORK
    if job["user"]:
        os.chown(work, job["user"], jail.NOBODY)
    os.chdir(work)
    return work


def _with_tests(job, work, null, outgoing, tests):
    """The program, which never shared memory with the tests, and the tests' own process.

    The tests' process comes first: where processes have a namespace, all end with the first.
    """
    to_program, to_tests = os.pipe(), os.pipe()
    kept = {null: 0, to_tests[0]: 3, to_program[1]: 4, outgoing: 5, tests: 6}
    testing = _start(job, work, kept, _run_tests)
    program = _start(job, work, {null: 0, to_program[0]: 3, to_tests[1]: 4}, _run_asked)
    for handle in (*to_program, *to_tests):
        os.close(handle)
    return [program, testing]


# --- watching -----------------------------------------------------------------------------------


class _Watch:
    """Whether the processes of a run together hold too much memory, or their files too much.

    A file that was removed, and memory that is a file of no folder, last as long as somebody holds
    them: they count as files. Where a process is closed to us, a disk that gets full ends the run.
    """

    def __init__(self, job, work, processes, children):
        self.most_bytes, self.children, self.processes = job["memory_bytes"], children, processes
        self.is_bounded = NAMESPACES in job["walls"]  # the folder is a file system of its own
        self.folder, self.free_bytes = work, _free_bytes(work)

    def trouble(self):
        family = self._family() if self.processes is not None else []
        if sum(map(self._held_bytes, family)) + self._shared_bytes() > self.most_bytes:
            return f"took more than {self.most_bytes} bytes of memory in all its processes"
        if sum(map(self._nameless_bytes, family)) > jail.FOLDER_BYTES or self._is_too_full():
            most = f"{jail.FOLDER_BYTES} bytes or {jail.FOLDER_FILES} files"
            return f"wrote more than {most}, or where nobody can look"
        return ""

    def _family(self):
        found = list(self.children)
        for process in found:  # which grows
            for thread in self._list(f"{process}/task"):
                found += map(int, self._read(f"{process}/task/{thread}/children").split())
        return found

    def _held_bytes(self, process):
        pages = self._read(f"{process}/statm").split()[1:2]
        return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")

    def _shared_bytes(self):
        """Of segments that may be nobody's at the moment (System V), which a namespace has."""
        lines = self._read("sysvipc/shm").splitlines()[1:] if self.is_bounded else []
        return sum(int(line.split()[14]) for line in lines)

    def _nameless_bytes(self, process):
        """Of files without a name; one that is only mapped counts as the largest there can be."""
        found = {}  # by inode
        for line in self._read(f"{process}/maps").splitlines():
            inode, path = line.split(None, 5)[4:] if line.endswith(b" (deleted)") else (0, b"")
            if path and path != _COUNTED_AS_MEMORY:
                found[int(inode)] = jail.FILE_BYTES
        for handle in self._list(f"{process}/fd"):
            try:
                state = os.stat(f"{process}/fd/{handle}", dir_fd=self.processes)
            except OSError:  # just closed
                continue
            if stat.S_ISREG(state.st_mode) and not state.st_nlink:
                found[state.st_ino] = state.st_blocks * 512
        return sum(found.values())

    def _is_too_full(self):
        if self.is_bounded:
            return False
        free_bytes = _free_bytes(self.folder)
        gone_bytes = self.free_bytes - free_bytes
        is_getting_full = free_bytes < RESERVE_BYTES and gone_bytes > jail.FOLDER_BYTES
        return is_getting_full or _too_full(self.folder)

    def _read(self, name):
        """All of a file of /proc; nothing of a process that has just ended or is closed to us."""
        parts = []
        try:
            handle = os.open(name, os.O_RDONLY, dir_fd=self.processes)
        except OSError:
            return b""
        try:
            while part := os.read(handle, 1 << 16):
                parts.append(part)
        except OSError:
            return b""
        finally:
            os.close(handle)
        return b"".join(parts)

    def _list(self, name):
        try:
            handle = os.open(name, os.O_RDONLY, dir_fd=self.processes)
        except OSError:
            return []
        try:
            return os.listdir(handle)
        except OSError:
            return []
        finally:
            os.close(handle)


def _free_bytes(folder):
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


def _processes():
    """A handle of /proc, which stays ours when the root folder is another; None without one."""
    try:
        return os.open("/proc", os.O_RDONLY)
    except OSError:
        return None


def _too_full(folder):
    size, count, folders = 0, 0, [folder]
    try:
        for one in folders:  # which grows
            for entry in os.scandir(one):
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                if size > jail.FOLDER_BYTES or count > jail.FOLDER_FILES:
                    return True
    except FileNotFoundError:  # removed while we looked
        return False
    except OSError:  # a folder that keeps us out has something to hide
        return True
    return False


def _listen(incoming, most, deadline, watch):
    """What is told until it is `most` bytes or its teller ends; what cut it short, "" if nothing.

    Ends as well when whoever waits for us is gone.
    """
    told, next_look = b"", 0.0
    poll = select.poll()
    poll.register(incoming, select.POLLIN)
    poll.register(0, 0)
    while len(told) < most:
        now = time.monotonic()
        if now >= deadline:
            return told, "timed out"
        if now >= next_look:
            next_look = now + WATCH_S
            if trouble := watch.trouble():
                return told, trouble
        events = poll.poll(max(0.001, min(deadline, next_look) - now) * 1000)
        if any(handle == 0 for handle, _ in events):
            break
        if events:
            part = os.read(incoming, 65536)
            if not part:
                break
            told += part
    return told, ""


def _end(children):
    """Kill the children and whatever they left behind; the wait status of each."""
    found = {}
    _collect(children, found)
    if len(found) < len(children):
        time.sleep(0.001)  # a program that has just ended by itself tells why
        _collect(children, found)
    for child in children:
        if child not in found:
            os.kill(child, KILL)
    while True:
        try:
            for process in _orphans():
                os.kill(process, KILL)
            ended, status = os.waitpid(-1, 0)
            found.setdefault(ended, status)
        except ProcessLookupError:
            continue
        except ChildProcessError:
            return [found[child] for child in children]


def _collect(children, found):
    for child in children:
        ended, status = (0, 0) if child in found else os.waitpid(child, os.WNOHANG)
        if ended:
            found[child] = status


def _orphans():
    """What came to us; in a namespace the kernel has already ended them."""
    try:
        handle = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
    except OSError:
        return []
    try:
        return [int(number) for number in os.read(handle, 1 << 16).split()]
    finally:
        os.close(handle)


# --- inside the walls ---------------------------------------------------------------------------


def _start(job, work, kept, body, *more):
    """A process behind the walls that does `body`; `kept`: which handles it has, as what number."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()  # a signal to its own group must not reach us
        _keep(kept)
        _wall_in(job, work)
        body(job, work, *more)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)


def _keep(kept):
    """Nothing but `kept`, stdout and stderr stays open."""
    most = 2 + len(kept)
    high = {os.dup(handle): number for handle, number in kept.items()}
    while min(high) < most:
        high = {os.dup(handle): number for handle, number in high.items()}
    for handle, number in high.items():
        os.dup2(handle, number, inheritable=False)
    os.closerange(most, jail.OPEN_FILES)


def _wall_in(job, work):
    # What stands behind both of these reads nobody's memory, so that we may look at what it holds.
    may_be_seen = job["walls"] == (SECCOMP, LANDLOCK)
    jail.give_up_rights(job["user"], may_be_seen)
    jail.limit(job["memory_bytes"], job["cpu_s"])
    if job["user"] or NAMESPACES in job["walls"]:
        jail.limit_processes()
    if LANDLOCK in job["walls"]:
        walls.refuse_files(jail.library_folders(), (work,))
    if SECCOMP in job["walls"]:
        walls.refuse_calls()


def _befriend(job, work, may_look):
    if job["hook"]:
        jail.install_hook(work, may_look, may_start=bool(job["walls"]))


def _run_alone(job, work, secret):
    _befriend(job, work, may_look=False)
    try:
        _collections.deque(map(_operator.call, _steps(job, secret)), 0)
    except BaseException:
        kind, error, frames = sys.exc_info()
        error.__traceback__ = None if kind is SyntaxError else frames.tb_next
        sys.__excepthook__(kind, error, error.__traceback__)
    sys.stdout.flush()


def _steps(job, secret):
    """Run, flush, tell. Only the chain that calls these holds them once the program runs."""
    code = compile(job.pop("program"), "<program>", "exec")
    return (
        _functools.partial(exec, code, _main_namespace()),
        sys.stdout.flush,
        _functools.partial(os.write, 3, secret.pop()),
    )


def _run_asked(job, work):
    _befriend(job, work, may_look=True)
    pipe = remote.Pipe(3, 4)
    namespace = _main_namespace("program")  # so `if __name__ == "__main__"` is false
    remote.serve(pipe, job["program"], job["imports"], job["entry_point"], namespace)


def _run_tests(job, work):
    texts = marshal.loads(_exactly(6, int.from_bytes(_exactly(6, 8), "big")))
    os.close(6)
    tag = texts["tag"]
    _befriend(job, work, may_look=True)

    def report(byte):
        os.write(5, tag + byte)

    remote.run_tests(remote.Pipe(3, 4), report, job["program"], texts, job["entry_point"])
    os._exit(0)


def _main_namespace(called="__main__"):
    """The globals of a fresh main module, without the launcher's modules in sight."""
    for name in ("ctypes", "_ctypes", "ctypes._endian", "resource"):
        sys.modules.pop(name, None)
    for name in ("launcher", "jail", "remote", "walls", "wire"):
        sys.modules.pop(name, None)
    jail.ctypes = walls.ctypes = jail.resource = None
    del sys.path[:2], sys.argv[1:]  # our folder, by which we were found and find the others
    sys.dont_write_bytecode = True
    main_module = type(sys)(called)
    sys.modules["__main__"] = sys.modules[called] = main_module
    return main_module.__dict__


def _exactly(handle, size):
    parts = []
    while size:
        part = os.read(handle, min(size, 1 << 20))
        if not part:
            os._exit(3)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)

"""What a program is put into: namespaces with an empty root, no rights, limits, a friendly hook.

Runs inside the launcher's process, with the standard library only and few imports, for every
import is paid on every run. Namespaces hold where the kernel allows them (`walls` has what holds
without them). The audit hook is no wall: it names a forbidden act before a wall refuses it, and a
program that searches the interpreter's memory can be rid of it.
"""

# pathlib would cost its import on every run:
# ruff: noqa: PTH100, PTH102, PTH103, PTH112, PTH114, PTH115, PTH120, PTH211

import ctypes
import os
import sys
import types

try:
    import resource
except ImportError:  # Windows, where no program is run
    resource = None

NEW_MOUNTS, NEW_NAMES, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USERS, NEW_PIDS, NEW_NET = 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND = 1, 2, 4, 32, 4096
NO_PROGRAMS, RECURSIVE, PRIVATE, DETACH, KEPT_FLAGS = 8, 16384, 1 << 18, 2, 15
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_NO_NEW_PRIVILEGES, SET_SUBREAPER = 1, 4, 38, 36
CAPABILITY_VERSION_3 = 0x20080522
NOBODY = 65534

PROCESSES = 64
OPEN_FILES = 64
FILE_BYTES = 8 * 2**20
FOLDER_BYTES = 16 * 2**20
FOLDER_FILES = 4096
WORK = "/work"

BLOCKED = (
    "socket.",
    "ctypes.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.kill",
    "os.chdir",
    "os.fchdir",
    "os.link",
    "os.symlink",
    "os.chown",
    "os.chmod",
    "os.setxattr",
    "pty.",
    "signal.pthread_kill",
    "resource.",
    "sqlite3.",
    "sys.addaudithook",
)
# Ways to look into the interpreter, refused where something in the same process must stay unseen.
INTROSPECTION = ("gc.get_", "sys._current_", "sys.settrace", "sys.setprofile", "code.__new__")
BLOCKED_MODULES = ("_test", "_xx", "_interp")
PATH_EVENTS = (
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.rename",
    "os.truncate",
    "os.utime",
    "shutil.",
    "glob.",
)
READABLE_EVENTS = ("open", "os.listdir", "os.scandir")


def separate(folder):
    """Own mounts, processes, network, IPC and names; `/` is an empty tmpfs plus the library.

    As root directly, else through a user namespace. Raises `OSError` where the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    flags = NEW_MOUNTS | NEW_NAMES | NEW_IPC | NEW_PIDS | NEW_NET
    _check(libc.unshare(flags if user == 0 else flags | NEW_USERS))
    if user != 0:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{NOBODY} {user} 1")
        _write("/proc/self/gid_map", f"{NOBODY} {group} 1")
    _mount(libc, None, "/", None, RECURSIVE | PRIVATE)
    room = f"size={FOLDER_BYTES},nr_inodes={FOLDER_FILES},mode=755"
    _mount(libc, "tmpfs", folder, "tmpfs", NO_SUID | NO_DEVICES | NO_PROGRAMS, room)
    for source in library_folders():
        _bind(libc, source, folder + source)
    os.mkdir(folder + WORK)
    os.chdir(folder)
    _check(libc.pivot_root(b".", b"."))
    _check(libc.umount2(b".", DETACH))
    os.chdir("/")


def library_folders():
    """What a program must be able to read: the standard library and the shared libraries."""
    wanted = (sys.base_prefix + "/lib", sys.base_exec_prefix + "/lib", os.path.dirname(os.__file__))
    found = []
    for folder in (*wanted, "/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo"):
        inside = any(folder == other or folder.startswith(other + "/") for other in found)
        if os.path.isdir(folder) and not inside:
            found.append(folder)
    return tuple(found)


def give_up_rights(user, may_be_seen):
    """Become `user` (0: stay who we are), without capabilities, privileges or a debugger.

    `may_be_seen`: others of the same user may look into this process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if user:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(user, user, user)
    if sys.platform == "linux":
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        libc.capset(header, (ctypes.c_uint32 * 6)())
        libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        libc.prctl(SET_DUMPABLE, int(may_be_seen), 0, 0, 0)
        libc.prctl(SET_DEATH_SIGNAL, 9, 0, 0, 0)  # end with the launcher


def watch_over_children():
    """Be closed to others' eyes, and the parent of whatever a program leaves behind."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
        libc.prctl(SET_SUBREAPER, 1, 0, 0, 0)


def limit(memory_bytes, cpu_s):
    """Memory, processor time, files; no core dumps."""
    _limit(
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    )


def limit_processes():
    """Processes and threads of this user; of no use where the user runs much else beside."""
    _limit((resource.RLIMIT_NPROC, PROCESSES))


def _limit(*limits):
    for what, amount in limits:
        hard = resource.getrlimit(what)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        try:
            resource.setrlimit(what, (amount, amount))
        except (ValueError, OSError):  # macOS refuses some; `Protection` says so
            if sys.platform == "linux":
                raise


def install_hook(work, may_look=False, may_start=True):
    """End the process at the first forbidden act, and name it.

    `may_look`: the interpreter's insides are no secret here. `may_start`: the kernel keeps new
    programs from doing harm. The hook never raises, not even where the stack is full, or its
    frame would be within reach of the program's traceback. `AF_UNIX` socket pairs are allowed,
    for asyncio needs one.
    """
    blocked = BLOCKED if may_look else BLOCKED + INTROSPECTION
    modules = BLOCKED_MODULES if may_start else (*BLOCKED_MODULES, "_posixsubprocess")
    readable = (*library_folders(), os.path.dirname(os.path.abspath(__file__)))
    sys.addaudithook(_hook(os.write, os._exit, work, readable, blocked, modules))


def _hook(write, end, work, readable, blocked, modules):
    starts, decode, encode, text = str.startswith, bytes.decode, str.encode, str
    look, sets_a_flag = sys._getframe, types.coroutine.__code__
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    readable = tuple(folder + "/" for folder in readable)
    own = work + "/"

    def allowed(path, may_read):
        if path is None or type(path) is int:
            return True
        path = decode(path, "utf-8", "replace") if type(path) is bytes else path
        if type(path) is not text or ".." in path:
            return False
        if not starts(path, "/") or path == work or starts(path, own):
            return True
        return path == "/dev/null" or (may_read and starts(path + "/", readable))

    def forbids(event, arguments):
        refused = starts(event, blocked)
        if event == "socket.__new__":
            refused = arguments[1] != 1
        elif event == "import":
            refused = starts(arguments[0], modules)
        elif event == "code.__new__":  # asyncio marks functions as coroutines while it is imported
            refused = refused and look(2).f_code is not sets_a_flag
        if not refused and starts(event, PATH_EVENTS):
            may_read = event in READABLE_EVENTS
            if event == "open":
                may_read = type(arguments[2]) is int and not arguments[2] & writing
            refused = not allowed(arguments[0], may_read)
            if event == "os.rename":
                refused = refused or not allowed(arguments[1], False)
        return refused

    def hook(event, arguments):
        try:
            if not forbids(event, arguments):
                return
            write(2, b"refused: " + encode(event) + b"\n")
        except BaseException:
            write(2, b"refused: a call that could not be looked at\n")
        end(97)

    return hook


def _bind(libc, source, target):
    if os.path.islink(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink(source), target)
        return
    os.makedirs(target, exist_ok=True)
    _mount(libc, source, target, None, BIND | RECURSIVE)
    kept = os.statvfs(target).f_flag & KEPT_FLAGS
    _mount(libc, None, target, None, REMOUNT | BIND | READ_ONLY | NO_SUID | kept)


def _mount(libc, source, target, kind, flags, options=None):
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    _check(libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]))


def _check(result):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _write(path, text):
    handle = os.open(path, os.O_WRONLY)
    os.write(handle, text.encode())
    os.close(handle)

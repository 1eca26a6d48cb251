"""Programs that get rid of the audit hook first, and what they then try."""

# The hook's own variables, overwritten through the garbage collector's list of all objects.
THROUGH_GC = """
import gc
def disarm(function, seen=()):
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        kind = type(cell.cell_contents)
        if name == "starts": cell.cell_contents = lambda *a: False
        elif name == "end": cell.cell_contents = lambda *a: None
        elif name == "allowed": cell.cell_contents = lambda *a: True
        elif name == "forbids": cell.cell_contents = lambda *a: False
for one in gc.get_objects():
    if type(one) is type(disarm) and "jail" in one.__code__.co_filename: disarm(one)
"""

# The same through the frame that an error inside the hook leaves in its traceback.
THROUGH_FRAMES = """
def disarm(function):
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        if name == "starts": cell.cell_contents = lambda *a: False
        elif name in ("write", "end"): cell.cell_contents = lambda *a: None
def dive(depth):
    try:
        open("deep") if depth == 0 else dive(depth - 1)
    except RecursionError as error:
        frames = error.__traceback__
        while frames:
            for one in frames.tb_frame.f_locals.values():
                if type(one) is type(dive) and "jail" in one.__code__.co_filename: disarm(one)
            frames = frames.tb_next
    except OSError:
        pass
for depth in range(900, 1000):
    try: dive(depth)
    except BaseException: pass
"""

REMOVALS = {"gc": THROUGH_GC, "frames": THROUGH_FRAMES}

# Copies of all of its own memory that can be reached, without a fault where there is none.
SEARCH = """
import ctypes, os, re, gc
def find(pattern):
    libc = ctypes.CDLL(None)
    libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    libc.sbrk.restype = ctypes.c_void_p
    top, page = libc.sbrk(0), 4096
    pages = set(range(top - 2**23, top, page))
    for one in gc.get_objects():
        start = id(one) // 2**20 * 2**20
        if start not in pages:
            pages.update(range(start, start + 2**20, page))
    incoming, outgoing = os.pipe()
    found, last = set(), b""
    for at in sorted(pages):
        if libc.write(outgoing, at, page) == page:
            block = os.read(incoming, page)
            found.update(re.findall(pattern, last[-64:] + block))
            last = block
    return found
"""

# Every way to a file, a process or a network, through the interpreter and past it. A way that is
# open prints its name.
WAYS = """
import ctypes, os, socket, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def attempt(name, act, *arguments):
    try:
        outcome = act(*arguments)
    except Exception:
        return
    if outcome is not None and outcome != -1: print("OPEN", name, outcome, flush=True)
def child(start):
    number = start()
    if number == 0: os._exit(0)
    return number
def dial(address):
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        return "connected"
def send(address):
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.sendto(b"x", address)
def native():
    with open("./run", "wb") as file: file.write(open(EXECUTABLE, "rb").read())
    libc.execve(b"./run", (ctypes.c_char_p * 2)(b"./run", None), None)
    return -1
for path in (SECRET, "/etc/passwd", "/proc/self/environ", "/proc/1/environ", "/proc/self/mem",
             "/proc/%d/environ" % os.getppid(), "/proc/%d/fd" % os.getppid()):
    attempt("read " + path, lambda: open(path, "rb").read())
    attempt("list " + path, lambda: os.listdir(path))
    attempt("C read " + path, lambda: libc.open(path.encode(), 0))
for name in ("cwd", "exe", "root", "fd/0"):
    attempt("link " + name, os.readlink, "/proc/%d/%s" % (APP, name))
attempt("write", lambda: open(TARGET, "w").write("x"))
attempt("truncate", os.truncate, SECRET, 0)
attempt("chmod", libc.chmod, SECRET.encode(), 0)
attempt("chown", libc.chown, SECRET.encode(), 1, 1)
attempt("utime", lambda: os.utime(SECRET) or "changed")
attempt("setxattr", lambda: os.setxattr(SECRET, "user.evil", b"x") or "changed")
attempt("remove", lambda: os.remove(SECRET) or "removed")
attempt("rename", lambda: os.rename(SECRET, "mine") or "renamed")
attempt("link", lambda: os.link(SECRET, "mine") or open("mine").read())
attempt("symlink", lambda: os.symlink(SECRET, "way") or open("way").read())
attempt("local socket", dial, SOCKET)
attempt("datagram", send, SOCKET)
attempt("abstract socket", dial, "\\0" + ABSTRACT)
attempt("internet", lambda: socket.create_connection(("127.0.0.1", PORT), 1))
if os.getppid():  # not in a namespace of our own
    for number in (os.getppid(), 1, -1):
        attempt("kill %d" % number, lambda: os.kill(number, 0) or "alive")
attempt("kill the app", lambda: os.kill(APP, 0) or "alive")
attempt("limits of the app", libc.prlimit, APP, 7, None, (ctypes.c_ulong * 2)())
attempt("execve", native)
"""

# Calls that nothing in a program needs, by number on x86_64 (aarch64 where it differs is not run).
DANGEROUS = """
import ctypes, os, errno
libc = ctypes.CDLL(None, use_errno=True)
calls = dict(fork=57, vfork_like_clone=56, execve=59, execveat=322, ptrace=101, mount=165,
    unshare=272, setns=308, bpf=321, perf_event_open=298, keyctl=250, add_key=248,
    io_uring_setup=425, userfaultfd=323, memfd_create=319, open_by_handle_at=304, pidfd_open=434,
    pidfd_getfd=438, personality=135, process_vm_readv=310, process_vm_writev=311, clone3=435,
    socket=41, connect=42, bind=49, sendmsg=46, shmget=29, mq_open=240, chroot=161, pivot_root=155,
    seccomp=317, setuid=105, capset=126, symlink=88, link=86, mknod=133, chmod=90, fchmodat=268,
    setxattr=188, inotify_init=253, fanotify_init=300, modify_ldt=154, kexec_load=246, reboot=169,
    init_module=175, swapon=167, quotactl=179, tkill=200, rt_sigqueueinfo=129, setrlimit=160,
    clock_settime=227, settimeofday=164, x32_fork=0x40000000 + 57)
for name, number in calls.items():
    ctypes.set_errno(0)
    arguments = (17, 0, 0, 0, 0) if number in (56,) else (0, 0, 0, 0, 0)
    result = libc.syscall(number, *arguments)
    if result == 0 and name in ("fork", "vfork_like_clone", "x32_fork"): os._exit(0)
    if ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS): print("OPEN", name, result)
for option in (1, 4, 22, 36):
    if libc.prctl(option, 1, 0, 0, 0) == 0: print("OPEN prctl", option)
"""

SUM = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        block = bytearray(100 * 2**20)
        time.sleep(30)
time.sleep(30)
"""

# Files that are in no folder any more, 4 MiB each.
REMOVED = """
import os, time
kept = []
def fill(count, name="x"):
    for _ in range(count):
        handle = os.open(name, os.O_RDWR | os.O_CREAT)
        os.unlink(name)
        os.write(handle, bytes(2**22))
        keep(handle)
    time.sleep(1)
"""

# Held by one page each, and by no handle.
MAPPED = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
def keep(handle):
    assert libc.mmap(None, 4096, 1, 2, handle, 0) % 4096 == 0
    os.close(handle)
"""

MEMORY_FILES = """
import os, time
kept = [os.memfd_create("x") for _ in range(50)]
for handle in kept: os.write(handle, bytes(2**22))
time.sleep(1)
"""

SEGMENTS = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.shmat.restype, libc.shmdt.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
for _ in range(8):
    at = libc.shmat(libc.shmget(0, 2**26, 0o1600), None, 0)
    ctypes.memset(at, 1, 2**26)
    libc.shmdt(at)
time.sleep(1)
"""

"""Walls outside the interpreter, which no program takes down: seccomp and Landlock.

seccomp: a list of the system calls that ordinary programs make; every other is refused, so no
process, program, socket, signal to others, namespace, debugger, key ring, io_uring or BPF. A call
of another architecture ends the process. Landlock: the library can be read, the work folder used,
nothing else opened, no TCP, no abstract socket, no signal beyond these walls. Both stay for ever,
for every thread, for native code too. Paths can still be asked for (`stat`), but not opened.

Runs inside the launcher's process: standard library only, few imports.
"""

import ctypes
import os
import sys

_X86_64, _AARCH64 = 0, 1
_ARCHITECTURES = {"x86_64": (_X86_64, 0xC000003E), "aarch64": (_AARCH64, 0xC00000B7)}

# Name, number on x86_64, number on aarch64; "-" where there is none.
_ALLOWED = """
read 0 63 write 1 64 readv 19 65 writev 20 66 pread64 17 67 pwrite64 18 68 preadv 295 69
pwritev 296 70 lseek 8 62 close 3 57 close_range 436 436 dup 32 23 dup2 33 - dup3 292 24 pipe 22 -
pipe2 293 59 open 2 - openat 257 56 stat 4 - fstat 5 80 lstat 6 - newfstatat 262 79 statx 332 291
access 21 - faccessat 269 48 faccessat2 439 439 readlink 89 - readlinkat 267 78 getdents64 217 61
getcwd 79 17 mkdir 83 - mkdirat 258 34 rmdir 84 - unlink 87 - unlinkat 263 35 rename 82 -
renameat 264 38 renameat2 316 276 truncate 76 45 ftruncate 77 46 fallocate 285 47 fsync 74 82
fdatasync 75 83 fadvise64 221 223 flock 73 32 statfs 137 43 fstatfs 138 44 umask 95 166
sendfile 40 71 copy_file_range 326 285
mmap 9 222 munmap 11 215 mprotect 10 226 mremap 25 216 madvise 28 233 brk 12 214 msync 26 227
membarrier 324 283 futex 202 98 set_robust_list 273 99 rseq 334 293 set_tid_address 218 96
sched_yield 24 124 sched_getaffinity 204 123 getcpu 309 168 exit 60 93 exit_group 231 94
rt_sigaction 13 134 rt_sigprocmask 14 135 rt_sigreturn 15 139 rt_sigpending 127 136
rt_sigtimedwait 128 137 rt_sigsuspend 130 133 sigaltstack 131 132 pause 34 - alarm 37 -
restart_syscall 219 128 setitimer 38 103 getitimer 36 102 wait4 61 260 waitid 247 95
nanosleep 35 101 clock_nanosleep 230 115 clock_gettime 228 113 clock_getres 229 114
gettimeofday 96 169 time 201 - times 100 153 getrusage 98 165 poll 7 - ppoll 271 73 select 23 -
pselect6 270 72 epoll_create 213 - epoll_create1 291 20 epoll_ctl 233 21 epoll_wait 232 -
epoll_pwait 281 22 eventfd2 290 19 recvfrom 45 207 shutdown 48 210 getsockopt 55 209
getsockname 51 204 getpeername 52 205 getpid 39 172 getppid 110 173 gettid 186 178 getuid 102 174
geteuid 107 175 getgid 104 176 getegid 108 177 getresuid 118 148 getresgid 120 150
getgroups 115 158 getpgrp 111 - getpgid 121 155 getsid 124 156 getpriority 140 141
getrlimit 97 163 uname 63 160 sysinfo 99 179 getrandom 318 278
"""
_ON_TERMS = {
    "clone": (56, 220),
    "socketpair": (53, 199),
    "sendto": (44, 206),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "prctl": (157, 167),
    "ioctl": (16, 29),
    "fcntl": (72, 25),
    "utimensat": (280, 88),
}
_NEWER_CALLS = 435  # clone3 and later: "no such call", upon which libc takes the older one
_EVERY_BIT = 0xFFFFFFFF
_THREAD, _NAMESPACES = 0x00010000, 0x7E020080
_TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS … FIOCLEX
_FILE_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)  # no owner, lease or signal
_NAMING, _GET_DUMPABLE = (15, 16, 0x53564D41), 3

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_KILL, _ALLOW, _REFUSE, _NO_SUCH_CALL = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`
_SET_SECCOMP, _FILTER_MODE = 22, 2

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_LEAST_LANDLOCK = 3  # the first that also refuses to cut files short (Linux 6.2)
_ALL_OF_FILES = {3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version: from 5 on also device controls
_WRITE, _READ, _LIST, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_REMOVE, _MAKE_FOLDER, _MAKE_FILE, _REFER = 3 << 4, 1 << 7, 1 << 8, 1 << 13
_USE = _WRITE | _READ | _LIST | _TRUNCATE | _REMOVE | _MAKE_FOLDER | _MAKE_FILE | _REFER


def refuse_calls():
    """Put this process under the filter. Raises `OSError` where there is no seccomp."""
    program = _filter()
    code = ctypes.create_string_buffer(program, len(program))
    header = (ctypes.c_size_t * 2)(len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(value) for value in (_FILTER_MODE, ctypes.addressof(header), 0, 0)]
    _checked(libc.prctl(_SET_SECCOMP, *words))


def refuse_files(readable, usable):
    """Only `readable` folders can be read, only `usable` ones used; `OSError` without Landlock.

    `/dev/null` stays open to all. Needs "no new privileges".
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < _LEAST_LANDLOCK:
        raise OSError("no Landlock, or one too old")
    files = _ALL_OF_FILES[5 if version >= 5 else 3]
    words = (files, 3, 3) if version >= 6 else (files, 3) if version >= 4 else (files,)
    asked = (ctypes.c_uint64 * len(words))(*words)  # files; TCP; abstract sockets and signals
    ruleset = _checked(libc.syscall(_CREATE_RULESET, asked, ctypes.c_size_t(8 * len(words)), 0))
    rules = [(path, _READ | _LIST) for path in readable] + [(path, _USE) for path in usable]
    for path, rights in (*rules, ("/dev/null", _READ | _WRITE)):
        _open_to(libc, ruleset, path, rights)
    _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _open_to(libc, ruleset, path, rights):
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:  # an own root has no /dev
        return
    rule = rights.to_bytes(8, sys.byteorder) + folder.to_bytes(4, sys.byteorder)
    _checked(libc.syscall(_ADD_RULE, ruleset, 1, rule, 0))
    os.close(folder)


def _filter():
    """The BPF program; made in the process it is for, since it names its number."""
    column, architecture = _ARCHITECTURES.get(os.uname().machine, (None, 0))
    if column is None or sys.maxsize < 2**32 or sys.byteorder != "little":
        raise OSError("no filter for this processor")
    words = _ALLOWED.split()
    plain = [int(number) for number in words[column + 1 :: 3] if number != "-"]
    steps = [_load(_ARCHITECTURE), _jump(_EQUAL, architecture, 1, 0), _end(_KILL), _load(_NUMBER)]
    for number in plain:
        steps += [_jump(_EQUAL, number, 0, 1), _end(_ALLOW)]
    for name, terms in _terms(os.getpid()).items():
        block = _on_terms(terms)
        steps += [_jump(_EQUAL, _ON_TERMS[name][column], 0, len(block)), *block]
    steps += [_jump(_AT_LEAST, _NEWER_CALLS, 0, 1), _end(_NO_SUCH_CALL), _end(_REFUSE)]
    return b"".join(steps)


def _terms(own):
    """Call -> [(argument, bits looked at, values)], all of which must hold."""

    def argument(index, *values, bits=_EVERY_BIT):
        return (_ARGUMENTS + 8 * index, bits, values)

    def nothing(index):  # a null pointer, both halves of it
        return (_ARGUMENTS + 8 * index, _EVERY_BIT, (0,)), (
            _ARGUMENTS + 8 * index + 4,
            _EVERY_BIT,
            (0,),
        )

    return {
        "clone": [argument(0, _THREAD, bits=_THREAD | _NAMESPACES)],  # threads only
        "socketpair": [argument(0, 1)],  # AF_UNIX, which asyncio wakes itself with
        "sendto": nothing(4),  # to its peer, to no address
        "kill": [argument(0, own)],
        "tgkill": [argument(0, own)],
        "prlimit64": [argument(0, 0, own)],
        "sched_setaffinity": [argument(0, 0, own)],
        "prctl": [argument(0, *_NAMING, _GET_DUMPABLE)],
        "ioctl": [argument(1, *_TERMINAL_QUESTIONS)],
        "fcntl": [argument(1, *_FILE_COMMANDS)],
        "utimensat": nothing(1),  # of an open file, of no path
    }  # fmt: skip


def _on_terms(terms):
    steps = []
    for offset, bits, values in terms:
        steps.append(_load(offset))
        if bits != _EVERY_BIT:
            steps.append(_step(_AND, bits))
        for index, value in enumerate(values):
            steps.append(_jump(_EQUAL, value, len(values) - index, 0))
        steps.append(_end(_REFUSE))
    return [*steps, _end(_ALLOW)]


def _step(code, value, if_true=0, if_false=0):
    """One `struct sock_filter`."""
    head = code.to_bytes(2, "little") + bytes((if_true, if_false))
    return head + value.to_bytes(4, "little")


def _load(offset):
    return _step(_LOAD, offset)


def _jump(code, value, if_true, if_false):
    return _step(code, value, if_true, if_false)


def _end(action):
    return _step(_RETURN, action)


def _checked(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

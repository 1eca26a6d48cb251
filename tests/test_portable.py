"""t2local starts where there is no POSIX: Windows, as far as another system can tell."""

import os
import subprocess
import sys

import pytest

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import check_name, free_name

ON_WINDOWS = """
import contextlib, importlib.util, os, pkgutil, select, signal, sys

# These and the standard library look for Windows' own modules (msvcrt, psutil's) when they are
# imported on Windows, so they are imported before: the test is about t2local's modules.
import accelerate, gradio, huggingface_hub, plotly.graph_objects, psutil, pyarrow.parquet
import torch.distributed, transformers

ABSENT = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "spwd", "crypt"}
ABSENT |= {"_posixsubprocess", "curses", "readline", "nis", "_posixshmem"}
OF_OS = "fork forkpty getuid geteuid getgid getegid setuid setgid setgroups setsid setresuid " \\
    "setresgid killpg getpgid setpgid sysconf sysconf_names uname nice wait wait3 wait4 WNOHANG " \\
    "WIFSIGNALED WEXITSTATUS WTERMSIG sched_getaffinity sched_setaffinity mkfifo chown lchown " \\
    "chroot statvfs getloadavg posix_spawn pidfd_open O_NONBLOCK O_DIRECTORY"
OF_SIGNAL = "SIGKILL SIGALRM SIGHUP SIGCHLD SIGUSR1 SIGUSR2 SIGPIPE SIGSTOP SIGTSTP alarm " \\
    "setitimer getitimer pause pthread_kill pthread_sigmask sigwait"


class NotHere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ImportError(f"No module named {name!r} on Windows", name=name)


for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (select, "poll epoll")):
    for name in names.split():
        with contextlib.suppress(AttributeError):
            delattr(module, name)
for name in ABSENT:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, NotHere())
sys.platform = "win32"
signal.SIGBREAK = signal.SIGINT  # which Windows has

import t2local

names = ["app", *(m.name for m in pkgutil.walk_packages(t2local.__path__, "t2local."))]
names.remove("t2local.__main__")  # the program itself: what it calls is called below
if importlib.util.find_spec("triton") is None:
    names.remove("t2local.svf.kernels")  # Triton's own language
for name in names:
    importlib.import_module(name)

from t2local.cli.main import build_parser
from t2local.engine.engine import Engine
from t2local.ui.page import build_app

build_parser().parse_args(["doctor"])
page = build_app(Engine("embedded"))
assert len(page.blocks) > 100, len(page.blocks)
print(len(names))
"""


def test_every_module_page_and_commands_start_without_posix():
    done = subprocess.run(
        [sys.executable, "-c", ON_WINDOWS],
        cwd=paths.PROJECT_ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sources = list((paths.PROJECT_ROOT / "t2local").rglob("*.py"))
    packages = [path for path in sources if path.name == "__init__.py"]
    assert int(done.stdout.split()[-1]) >= len(sources) - len(packages) - 2


@pytest.fixture
def on_windows(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")


@pytest.mark.parametrize("name", ["con", "NUL", "aux.v2", "com1", "Lpt9.safetensors"])
def test_a_devices_name_is_no_files(on_windows, name):
    assert paths.slug(name) == f"_{name}"
    assert paths.slug(paths.slug(name)) == f"_{name}"
    with pytest.raises(T2LocalError, match="cannot be an expert's name"):
        check_name(name)
    assert check_name(free_name(name, ()))


@pytest.mark.parametrize("name", ["console", "com", "auxiliary", "nullable", "math", "com12"])
def test_a_name_that_is_only_like_a_devices_stays(on_windows, name):
    assert paths.slug(name) == name


def test_devices_are_windows_own():
    assert check_name("aux") == "aux"


@pytest.fixture
def held(monkeypatch):
    """`held(times)`: a rename fails so often, as it does on Windows while somebody reads."""
    failures, real = [], os.replace

    def replace(source, target):
        if failures:
            raise failures.pop()
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(paths.time, "sleep", lambda seconds: None)
    return lambda times: failures.extend(PermissionError(13, "Access denied") for _ in range(times))


def test_a_file_that_somebody_reads_is_replaced_a_little_later(on_windows, held, tmp_path):
    path = tmp_path / "chat.json"
    path.write_text("old", encoding="utf-8")
    held(5)
    with paths.atomic_write(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new"


def test_a_file_that_stays_open_is_told_and_kept(on_windows, held, tmp_path):
    path = tmp_path / "chat.json"
    path.write_text("old", encoding="utf-8")
    held(50)
    with pytest.raises(T2LocalError, match="cannot be written"), paths.atomic_write(path):
        pass
    assert [(p.name, p.read_text(encoding="utf-8")) for p in tmp_path.glob("*chat*")] == [
        ("chat.json", "old")
    ]


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    for name, age_s in (("gguf-old", 2 * 24 * 3600), ("gguf-new", 60), ("other", 2 * 24 * 3600)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x")
        then = paths.time.time() - age_s
        os.utime(folder, (then, then))
    paths.drop_stale(tmp_path, "gguf-*")
    assert {path.name for path in tmp_path.iterdir()} == {"gguf-new", "other"}

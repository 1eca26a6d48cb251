"""From the command line to a served page: arguments, the address, one sentence when it is taken.

Imports nothing heavy, so that `--help` and a taken port answer at once. gradio's own environment
variables for host, port and path count where no flag is given; its analytics are off. The page is
served behind the guard of `engine.access`, by a server of our own: gradio's `launch` would stand
before it.
"""

import argparse
import contextlib
import errno
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from t2local import paths
from t2local.engine.access import Guard
from t2local.engine.doors import (
    ACCOUNTS,
    DEFAULT_PORT,
    EVERYWHERE,
    EVERYWHERE_6,
    LOCAL,
    MAX_UPLOAD_MB,
    TOKEN,
    addresses_of_this_computer,
    decide,
    is_loopback,
)
from t2local.engine.people import Account, read_accounts, readable_by_others
from t2local.errors import T2LocalError
from t2local.models.storage import AUTO, BASES, QUANTIZATIONS, asked_for
from t2local.tasks.sandbox import add_consent_argument

if TYPE_CHECKING:  # importing it takes seconds
    from t2local.engine.engine import Engine
    from t2local.engine.overnight import Appointment
    from t2local.ui.page import Page, Pages

GRADIO_FOLDER = "GRADIO_TEMP_DIR"  # as `page` has it, whose import takes seconds


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python app.py",
        description="A local language model that adapts itself to each prompt.",
    )
    add = arguments.add_argument
    add(
        "--model",
        help="a Hub id, a folder, a .gguf file, 'embedded', or a short name such as "
        "qwen2.5-coder-0.5b, which is fetched (default: T2LOCAL_MODEL, or the one chosen last in "
        "the page)",
    )
    add("--quantize", default=AUTO, choices=asked_for(QUANTIZATIONS))
    add("--basis", default=AUTO, choices=asked_for(BASES))
    add(
        "--precision",
        default="auto",
        choices=("auto", "exact"),
        help="exact: float32 only; auto: on a CPU, longer answers from weights rounded to 8 bits, "
        "several times as fast, logits about two per cent off",
    )
    _add_doors(add)
    add(
        "--overnight",
        metavar="HH:MM",
        help="at this time of day, learn from new rows of your chats while the machine is idle; "
        "what comes of it is offered on the page, not adopted",
    )
    add(
        "--overnight-adopt",
        action="store_true",
        help="with --overnight: adopt it where it is proven better and nothing else fell (that "
        "takes six held-out rows, so some two dozen new ones)",
    )
    add("--data-dir", type=Path, help="where models, experts and chats are kept (T2LOCAL_HOME)")
    add_consent_argument(arguments)
    return arguments


def _add_doors(add: Callable[..., Any]) -> None:
    """Where the page is served, and who may come in."""
    add("--port", type=int, help=f"default: GRADIO_SERVER_PORT, or {DEFAULT_PORT}")
    add(
        "--listen",
        action="store_true",
        help="let other computers of the network open the page, with a password",
    )
    add(
        "--password",
        help=f"default: {TOKEN}, or one that is made up and printed where others can come in "
        "(--listen, --allow-host, --root-path); other users of this computer can see flags",
    )
    add("--no-password", action="store_true", help="let in whoever can reach the page")
    add(
        "--accounts",
        type=Path,
        default=os.environ.get(ACCOUNTS) or None,
        metavar="FILE",
        help="a name and a password for each person, with chats of their own; make the file with "
        f"'python -m t2local accounts' ({ACCOUNTS})",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which the page may be opened, such as a reverse proxy's; repeatable",
    )
    add(
        "--root-path",
        default=os.environ.get("GRADIO_ROOT_PATH", ""),
        metavar="PATH",
        help="where a reverse proxy puts the page, such as /t2 (GRADIO_ROOT_PATH)",
    )
    add(
        "--max-upload",
        type=int,
        default=MAX_UPLOAD_MB,
        metavar="MB",
        help="the most that may be uploaded at once (default: %(default)s)",
    )


def address(port: int | None, listen: bool) -> tuple[str, int]:
    """Host and port: flags first, then gradio's environment variables, then this computer alone.

    Raises `T2LocalError` when the port is no port, or already in use.
    """
    host = EVERYWHERE if listen else os.environ.get("GRADIO_SERVER_NAME") or LOCAL
    host = host.removeprefix("[").removesuffix("]")
    given = str(port if port is not None else os.environ.get("GRADIO_SERVER_PORT", DEFAULT_PORT))
    if not (given.isdigit() and 0 < int(given) < 65_536):
        raise T2LocalError(f"'{given}' is no port; choose a number from 1 to 65535 with --port.")
    check_free(host, int(given))
    return host, int(given)


def check_free(host: str, port: int) -> None:
    """Raises `T2LocalError` when nothing can be served at this address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":  # a port that was just closed is free, as it is for the server
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                found = f"Port {port} is already in use"
            else:
                found = f"{host}:{port} cannot be used ({error.strerror})"
            raise T2LocalError(
                f"{found}; choose another, such as --port {port % 65_535 + 1}."
            ) from None


@contextlib.contextmanager
def uploads_folder(host: str, port: int) -> Iterator[Path]:
    """Where gradio keeps uploads and what it shows, for this start alone and its owner alone.

    It is emptied before (nobody else has this port now), of what is older than a day meanwhile, and
    is gone afterwards. Raises `T2LocalError` when it cannot be made.
    """
    before = os.environ.get(GRADIO_FOLDER)
    every = Path(before) if before else paths.home() / "uploads"
    folder = every / f"t2local-{paths.slug(host)}-{port}"
    shutil.rmtree(folder, ignore_errors=True)
    with paths.saving(folder):
        paths.make_folder(every)
        folder.mkdir(mode=0o700)
    paths.drop_stale(every, "t2local-*")  # of other ports
    os.environ[GRADIO_FOLDER] = str(folder)
    ended = threading.Event()
    threading.Thread(target=_sweep, args=(folder, ended), daemon=True).start()
    try:
        yield folder
    finally:
        ended.set()
        os.environ.pop(GRADIO_FOLDER)
        if before:
            os.environ[GRADIO_FOLDER] = before
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path, ended: threading.Event, every_s: float = 3_600.0) -> None:
    while not ended.wait(every_s):
        drop_old_files(folder, paths.STALE_AFTER_S)


def drop_old_files(folder: Path, after_s: float) -> None:
    """Delete the files below `folder` that have not changed for so long; the folder is in use."""
    folder.touch()
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or open on Windows
            found = path.stat()
            if path.is_file() and time.time() - max(found.st_mtime, found.st_ctime) > after_s:
                path.unlink()


class Server(uvicorn.Server):
    """Serves a page behind its guard, and says so once it is open."""

    def __init__(self, page: "Page | Pages", host: str, port: int) -> None:
        self.page, self.host, self.doors = page, host, page.doors
        config = uvicorn.Config(
            Guard(page.application(), page.doors, page.login_page),
            host,
            port,
            log_level="warning",
            proxy_headers=False,  # the guard knows whom to believe
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            print("\n".join(self._announcement()), flush=True)

    def _announcement(self) -> Iterator[str]:
        yield f"t2local is open at {self.url()} (Ctrl + C ends it)"
        if self.host in (EVERYWHERE, EVERYWHERE_6):
            others = [text for text in addresses_of_this_computer() if not is_loopback(text)]
            if others:
                yield f"for other computers: {self.url(others[0])}"
        if self.doors.invented:
            yield f"password: {self.doors.password}"
        if self.doors.warning:
            yield f"Warning: {self.doors.warning}"

    def url(self, name: str = "") -> str:
        """The address of the open page under one of its names; else the one for this computer."""
        port = self.servers[0].sockets[0].getsockname()[1]
        name = name or ("localhost" if self.host in (EVERYWHERE, EVERYWHERE_6) else self.host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    async def shutdown(self, sockets: Any = None) -> None:
        self.page.end()
        await super().shutdown(sockets)


def run(arguments: Sequence[str], make_engine: Callable[[argparse.Namespace], "Engine"]) -> int:
    """Serve the page until interrupted; the exit status: 0, or 1 after one clear line on stderr."""
    options = parser().parse_args(arguments)
    if options.data_dir is not None:
        os.environ["T2LOCAL_HOME"] = str(options.data_dir.expanduser().resolve())
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        host, port = address(options.port, options.listen)
        doors = decide(
            host,
            port,
            allow_hosts=options.allow_host,
            root_path=options.root_path,
            password=options.password,
            no_password=options.no_password,
            accounts=_accounts(options.accounts),
            max_upload_mb=options.max_upload,
            environment=os.environ,
        )
        appointment = _appointment(options)
        os.environ.pop(TOKEN, None)  # no program that is started from here needs it
        with uploads_folder(host, port):
            engine = make_engine(options)
            engine.start()
            if appointment is not None:
                from t2local.engine.overnight import keep

                keep(appointment, engine)
            if beside := engine.status.beside:
                print(beside, flush=True)
            from t2local.ui.page import Pages, build_app  # the environment is set: gradio reads it

            page = Pages(engine, doors) if doors.accounts else build_app(engine, doors)
            Server(page, host, port).run()
    except T2LocalError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _appointment(options: argparse.Namespace) -> "Appointment | None":
    """Raises `T2LocalError` for what is no time of day, and for a wish without a time."""
    if options.overnight is None:
        if options.overnight_adopt:
            raise T2LocalError("--overnight-adopt needs a time; give --overnight HH:MM too.")
        return None
    from t2local.engine.overnight import Appointment

    return Appointment.read(options.overnight, options.overnight_adopt)


def _accounts(path: Path | None) -> tuple[Account, ...]:
    """Raises `T2LocalError` for a file that cannot be used."""
    if path is None:
        return ()
    accounts = read_accounts(path.expanduser())
    if readable_by_others(path.expanduser()):
        print(
            f"Warning: other users of this computer can read '{path}', and could try passwords on "
            f"it; `chmod 600 {path}` ends that.",
            file=sys.stderr,
        )
    return accounts

import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest

from t2local.engine.people import GUEST, OWNER, add_account, new_account
from t2local.errors import T2LocalError
from t2local.paths import PROJECT_ROOT
from t2local.ui import launch
from t2local.ui.messages import shown


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def _no_gradio_settings(monkeypatch):
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "T2LOCAL_TOKEN", "T2LOCAL_ACCOUNTS"):
        monkeypatch.delenv(name, raising=False)


def test_a_taken_port_is_one_sentence_and_exit_1(taken, capsys):
    assert launch.run(["--port", str(taken)], lambda options: None) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"Port {taken} is already in use" in lines[0]
    assert "--port" in lines[0]


def test_only_this_computer_unless_asked(monkeypatch):
    monkeypatch.setattr(launch, "check_free", lambda host, port: None)
    assert launch.address(None, False) == ("127.0.0.1", 7860)
    assert launch.address(1234, True) == ("0.0.0.0", 1234)
    monkeypatch.setenv("GRADIO_SERVER_NAME", "10.0.0.5")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "9000")
    assert launch.address(None, False) == ("10.0.0.5", 9000)
    assert launch.address(80, False) == ("10.0.0.5", 80)


@pytest.mark.parametrize("port", ["banana", "0", "70000"])
def test_a_port_that_is_none(monkeypatch, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    with pytest.raises(T2LocalError, match="no port"):
        launch.address(None, False)


def test_data_dir_moves_everything(tmp_path, monkeypatch, taken):
    monkeypatch.setenv("T2LOCAL_HOME", "somewhere else")
    launch.run(["--data-dir", str(tmp_path), "--port", str(taken)], lambda options: None)
    from t2local import paths

    assert paths.home() == tmp_path


def test_an_unknown_flag_is_usage(capsys):
    with pytest.raises(SystemExit) as left:
        launch.run(["--nonsense"], lambda options: SimpleNamespace())
    assert left.value.code == 2


def test_shown_turns_a_users_mistake_into_a_message():
    def fails():
        raise T2LocalError("No <b>such</b> thing.")

    def streams():
        yield 1
        raise T2LocalError("No such thing.")

    with pytest.raises(gr.Error, match="No &lt;b&gt;such"):
        shown(fails)()
    stream = shown(streams)()
    assert next(stream) == 1
    with pytest.raises(gr.Error, match="No such thing"):
        next(stream)


def test_shown_leaves_a_programmers_mistake_alone():
    with pytest.raises(ZeroDivisionError):
        shown(lambda: 1 / 0)()


def test_a_listening_page_is_known_by_an_ipv6_address_too(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_NAME", "[::1]")
    monkeypatch.setattr(launch, "check_free", lambda host, port: None)
    assert launch.address(None, False) == ("::1", 7860)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


PROGRAM = """
import sys
from t2local.ui import launch
from tests.ui.fake_engine import FakeEngine
sys.exit(launch.run(sys.argv[1:], lambda options: FakeEngine()))
"""


@pytest.fixture
def start(tmp_path):
    """`start(*flags)`: the program with a scripted engine, until it says that it is open."""
    programs = []

    def starting(*flags):
        port = free_port()
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, f"--port={port}", f"--data-dir={tmp_path}", *flags],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        programs.append(program)
        assert "is open at" in program.stdout.readline()
        return program, f"http://127.0.0.1:{port}"

    yield starting
    for program in programs:
        program.kill()
        program.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl + C goes to a console's programs there")
def test_ctrl_c_ends_it_also_while_a_page_is_open(start):
    program, url = start()
    with httpx.stream("GET", f"{url}/gradio_api/heartbeat/abc", timeout=20) as stream:
        assert stream.status_code == 200
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=20)
    assert program.returncode == 0
    assert errors == ""


def test_a_page_for_others_asks_for_a_password_that_is_said_once(start):
    program, url = start("--listen")
    lines = [program.stdout.readline() for _ in range(2)]
    password = next(line.removeprefix("password: ") for line in lines if "password: " in line)
    with httpx.Client(base_url=url) as client:
        assert client.get("/").status_code == 401
        known = {"authorization": f"Bearer {password.strip()}"}
        assert client.get("/", headers=known).status_code == 200
    program.send_signal(signal.SIGINT)
    more, errors = program.communicate(timeout=20)
    assert password.strip() not in more + errors


def accounts_file(folder, mode=0o600):
    file = folder / "accounts.txt"
    add_account(file, new_account("anna", OWNER, "annas own words"))
    add_account(file, new_account("ben", GUEST, "bens own words"))
    file.chmod(mode)
    return file


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl + C goes to a console's programs there")
def test_with_accounts_each_logs_in_and_ctrl_c_ends_it(start, tmp_path):
    program, url = start("--listen", "--accounts", str(accounts_file(tmp_path)))
    assert "password: " not in program.stdout.readline()
    ben = ("ben", "bens own words")
    with httpx.Client(base_url=url) as client:
        assert client.get("/").status_code == 401
        assert 'name="username"' in client.get("/", headers={"accept": "text/html"}).text
        assert client.get("/", auth=ben).status_code == 200
    with httpx.stream("GET", f"{url}/gradio_api/heartbeat/abc", auth=ben, timeout=20) as stream:
        assert stream.status_code == 200
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=20)
    assert (program.returncode, errors) == (0, "")


def test_a_file_of_accounts_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launch, "check_free", lambda host, port: None)
    (tmp_path / "accounts.txt").write_text("anna owner words")
    for flags, said in (
        (["--accounts", str(tmp_path / "none.txt")], "none.txt"),
        (["--accounts", str(tmp_path / "accounts.txt")], "Line 1 of 'accounts.txt'"),
        (["--accounts", str(accounts_file(tmp_path / "b")), "--password", "x"], "--password"),
        (["--accounts", str(accounts_file(tmp_path / "c")), "--no-password"], "--no-password"),
    ):
        assert launch.run(flags, lambda options: None) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert said in lines[0]


@pytest.mark.skipif(os.name != "posix", reason="Windows has other rights")
def test_a_file_of_accounts_that_others_can_read_is_warned_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launch, "check_free", lambda host, port: None)

    def make_engine(options):
        raise T2LocalError("Not started.")

    for mode, warned in ((0o644, True), (0o600, False)):
        file = accounts_file(tmp_path / oct(mode), mode)
        monkeypatch.setenv("T2LOCAL_ACCOUNTS", str(file))  # as the flag
        assert launch.run([], make_engine) == 1
        assert ("chmod 600" in capsys.readouterr().err) == warned


def test_the_password_is_not_handed_to_programs_that_are_started(monkeypatch):
    monkeypatch.setenv("T2LOCAL_TOKEN", "secret words")
    monkeypatch.setattr(launch, "check_free", lambda host, port: None)
    seen = []

    def make_engine(options):
        seen.append(dict(os.environ))
        raise T2LocalError("Not started.")

    assert launch.run([], make_engine) == 1
    assert "secret words" not in str(seen)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("T2LOCAL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    return tmp_path / "home"


def test_uploads_lie_in_a_folder_for_their_owner_which_is_emptied_and_removed(home):
    with launch.uploads_folder("127.0.0.1", 7860) as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert folder.is_relative_to(home)
        if os.name == "posix":
            assert folder.stat().st_mode & 0o777 == 0o700
    leftover = folder / "of a killed start"
    leftover.mkdir(parents=True)
    (leftover / "file").write_text("x")
    with launch.uploads_folder("127.0.0.1", 7861) as other:
        assert other != folder
    assert leftover.exists()  # it may be running
    with launch.uploads_folder("127.0.0.1", 7860) as again:
        assert again == folder
        assert not list(folder.iterdir())
    assert not folder.exists()
    assert "GRADIO_TEMP_DIR" not in os.environ


def test_a_folder_that_was_chosen_for_uploads_is_kept_to(home, tmp_path, monkeypatch):
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "another's").write_text("x")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(chosen))
    with launch.uploads_folder("::", 7860) as folder:
        assert folder.parent == chosen
    assert os.environ["GRADIO_TEMP_DIR"] == str(chosen)
    assert [path.name for path in chosen.iterdir()] == ["another's"]


def test_a_home_that_cannot_be_written_is_one_sentence(home, capsys):
    home.write_text("a file")
    assert launch.run(["--port", str(free_port())], lambda options: None) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_old_uploads_go_and_new_ones_stay(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    launch.drop_old_files(tmp_path, 3_600)
    assert (tmp_path / "old" / "file").exists()
    time.sleep(0.3)
    (tmp_path / "new" / "file").write_text("again")
    launch.drop_old_files(tmp_path, 0.2)
    assert not (tmp_path / "old" / "file").exists()
    assert (tmp_path / "new" / "file").exists()

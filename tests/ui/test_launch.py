import socket
from types import SimpleNamespace

import gradio as gr
import pytest

from t2local.errors import T2LocalError
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
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"):
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

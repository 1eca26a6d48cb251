"""Uploads to the served page: their size, their end, and what stays of them."""

import socket
import time
from pathlib import Path

import gradio as gr
import httpx
import pytest

from t2local.engine.doors import Doors
from t2local.ui.page import build_app
from tests.ui.conftest import open_tab, opened
from tests.ui.fake_engine import FakeEngine

UPLOAD = "/gradio_api/upload"
LINE = b'Content-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n'
MB = 10**6


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return tmp_path / "uploads"


@pytest.fixture
def url(folder):
    page = build_app(FakeEngine(), Doors(max_upload_mb=3))
    url, close = opened(page, idle_s=1.0)
    yield url.rstrip("/")
    close()


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def until_empty(folder: Path) -> bool:
    for _ in range(200):
        if not files_in(folder):
            return True
        time.sleep(0.05)
    return False


def form(n_bytes: int):
    """A form with one file, in pieces, so that nobody says how long it is."""
    yield b"--x\r\n" + LINE
    for _ in range(n_bytes // 50_000):
        yield b"x" * 50_000
    yield b"\r\n--x--\r\n"


CHUNKED = {"content-type": "multipart/form-data; boundary=x"}


def test_a_file_that_fits_is_kept(url, folder):
    answer = httpx.post(url + UPLOAD, content=form(2 * MB), headers=CHUNKED)
    assert answer.status_code == 200
    assert [path.stat().st_size for path in files_in(folder)] == [2 * MB]


@pytest.mark.parametrize("n_mb", [4, 9])
def test_a_file_that_is_too_large_is_refused_and_nothing_of_it_stays(url, folder, n_mb):
    for body in (
        {"content": form(n_mb * MB), "headers": CHUNKED},
        {"files": {"files": b"x" * n_mb * MB}},
        {"files": [("files", b"x" * MB)] * (n_mb + 1)},
    ):
        answer = httpx.post(url + UPLOAD, **body)
        assert answer.status_code == 413
        assert "3 MB" in answer.text or "3000000 bytes" in answer.text
        assert until_empty(folder)


def test_other_routes_take_no_more(url):
    for path in ("/gradio_api/queue/join", "/gradio_api/run/x", "/gradio_api/call/x"):
        answer = httpx.post(url + path, content=form(6 * MB), headers={"content-type": "text/json"})
        assert answer.status_code == 413, path


def begin(url: str, n_bytes: int = 100_000) -> socket.socket:
    """An upload that says it has more than it sends."""
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port), timeout=20)
    head = (
        f"POST {UPLOAD} HTTP/1.1\r\nHost: {address.netloc.decode()}\r\nContent-Length: {MB}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    connection.sendall(head.encode() + LINE + b"x" * n_bytes)
    return connection


def test_a_stuck_upload_blocks_nobody_and_ends_without_a_trace(url, folder):
    stuck = [begin(url) for _ in range(8)]
    while len(files_in(folder)) < len(stuck):
        time.sleep(0.01)
    began = time.monotonic()
    assert httpx.post(url + UPLOAD, files={"files": b"another"}, timeout=20).status_code == 200
    assert httpx.get(f"{url}/config", timeout=20).status_code == 200
    answers = [connection.recv(65_536) for connection in stuck]
    assert time.monotonic() - began < 20
    assert all(b" 408 " in answer.split(b"\r\n")[0] for answer in answers)
    assert [path.read_bytes() for path in files_in(folder)] == [b"another"]
    for connection in stuck:
        connection.close()


def test_an_upload_whose_client_leaves_is_without_a_trace(url, folder):
    connection = begin(url)
    while not files_in(folder):
        time.sleep(0.01)
    connection.close()
    assert until_empty(folder)


def test_every_control_for_files_says_how_much_it_takes():
    page = build_app(FakeEngine(), Doors(max_upload_mb=7))
    controls = [
        block
        for block in page.blocks.values()
        if isinstance(block, gr.File | gr.UploadButton) and block.interactive is not False
    ]
    assert len(controls) >= 4
    assert all("(at most 7 MB)" in block.label for block in controls)


@pytest.mark.browser
def test_the_page_refuses_a_file_that_is_too_large_in_words(open_page, url, tmp_path, folder):
    page = open_page(url=url)
    open_tab(page, "Train")
    page.wait_for_selector("text=at most 3 MB")
    large = tmp_path / "large.csv"
    large.write_bytes(b"x" * 4 * MB)
    page.set_input_files("#train-file input[type=file]", str(large))
    page.wait_for_selector("text=/exceeds|too large|maximum/i")
    assert not files_in(folder)

"""What is sent with a request: how much, how slowly, and what an application sees of its end."""

import asyncio

import pytest

from t2local.engine.access import FORM_BYTES, CutOff, Guard
from t2local.engine.doors import Doors
from tests.engine.test_access import HOME, ask, run

FORM = ("content-type", "multipart/form-data; boundary=x")
MOST = 10**6 + FORM_BYTES


class Reader:
    """Reads all that is sent, then answers; notes how much it got and how that ended."""

    def __init__(self, catches=False):
        self.catches, self.bytes, self.ends = catches, 0, []

    async def __call__(self, scope, receive, send):
        try:
            await self._read(receive)
        except Exception as error:
            self.ends.append(type(error))
            if not self.catches:
                raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"read"})

    async def _read(self, receive):
        more = True
        while more:
            message = await receive()
            self.bytes += len(message.get("body", b""))
            more = message.get("more_body", False)
        self.ends.append(message["type"])


def sent(app, chunks, *headers, **times):
    guard = Guard(app, Doors(max_upload_mb=1), **times)
    return ask(guard, "/gradio_api/upload", [HOME, *headers], "POST", chunks=chunks)


def test_what_fits_is_read():
    app = Reader()
    assert sent(app, [b"x" * 1_000] * 1_000, FORM).body == "read"
    assert app.bytes == 10**6


@pytest.mark.parametrize("catches", [True, False])
@pytest.mark.parametrize("headers", [[FORM], [("content-type", "application/json")], []])
def test_too_much_is_refused_while_it_comes_in(headers, catches):
    """As with chunks and no word of how much will come. Whatever the application makes of it."""
    app = Reader(catches)
    answer = sent(app, [b"x" * 100_000] * 100, *headers)
    assert answer.status == 413
    assert "More than 1 MB" in answer.body
    assert not answer.body.endswith("read")
    assert app.bytes <= MOST
    assert app.ends == [CutOff]


@pytest.mark.parametrize("length", [str(MOST + 1), "9" * 5_000])
def test_too_much_that_is_announced_is_refused_at_once(length):
    app = Reader()
    assert sent(app, [b"x"], ("content-length", length)).status == 413
    assert not app.ends


def test_a_form_whose_client_goes_away_is_cut_off_and_another_body_just_ends():
    form, other = Reader(catches=True), Reader()
    half_sent(form, FORM)
    half_sent(other, ("content-type", "application/json"))
    assert form.ends == [CutOff]
    assert other.ends == ["http.disconnect"]


def half_sent(app, *headers):
    ended(app, [{"type": "http.request", "body": b"half", "more_body": True},
                {"type": "http.disconnect"}], *headers)  # fmt: skip


def ended(app, messages, *headers, **times):
    """Gives the messages, then nothing more for ever; the status of the answer."""
    statuses = []

    async def receive():
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()

    async def send(message):
        statuses.append(message.get("status"))

    scope = {
        "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "scheme": "http",
        "query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7860),
        "headers": [(k.encode(), v.encode()) for k, v in (HOME, *headers)],
    }  # fmt: skip
    guard = Guard(app, Doors(), **times)
    run(asyncio.wait_for(guard(scope, receive, send), 20))
    return statuses[0]


@pytest.mark.parametrize("times", [{"idle_s": 0.1}, {"upload_s": 0.1}])
def test_what_never_arrives_ends(times):
    app = Reader()
    half = {"type": "http.request", "body": b"half", "more_body": True}
    assert ended(app, [half], **times) == 408
    assert app.ends == [CutOff]


def test_a_stream_goes_on_once_all_has_arrived():
    """Its application waits for the client to leave, for as long as that takes."""

    async def streaming(scope, receive, send):
        await receive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.3)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    whole = [{"type": "http.request", "body": b"all", "more_body": False}]
    assert ended(streaming, whole, idle_s=0.05, upload_s=0.05) == 200


def test_a_programmers_mistake_is_no_refusal():
    async def broken(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sent(broken, [b""])

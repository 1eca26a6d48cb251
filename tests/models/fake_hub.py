"""A Hub on this machine: one small model, served as huggingface_hub asks for it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MODEL = "somebody/small"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """`gated`: the list of files is public and the files are not.

    `whole_only`: it sends files from their beginning on, whatever is asked for. `broken`: it
    answers with an error of its own.
    """

    files: dict[str, bytes]
    gated: bool = False
    held: str = ""  # half of this file is held back until `wait` is set
    wait: threading.Event = field(default_factory=threading.Event)
    sent: list[str] = field(default_factory=list)  # names of the files that were asked for
    ranges: list[str] = field(default_factory=list)  # what of them, where that was said
    whole_only: bool = False
    broken: bool = False


@contextmanager
def serving(hub: FakeHub) -> Iterator[str]:
    """The address at which `hub` answers inside this block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._file(body=False)

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith(f"/api/models/{MODEL}/tree/"):
                self._json([_row(name, content) for name, content in hub.files.items()])
            elif path.startswith(f"/api/models/{MODEL}"):
                self._json({"id": MODEL, "sha": COMMIT, "siblings": []})
            elif path.startswith(f"/{MODEL}/resolve/"):
                self._file(body=True)
            else:
                self._refuse(404, "RepoNotFound")

        def _file(self, body: bool) -> None:
            name = urlsplit(self.path).path.rpartition(f"/{COMMIT}/")[2].rpartition("main/")[2]
            if hub.broken:
                self._refuse(503, "")
            elif hub.gated:
                self._refuse(403, "GatedRepo")
            elif name not in hub.files:
                self._refuse(404, "EntryNotFound")
            else:
                hub.sent += [name] if body else []
                self._send(hub.files[name], body, held=name == hub.held)

        def _send(self, content: bytes, body: bool, held: bool) -> None:
            etag = sha1(content).hexdigest()
            asked = self.headers.get("Range", "") if body and not hub.whole_only else ""
            hub.ranges += [asked] if asked else []
            self.send_response(206 if asked else 200)
            part = content[int(asked.removeprefix("bytes=").removesuffix("-") or 0) :]
            self._headers(len(part), etag=etag)
            if not body:
                return
            if held:
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                hub.wait.wait(30)
                part = part[len(part) // 2 :]
            with suppress(ConnectionError):  # whoever asked has been stopped
                self.wfile.write(part)

        def _json(self, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self._headers(len(content))
            self.wfile.write(content)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self._headers(0)

        def _headers(self, length: int, etag: str = "") -> None:
            self.send_header("Content-Length", str(length))
            self.send_header("X-Repo-Commit", COMMIT)
            if etag:
                self.send_header("ETag", f'"{etag}"')
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silence."""

    return Handler


def _row(name: str, content: bytes) -> dict[str, object]:
    oid = sha1(content).hexdigest()
    return {"type": "file", "path": name, "size": len(content), "oid": oid}

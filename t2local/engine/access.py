"""Who gets in: one plain ASGI layer before everything that is served.

`Doors` is what was decided at the start, `Guard` holds it for every request, whatever its route:
pages, uploads, files, event streams, websockets. A request must name a host that is this
computer's (a foreign name that leads here is how DNS rebinding begins), and must not come from
another site's page. What a proxy says of a request is believed only where one was announced.
"""

import ipaddress
import json
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{0,5}))?", re.ASCII)
ORIGIN = re.compile(r"(https?)://([^/@]+)", re.ASCII)
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
FORWARDED = re.compile(rb"x-forwarded-.*|forwarded|x-real-ip|x-gradio-server")
NOT_FRAMED = [
    (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"x-frame-options", b"SAMEORIGIN"),
]
POLICY_VIOLATION = 1008  # why a websocket is closed

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Authority:
    """The part of an address that says where: `example.org:8080`. IPv6 without its brackets."""

    name: str
    port: int | None = None

    @classmethod
    def read(cls, text: str) -> "Authority | None":
        """None where it is none. Upper case, one dot at the end and other spellings of an IPv6
        address are the same name.

        >>> Authority.read("LocalHost.:80"), Authority.read("[0:0::1]"), Authority.read("a@b")
        (Authority(name='localhost', port=80), Authority(name='::1', port=None), None)
        """
        found = AUTHORITY.fullmatch(text.strip(" \t").lower())
        if found is None:
            return None
        name, port = found[1].removesuffix("."), int(found[2] or 0) or None
        if name.startswith("["):
            try:
                name = str(ipaddress.IPv6Address(name[1:-1]))
            except ValueError:
                return None
        return cls(name, port) if name and (port or 0) < 65_536 else None

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


@dataclass(frozen=True)
class Origin:
    """Where a page came from, as a browser says it; the port is always there."""

    scheme: str
    name: str
    port: int

    @classmethod
    def read(cls, text: str) -> "Origin | None":
        """None for what is no web page's origin: `null`, a user before an `@`, another scheme."""
        found = ORIGIN.fullmatch(text.strip(" \t").lower())
        where = Authority.read(found[2]) if found else None
        return None if where is None else cls.of(found[1], where)

    @classmethod
    def of(cls, scheme: str, where: Authority) -> "Origin":
        return cls(scheme, where.name, where.port or DEFAULT_PORTS[scheme])


@dataclass(frozen=True)
class Doors:
    """What was decided at the start.

    `names`: hosts by which the page may be asked for, beside this computer's loopback names.
    `listens`: other computers can reach it; then the address that a connection came in on counts
    as a name too. `proxied`: a reverse proxy stands before it. `proxies`: its addresses, where it
    is not on this computer; `*` is any. `root_path`: the proxy's path to the page, `/t2` or "".
    """

    port: int = 7860
    names: frozenset[str] = frozenset()
    listens: bool = False
    proxied: bool = False
    proxies: frozenset[str] = frozenset()
    root_path: str = ""

    def opens_for(self, host: Authority, own_address: str) -> bool:
        """Whether this is a name of ours. `own_address`: at which the connection came in."""
        if host.name in LOOPBACK or host.name in self.names:
            return True
        return self.listens and host.name == own_address and is_address(host.name)

    def believes(self, peer: str) -> bool:
        """Whether what `peer` says of the client before it is taken for true."""
        trusted = is_loopback(peer) or peer in self.proxies or "*" in self.proxies
        return self.proxied and bool(peer) and trusted


@dataclass(frozen=True)
class Visit:
    """A request as it was meant: after what a believed proxy said of it.

    `scope`: for the application. `schemes`: by which the page may have been opened.
    """

    scope: Scope
    host: Authority | None
    schemes: tuple[str, ...]
    client: str

    def header(self, name: str) -> list[str]:
        return values_of(self.scope["headers"], name)


@dataclass(frozen=True)
class Refusal:
    """An answer instead of the application's: one sentence with its status."""

    status: int
    sentence: str
    headers: Headers = field(default_factory=list)


class Guard:
    """`app` behind its doors. Nothing stands before it but the server."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self.app, self.doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        visit = visit_of(scope, self.doors)
        refusal = stranger(visit, self.doors)
        if refusal is not None:
            await refuse(visit, refusal, send)
            return
        await self.app(visit.scope, receive, kept_apart(send))


# --- Is it for us, and from our own page?


def stranger(visit: Visit, doors: Doors) -> Refusal | None:
    """Why a request is not for us or not from us, None where it is both."""
    if not visit.scope["path"].startswith("/"):
        return Refusal(400, "This address is no path of the page; open the page itself.")
    at = f"http://localhost:{doors.port}"
    if visit.host is None:
        return Refusal(421, f"The request does not say which host it is for; open {at}.")
    own_address = (visit.scope.get("server") or ("",))[0]
    if not doors.opens_for(visit.host, own_address):
        return Refusal(
            421,
            f"The page is not served under the name '{visit.host.name}'; open {at}, or start "
            f"t2local with --allow-host {visit.host.name}.",
        )
    if not own_page(visit, doors):
        return Refusal(
            403, f"A page of another site asked for this, which only t2local's may; open {at}."
        )
    return None


def own_page(visit: Visit, doors: Doors) -> bool:
    """Whether the request comes from our page, or from no page at all.

    Browsers send `Origin` with all that another site's scripts and forms can do here, and
    `Sec-Fetch-Site` with the rest, pictures and scripts for instance. Only a link that opens the
    page itself may stand elsewhere. Programs send neither.
    """
    origins, sites = visit.header("origin"), visit.header("sec-fetch-site")
    own = {Origin.of(scheme, visit.host) for scheme in visit.schemes}
    if origins:
        return len(origins) == 1 and Origin.read(origins[0]) in own
    if any(site not in ("same-origin", "none") for site in sites):
        return _is_link(visit)
    if not sites and visit.scope.get("method", "GET") not in SAFE_METHODS:
        pages = [re.match(r"[^/]*//[^/]*", referer) for referer in visit.header("referer")]
        return all(page and Origin.read(page[0]) in own for page in pages)
    return True


def _is_link(visit: Visit) -> bool:
    asked = (*visit.header("sec-fetch-mode"), *visit.header("sec-fetch-dest"))
    return (
        asked == ("navigate", "document")
        and visit.scope.get("method") == "GET"
        and visit.scope["path"] == "/"
    )


def visit_of(scope: Scope, doors: Doors) -> Visit:
    """The request as its client sent it; headers in which proxies speak go no further."""
    headers: Headers = scope["headers"]
    peer = (scope.get("client") or ("",))[0]
    scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
    said = {"host": values_of(headers, "host"), "scheme": [], "client": []}
    if doors.believes(peer):
        said["host"] = _last(headers, "x-forwarded-host") or said["host"]
        said["scheme"] = [s for s in _last(headers, "x-forwarded-proto") if s in ("http", "https")]
        said["client"] = _last(headers, "x-forwarded-for")
    # A proxy that does not say how it was reached may well have been reached by https.
    schemes = tuple(said["scheme"]) or ((scheme, "https") if doors.believes(peer) else (scheme,))
    host = Authority.read(said["host"][0]) if len(said["host"]) == 1 else None
    client = said["client"][0] if said["client"] else peer
    changed = _rewritten(scope, doors.root_path, host, schemes[0], client)
    return Visit(changed, host, schemes, client)


def _rewritten(
    scope: Scope, root_path: str, host: Authority | None, scheme: str, client: str
) -> Scope:
    headers = [pair for pair in scope["headers"] if not FORWARDED.fullmatch(pair[0].lower())]
    headers = [pair for pair in headers if pair[0].lower() != b"host"]
    headers.append((b"host", str(host or "").encode()))
    secure = scheme == "https"
    names = {"http": "https" if secure else "http", "websocket": "wss" if secure else "ws"}
    port = (scope.get("client") or ("", 0))[1]
    return {
        **scope,
        "headers": headers,
        "scheme": names[scope["type"]],
        "client": (client, port),
        "path": _below(scope["path"], root_path),
        "raw_path": _below(scope.get("raw_path") or scope["path"].encode(), root_path.encode()),
    }


def _below(path: str | bytes, root: str | bytes) -> str | bytes:
    """The path without the proxy's own part, which some proxies leave there."""
    slash = "/" if isinstance(path, str) else b"/"
    if root and (path == root or path.startswith(root + slash)):
        return path[len(root) :] or slash
    return path


def values_of(headers: Headers, name: str) -> list[str]:
    """Every value of one header, in the order of the request."""
    return [value.decode("latin-1") for key, value in headers if key.lower() == name.encode()]


def _last(headers: Headers, name: str) -> list[str]:
    """What the nearest proxy said, which stands last; [] or one value."""
    values = [value.strip() for text in values_of(headers, name) for value in text.split(",")]
    return [values[-1].lower()] if values and values[-1] else []


# --- Names and addresses


def names_of_this_computer() -> frozenset[str]:
    """What others of the network may call it: its host names and their addresses."""
    names = {socket.gethostname(), socket.getfqdn()}
    names |= {f"{name}.local" for name in names if "." not in name}
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:  # a name that leads nowhere
        found = []
    return known_names([*names, *(_bare(where[4][0]) for where in found)])


def known_names(texts: Iterable[str]) -> frozenset[str]:
    """Names as they are compared, of names with or without a port; others are left out."""
    read = [Authority.read(f"[{text}]" if text.count(":") > 1 else text) for text in texts]
    return frozenset(where.name for where in read if where is not None)


def _bare(address: str) -> str:
    return address.partition("%")[0]  # without the interface of a link-local address


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether only this computer can reach what is served at this host name or address."""
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)


# --- Answers of the guard itself


async def refuse(visit: Visit, refusal: Refusal, send: Send) -> None:
    """Say no in one sentence: JSON for programs, plain text for a person."""
    if visit.scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    if wants_html(visit):
        await answer(send, refusal.status, refusal.sentence, "text/plain", refusal.headers)
    else:
        body = json.dumps({"detail": refusal.sentence})
        await answer(send, refusal.status, body, "application/json", refusal.headers)


def wants_html(visit: Visit) -> bool:
    """Whether a person in a browser will see the answer."""
    return any("text/html" in accepted for accepted in visit.header("accept"))


async def answer(send: Send, status: int, body: str, kind: str, more: Headers) -> None:
    """A whole answer; the connection ends with it."""
    content = body.encode()
    headers = [
        (b"content-type", f"{kind}; charset=utf-8".encode()),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
        *NOT_FRAMED,
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def kept_apart(send: Send) -> Send:
    """Answers without permission for other sites to read or to frame them."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = message.get("headers", [])
            kept = [pair for pair in own if not pair[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": [*kept, *NOT_FRAMED]}
        await send(message)

    return sending

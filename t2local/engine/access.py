"""Who gets in: one plain ASGI layer before everything that is served.

`Doors` is what was decided at the start, `Guard` holds it for every request, whatever its route:
pages, uploads, files, event streams, websockets. A request must name a host that is this
computer's (a foreign name that leads here is how DNS rebinding begins), and must not come from
another site's page. Where a password is in force, it opens nothing but the way to log in without
it; where each person has one, the request says from then on whose it is (`ACCOUNT`). What a proxy
says of a request is believed only where one was announced. What a client sends is limited in size
and time, also where it does not say how much that will be.
"""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import parse_qs

from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2local.engine.doors import Authority, Doors, Origin
from t2local.engine.people import Keeper

OWN_SITES = frozenset({"same-origin", "none"})
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
FORWARDED = re.compile(rb"x-forwarded-.*|forwarded|x-real-ip|x-gradio-server")
NOT_FRAMED = [
    (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"x-frame-options", b"SAMEORIGIN"),
]
POLICY_VIOLATION = 1008  # why a websocket is closed
LOGIN, LOGOUT = "/login", "/logout"
ACCOUNT = "t2local.account"  # the name, in the scope of each request that is passed on
MOST_FORM_BYTES, FORM_S = 4_096, 10.0  # of a login
IDLE_S, UPLOAD_S = 60.0, 3_600.0  # of what is sent with a request: without a byte, and in all
FORM_BYTES = 2**20  # what a form adds to the files in it
LINGER_S = 2.0  # for a client that reads an answer only once it has sent everything
ASK = "This page asks for a password; give it as 'Authorization: Bearer PASSWORD', or log in."
WRONG = "That is not the password; it was printed where t2local was started, unless one was chosen."
ASK_WHO = (
    "This page asks who you are; give 'Authorization: Basic' with name and password, or log in."
)
NOBODY = "Nobody here has this name and password; ask the owner of this t2local for yours."

Headers = list[tuple[bytes, bytes]]
LoginPage = Callable[[str, str], str]  # where the form goes, and what is to be said -> HTML


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

    def posts_to(self, path: str) -> bool:
        return self.scope.get("method") == "POST" and self.scope["path"] == path


@dataclass(frozen=True)
class Refusal:
    """An answer instead of the application's: one sentence with its status."""

    status: int
    sentence: str
    headers: Headers = field(default_factory=list)


class Guard:
    """`app` behind its doors. Nothing stands before it but the server.

    `login_page` draws the way in for a browser; without one, only programs can come in. `idle_s`
    and `upload_s`: how long what is sent with a request may not arrive, and may take in all.
    """

    def __init__(
        self,
        app: ASGIApp,
        doors: Doors,
        login_page: LoginPage | None = None,
        idle_s: float = IDLE_S,
        upload_s: float = UPLOAD_S,
    ) -> None:
        self.app, self.doors, self.login_page = app, doors, login_page
        self.idle_s, self.upload_s = idle_s, upload_s
        self.keeper = Keeper(doors.password, doors.accounts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        visit = visit_of(scope, self.doors)
        refusal = stranger(visit, self.doors)
        if refusal is None and self.doors.asks:
            if visit.posts_to(LOGIN):
                await self._log_in(visit, receive, send)
                return
            found = await self._who(visit)
            if isinstance(found, Refusal):
                refusal = found
            elif visit.posts_to(LOGOUT):
                await self._log_out(visit, receive, send)
                return
            elif visit.scope["path"] == LOGIN:  # by somebody who is in
                await self._to_the_page(receive, send)
                return
            else:
                visit.scope[ACCOUNT] = found
        if refusal is None and declared_bytes(visit) > self._most_bytes:
            refusal = too_large(self.doors)
        if refusal is not None:
            await self._refuse(visit, refusal, receive, send)
            return
        await self._pass_on(visit, receive, send)

    async def _pass_on(self, visit: Visit, receive: Receive, send: Send) -> None:
        """Let the application answer; where too much is sent, or too slowly, answer instead."""
        body = Body(receive, visit, self._most_bytes, self.idle_s, self.upload_s)
        answered = Answered(send, body)
        try:
            await self.app(visit.scope, body, answered)
        except Exception as error:
            if not (body.refused or isinstance(error, CutOff)):
                raise
        if body.refused and not answered.begun:
            refusal = too_large(self.doors) if body.refused == 413 else TOO_SLOW
            await self._refuse(visit, refusal, receive, send)

    @property
    def _most_bytes(self) -> int:
        return self.doors.most_bytes + FORM_BYTES

    async def _who(self, visit: Visit) -> str | Refusal:
        """Whose session it is, or whose right password came with the request."""
        for token in self._tokens(visit):
            if (who := self.keeper.sessions.who(token)) is not None:
                return who
        read = _name_and_password if self.doors.accounts else _password
        given = [read(value) for value in visit.header("authorization")]
        if len(given) != 1 or given[0] is None:
            return self._unauthorized(self._asked)
        return await self._checked(visit, *given[0])

    async def _checked(self, visit: Visit, name: str, password: bytes) -> str | Refusal:
        """Whose password was given, unless the address or the name has to wait."""
        checked = await self.keeper.check(visit.client, name, password)
        if checked.wait_s:
            return Refusal(
                429,
                f"Too many wrong passwords were given; try again in {checked.wait_s} s.",
                [(b"retry-after", str(checked.wait_s).encode())],
            )
        if checked.who is None:
            return self._unauthorized(NOBODY if self.doors.accounts else WRONG)
        return checked.who

    @property
    def _asked(self) -> str:
        return ASK_WHO if self.doors.accounts else ASK

    def _unauthorized(self, sentence: str) -> Refusal:
        # "Basic" would make a browser ask in a window of its own, and never forget the answer.
        scheme = b"Form" if self.doors.accounts else b"Bearer"
        return Refusal(401, sentence, [(b"www-authenticate", scheme + b' realm="t2local"')])

    async def _log_in(self, visit: Visit, receive: Receive, send: Send) -> None:
        form = await _form(receive)
        password = form.get("password", "").encode()
        found = await self._checked(visit, form.get("username", ""), password)
        if isinstance(found, Refusal):
            await self._refuse(visit, found, receive, send)
            return
        session = self._cookie(visit, self.keeper.sessions.open(found))
        await self._to_the_page(receive, send, session)

    async def _log_out(self, visit: Visit, receive: Receive, send: Send) -> None:
        for token in self._tokens(visit):
            self.keeper.sessions.close(token)
        await self._to_the_page(receive, send, self._cookie(visit, "", "; Max-Age=0"))

    async def _to_the_page(self, receive: Receive, send: Send, cookie: str = "") -> None:
        headers = [(b"location", f"{self.doors.root_path}/".encode())]
        headers += [(b"set-cookie", cookie.encode())] if cookie else []
        await answer(receive, send, 303, "", "text/plain", headers)

    async def _refuse(self, visit: Visit, refusal: Refusal, receive: Receive, send: Send) -> None:
        """In words; a browser that could log in is shown where."""
        if refusal.status in (401, 429) and self.login_page and wants_html(visit):
            said = "" if refusal.sentence == self._asked else refusal.sentence
            body = self.login_page(self.doors.root_path + LOGIN, said)
            # Who followed a link from another site may have a session, but the browser keeps its
            # cookie to requests from here: the page asks once more, as itself.
            again = [(b"refresh", b"0")] if is_link(visit) else []
            headers = [*refusal.headers, *again]
            await answer(receive, send, refusal.status, body, "text/html", headers)
        else:
            await refuse(visit, refusal, receive, send)

    @property
    def _cookie_name(self) -> str:
        return f"t2local-{self.doors.port}"  # a browser does not tell apart the ports of a host

    def _cookie(self, visit: Visit, token: str, more: str = "") -> str:
        path = self.doors.root_path or "/"
        secure = "; Secure" if visit.schemes[0] == "https" else ""
        return f"{self._cookie_name}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}{more}"

    def _tokens(self, visit: Visit) -> list[str]:
        pairs = [pair.partition("=") for text in visit.header("cookie") for pair in text.split(";")]
        return [value.strip() for name, _, value in pairs if name.strip() == self._cookie_name]


def _password(authorization: str) -> tuple[str, bytes] | None:
    """Nobody in particular, and the password; None where there is none."""
    found = re.match(r"bearer +(.*)", authorization, re.IGNORECASE)
    return found and ("", found[1].strip().encode("latin-1"))


def _name_and_password(authorization: str) -> tuple[str, bytes] | None:
    """None where they are not there."""
    found = re.fullmatch(r"basic +([A-Za-z0-9+/]+={0,2}) *", authorization, re.IGNORECASE)
    try:
        name, colon, password = base64.b64decode(found[1] if found else "").partition(b":")
        return (name.decode(), password) if colon else None
    except ValueError:
        return None


async def _form(receive: Receive) -> dict[str, str]:
    """The fields of a short form; none where it is none, too long, or does not arrive."""
    content, more = b"", True
    try:
        async with asyncio.timeout(FORM_S):
            while more and len(content) <= MOST_FORM_BYTES:
                message = await receive()
                content += message.get("body", b"")
                more = message.get("more_body", False)
        values = parse_qs(content.decode(), max_num_fields=8) if not more else {}
    except (TimeoutError, ValueError):
        return {}
    return {name: given[0] for name, given in values.items()}


# --- Is it for us, and from our own page?


def stranger(visit: Visit, doors: Doors) -> Refusal | None:
    """Why a request is not for us or not from us, None where it is both."""
    if not visit.scope["path"].startswith("/"):
        return Refusal(400, "This address is no path of the page; open the page itself.")
    if visit.header("content-length") and visit.header("transfer-encoding"):
        return Refusal(400, "The request says in two ways how long it is; send it with one.")
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
            403,
            f"A page of another site asked for this; open {at}, or, behind a proxy or tunnel, "
            "let that pass on the page's own 'Host' and start t2local with --allow-host NAME.",
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
    if any(site not in OWN_SITES for site in sites):
        return is_link(visit)
    if not sites and visit.scope.get("method", "GET") not in SAFE_METHODS:
        pages = [re.match(r"[^/]*//[^/]*", referer) for referer in visit.header("referer")]
        return all(page and Origin.read(page[0]) in own for page in pages)
    return True


def is_link(visit: Visit) -> bool:
    """Whether a person followed a link that stands on another site, to the page itself."""
    asked = (*visit.header("sec-fetch-mode"), *visit.header("sec-fetch-dest"))
    return (
        asked == ("navigate", "document")
        and not OWN_SITES.issuperset(visit.header("sec-fetch-site"))
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


# --- Answers of the guard itself


async def refuse(visit: Visit, refusal: Refusal, receive: Receive, send: Send) -> None:
    """Say no in one sentence: JSON for programs, plain text for a person."""
    if visit.scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    if wants_html(visit):
        await answer(receive, send, refusal.status, refusal.sentence, "text/plain", refusal.headers)
    else:
        body = json.dumps({"detail": refusal.sentence})
        await answer(receive, send, refusal.status, body, "application/json", refusal.headers)


def wants_html(visit: Visit) -> bool:
    """Whether a person in a browser will see the answer."""
    return any("text/html" in accepted for accepted in visit.header("accept"))


async def answer(
    receive: Receive, send: Send, status: int, body: str, kind: str, more: Headers
) -> None:
    """A whole answer; the connection ends with it.

    It ends once the client has sent what it is sending, for a while: cut off in the middle, many
    would not read the answer.
    """
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
    await send({"type": "http.response.body", "body": content, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})


class Answered:
    """Sends an answer without permission for other sites to read or to frame it.

    Nothing, once the body was refused: then the guard answers. `begun`: whether it was too late.
    """

    def __init__(self, send: Send, body: "Body") -> None:
        self._send, self._body, self.begun = send, body, False

    async def __call__(self, message: Message) -> None:
        if self._body.refused and not self.begun:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            own = message.get("headers", [])
            kept = [pair for pair in own if not pair[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": [*kept, *NOT_FRAMED]}
        await self._send(message)


# --- What is sent with a request


TOO_SLOW = Refusal(408, "The rest of what was sent did not arrive in time; send it again.")


def too_large(doors: Doors) -> Refusal:
    return Refusal(
        413,
        f"More than {doors.max_upload_mb} MB were sent at once; send less, or start t2local with "
        "a larger --max-upload.",
    )


def declared_bytes(visit: Visit) -> int:
    """How much will be sent, as far as the client says; 0 where it does not."""
    said = [text[:20] for text in visit.header("content-length")]
    return max((int(text) for text in said if text.isdecimal()), default=0)


class CutOff(MultiPartException):
    """What was sent ends early. gradio deletes the files of a form that fails in this way."""


class Body:
    """Receives what is sent with a request: at most so much, and not too slowly.

    `refused`: the status by which it was cut off, or 0.
    """

    def __init__(
        self, receive: Receive, visit: Visit, most_bytes: int, idle_s: float, whole_s: float
    ) -> None:
        self._receive, self._left_bytes, self._idle_s = receive, most_bytes, idle_s
        self._until = asyncio.get_running_loop().time() + whole_s
        self._is_form = any("multipart/" in text for text in visit.header("content-type"))
        self._whole, self.refused = visit.scope["type"] == "websocket", 0

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        message = await self._within_time()
        self._left_bytes -= len(message.get("body", b""))
        if self._left_bytes < 0:
            self._cut(413)
        self._whole = not message.get("more_body", False)
        if message["type"] == "http.disconnect" and self._is_form:
            raise CutOff("The client went away.")
        return message

    async def _within_time(self) -> Message:
        if self.refused:
            self._cut(self.refused)
        until = min(self._until, asyncio.get_running_loop().time() + self._idle_s)
        try:
            async with asyncio.timeout_at(until):
                return await self._receive()
        except TimeoutError:
            self._cut(408)

    def _cut(self, status: int) -> NoReturn:
        self.refused = status
        raise CutOff("What was sent was cut off.")

"""Who gets in, request by request: hosts, origins, what proxies say. Served, in `ui/test_doors`."""

import asyncio
import doctest
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlencode

import pytest

from t2local.engine import doors
from t2local.engine.access import Guard
from t2local.engine.doors import Authority, Doors, Origin, known_names

HOME = ("host", "localhost:7860")


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


@dataclass
class App:
    """Answers everything, also other sites, and notes what it was asked."""

    scopes: list[dict] = field(default_factory=list)

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        headers = [(b"access-control-allow-origin", b"*"), (b"Access-Control-Max-Age", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"in"})


def ask(
    guard,
    path: str = "/",
    headers: Sequence[tuple[str, str]] = (HOME,),
    method: str = "GET",
    kind: str = "http",
    client: str = "127.0.0.1",
    server: str = "127.0.0.1",
    scheme: str = "http",
    chunks: Sequence[bytes] = (b"",),
) -> Answer:
    """One request, given straight to the application."""
    scope = {
        "type": kind, "method": method, "path": path, "raw_path": path.encode(), "scheme": scheme,
        "query_string": b"", "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers],
        "client": (client, 50_000), "server": (server, 7860), "http_version": "1.1",
        "root_path": "", "asgi": {"version": "3.0"}, "extensions": {},
    }  # fmt: skip
    left, answer = list(chunks), Answer()

    async def receive():
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [(k.decode().lower(), v.decode()) for k, v in message["headers"]]
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"").decode(errors="replace")
        elif message["type"] == "websocket.close":
            answer.status = 403  # what the server makes of it before it was accepted

    run(guard(scope, receive, send))
    return answer


def run(coroutine: Coroutine) -> None:
    """In a thread of its own: a browser's tests have a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, coroutine).result()


@pytest.fixture
def app():
    return App()


@pytest.fixture
def guard(app):
    return Guard(app, Doors())


def test_names_are_read_as_the_docstrings_say():
    failed, attempted = doctest.testmod(doors)
    assert attempted
    assert not failed


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:7860", "LOCALHOST:7860", "localhost.", "localhost.:7860", "127.0.0.1",
     "127.0.0.1:80", "[::1]", "[::1]:7860", "[0:0:0:0:0:0:0:1]:7860", "localhost:"],
)  # fmt: skip
def test_this_computers_own_names_are_let_in(guard, host):
    assert ask(guard, headers=[("host", host)]).status == 200


FOREIGN_HOSTS = [
    "evil.example", "evil.example:7860", "localhost.evil.example", "evil.localhost", "localhost..",
    "xlocalhost", "127.0.0.1.evil.example", "127.0.0.2", "127.1", "2130706433", "0.0.0.0", "[::2]",
    "[::1", "::1", "[::1]evil", "[localhost]", "", " ", ":7860", "localhost:x", "localhost:99999",
    "localhost:80:80", "localhost, evil.example", "localhost/evil", "user@localhost", "*",
    "ſocalhost", "localhost\tevil", "10.0.0.5", "8.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_another_name_is_refused_in_a_sentence(guard, app, host):
    answer = ask(guard, headers=[("host", host.encode().decode("latin-1"))])
    assert answer.status == 421
    assert "localhost:7860" in answer.body
    assert not app.scopes


@pytest.mark.parametrize(
    "headers",
    [[], [HOME, HOME], [HOME, ("host", "evil.example")], [HOME, ("Host", "evil.example")]],
)
def test_a_host_that_is_missing_or_said_twice_is_refused(guard, app, headers):
    assert ask(guard, headers=headers).status == 421
    assert not app.scopes


@pytest.mark.parametrize("path", ["http://evil.example/", "*", "evil.example:443", ""])
def test_an_address_that_is_no_path_is_refused(guard, app, path):
    assert ask(guard, path).status == 400
    assert not app.scopes


def test_further_names_are_let_in_where_they_were_given(app):
    guard = Guard(app, Doors(names=known_names(["Example.org", "other.test:8443", "::2"])))
    for host in ("example.org", "EXAMPLE.org:443", "other.test", "[::2]:7860", "localhost"):
        assert ask(guard, headers=[("host", host)]).status == 200, host
    assert ask(guard, headers=[("host", "www.example.org")]).status == 421


def test_an_address_is_a_name_only_of_whom_it_reached(app):
    """Whatever addresses this computer has today, a connection came in at one of them."""
    for listens, server, expected in (
        (True, "10.0.0.5", 200),
        (True, "10.0.0.6", 421),
        (False, "10.0.0.5", 421),
    ):
        guard = Guard(app, Doors(listens=listens))
        assert ask(guard, headers=[("host", "10.0.0.5")], server=server).status == expected


OWN = "http://localhost:7860"
FOREIGN_ORIGINS = [
    "http://evil.example", "null", "", "http://localhost", "http://localhost:3000", "file://",
    "https://localhost:7860", "http://127.0.0.1:7860", "http://localhost:7860@evil.example",
    "http://evil.example@localhost:7860", "http://localhost:7860.evil.example",
    "http://localhost:7860/", "http://localhost:7860 http://evil.example", "http://[::1]:7860",
    "localhost:7860", "ftp://localhost:7860", "chrome-extension://abc",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "BREW"])
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_another_sites_page_is_refused_and_told_nothing(guard, app, origin, method):
    headers = [HOME, ("origin", origin), ("access-control-request-method", "POST")]
    answer = ask(guard, headers=headers, method=method)
    assert answer.status == 403
    assert not [name for name, _ in answer.headers if name.startswith("access-control")]
    assert not app.scopes


@pytest.mark.parametrize(
    ("host", "origin", "scheme"),
    [
        ("localhost:7860", OWN, "http"),
        ("LocalHost:7860", "HTTP://LOCALHOST:7860", "http"),
        ("localhost.:7860", OWN, "http"),
        ("[::1]:7860", "http://[::1]:7860", "http"),
        ("localhost", "http://localhost", "http"),
        ("localhost:80", "http://localhost", "http"),
        ("localhost", "http://localhost:80", "http"),
        ("localhost", "https://localhost:443", "https"),
    ],
)
def test_our_own_page_is_let_in(guard, host, origin, scheme):
    headers = [("host", host), ("origin", origin)]
    answer = ask(guard, headers=headers, method="POST", scheme=scheme)
    assert answer.status == 200
    assert not [name for name, _ in answer.headers if name.startswith("access-control")]


def test_two_origins_are_none(guard):
    assert ask(guard, headers=[HOME, ("origin", OWN), ("origin", OWN)]).status == 403


def test_a_browser_says_so_too_where_it_sends_no_origin(guard):
    def status(method="GET", path="/", **said):
        headers = [(name.replace("_", "-"), value) for name, value in said.items()]
        return ask(guard, path, [HOME, *headers], method).status

    link = {"sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    for site in ("cross-site", "same-site", "nonsense"):
        assert status(sec_fetch_site=site) == 403
        assert status(sec_fetch_site=site, path="/gradio_api/file=x") == 403
        assert status(sec_fetch_site=site, **link) == 200  # a link to the page
        assert status(sec_fetch_site=site, path="/gradio_api/file=x", **link) == 403
        assert status("POST", sec_fetch_site=site, **link) == 403
        assert (
            status(sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="iframe") == 403
        )
    assert status(sec_fetch_site="same-origin") == status(sec_fetch_site="none") == 200


def test_the_referer_counts_where_a_browser_says_nothing_else(guard):
    def status(referer, method="POST"):
        return ask(guard, headers=[HOME, ("referer", referer)], method=method).status

    assert status(f"{OWN}/page?x") == status(OWN) == 200
    for referer in ("http://evil.example/", f"{OWN}@evil.example/", f"{OWN}.evil.example/", ""):
        assert status(referer) == 403, referer
    assert status("http://evil.example/", "GET") == 200
    assert ask(guard, method="POST").status == 200  # a program, which sends nothing of it


def test_websockets_are_held_to_the_same(guard, app):
    for headers in (
        [("host", "evil.example")],
        [HOME, ("origin", "http://evil.example")],
        [HOME] * 2,
    ):
        assert ask(guard, headers=headers, kind="websocket", scheme="ws").status == 403
    assert not app.scopes
    ask(guard, headers=[HOME, ("origin", OWN)], kind="websocket", scheme="ws")
    assert app.scopes


def test_no_other_site_may_frame_the_page(guard):
    for headers in ([HOME], [("host", "evil.example")]):
        assert ask(guard, headers=headers).header("x-frame-options") == "SAMEORIGIN"


def test_a_person_is_told_in_words_and_a_program_in_json(guard):
    foreign = ("host", "evil.example")
    assert ask(guard, headers=[foreign]).body.startswith('{"detail": "The page is not served')
    browser = ask(guard, headers=[foreign, ("accept", "text/html,*/*")])
    assert browser.body.startswith("The page is not served")
    assert browser.header("content-type").startswith("text/plain")


# --- Proxies

PROXY = Doors(names=frozenset({"example.org"}), proxied=True)
SAID = [
    ("host", "127.0.0.1:7860"), ("x-forwarded-host", "example.org"), ("x-forwarded-proto", "https"),
    ("x-forwarded-for", "6.6.6.6, 203.0.113.9"),
]  # fmt: skip


def test_what_a_proxy_says_is_believed_only_where_one_was_announced(app):
    ask(Guard(app, PROXY), headers=SAID)
    ask(Guard(app, Doors()), headers=SAID)
    believed, not_believed = app.scopes
    assert (believed["scheme"], believed["client"][0]) == ("https", "203.0.113.9")
    assert (b"host", b"example.org") in believed["headers"]
    assert (not_believed["scheme"], not_believed["client"][0]) == ("http", "127.0.0.1")
    for scope in app.scopes:  # gradio would believe them
        assert not [key for key, _ in scope["headers"] if key.startswith(b"x-forwarded")]


def test_only_the_proxy_is_believed(app):
    for peer in ("10.0.0.7", ""):
        assert ask(Guard(app, PROXY), headers=SAID, client=peer).status == 200
        assert app.scopes[-1]["client"][0] == peer
    known = Doors(names=PROXY.names, proxied=True, proxies=frozenset({"10.0.0.7"}))
    ask(Guard(app, known), headers=SAID, client="10.0.0.7")
    assert app.scopes[-1]["client"][0] == "203.0.113.9"


def test_a_host_that_a_proxy_was_asked_for_must_be_ours(app):
    headers = [HOME, ("x-forwarded-host", "evil.example")]
    assert ask(Guard(app, PROXY), headers=headers).status == 421
    headers = [HOME, ("x-forwarded-host", "example.org, evil.example")]
    assert ask(Guard(app, PROXY), headers=headers).status == 421


def test_the_own_origin_behind_a_proxy_is_the_public_one(app):
    guard = Guard(app, PROXY)

    def status(origin, *more):
        headers = [("host", "example.org"), ("origin", origin), *more]
        return ask(guard, headers=headers, method="POST").status

    https, http = ("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")
    assert status("https://example.org", https) == status("https://example.org") == 200
    assert status("http://example.org", https) == status("https://example.org", http) == 403
    assert status("https://example.org:8443", https) == 403
    assert status("https://evil.example", https) == 403


def test_the_path_of_a_proxy_is_taken_away_once(app):
    guard = Guard(app, Doors(root_path="/t2"))
    for path, seen in (
        ("/t2", "/"),
        ("/t2/", "/"),
        ("/t2/a", "/a"),
        ("/a", "/a"),
        ("/t2a", "/t2a"),
    ):
        ask(guard, path)
        assert app.scopes[-1]["path"] == seen
        assert app.scopes[-1]["raw_path"] == seen.encode()


def test_origins_have_a_port():
    assert Origin.read("https://example.org") == Origin("https", "example.org", 443)
    assert str(Authority.read("[0::1]:80")) == "[::1]:80"


# --- The password

PASSWORD = "straße 7"
LOCKED = Doors(password=PASSWORD)
FORM = ("content-type", "application/x-www-form-urlencoded")
BROWSER = ("accept", "text/html,*/*")


def drawn(action: str, said: str) -> str:
    return f"<form action={action}> {said}"


@pytest.fixture
def locked(app):
    return Guard(app, LOCKED, drawn)


def bearer(password: str) -> tuple[str, str]:
    return "authorization", f"Bearer {password}".encode().decode("latin-1")


def log_in(guard, password=PASSWORD, headers=(HOME, FORM), **more):
    body = urlencode({"username": "t2local", "password": password}).encode()
    return ask(guard, "/login", headers, "POST", chunks=(body[:9], body[9:]), **more)


def cookie_of(answer: Answer) -> tuple[str, str]:
    return "cookie", answer.header("set-cookie").partition(";")[0]


def test_without_the_password_nothing_is_let_in(locked, app):
    for headers in (
        [],
        [("cookie", "t2local-7860=nonsense; t2local-7860=")],
        [("authorization", PASSWORD.replace("ß", "s"))],
        [("authorization", "Basic dDJsb2NhbDpwYXNz")],
        [("authorization", "Bearer")],
        [bearer("")],
        [bearer("wrong")],
        [bearer(PASSWORD), bearer(PASSWORD)],
    ):
        answer = ask(locked, "/config", [HOME, *headers])
        assert answer.status == 401
        assert answer.header("www-authenticate").startswith("Bearer")
        assert "password" in answer.body
    assert ask(locked, kind="websocket").status == 403
    assert not app.scopes


def test_a_program_gives_the_password_with_each_request(locked, app):
    assert ask(locked, headers=[HOME, bearer(PASSWORD)]).status == 200
    lower = ("Authorization", bearer(PASSWORD)[1].replace("Bearer", "bearer "))
    assert ask(locked, headers=[HOME, lower]).status == 200
    assert (
        ask(locked, headers=[HOME, bearer(PASSWORD)], method="POST", path="/logout").status == 303
    )


def test_a_browser_logs_in_and_out(locked, app):
    asked = ask(locked, "/", [HOME, BROWSER])
    assert (asked.status, asked.body) == (401, "<form action=/login> ")
    entered = log_in(locked)
    assert (entered.status, entered.header("location")) == (303, "/")
    assert "; HttpOnly; SameSite=Strict" in entered.header("set-cookie")
    assert "Secure" not in entered.header("set-cookie")
    assert PASSWORD not in entered.header("set-cookie")
    session = cookie_of(entered)
    assert ask(locked, headers=[HOME, session]).status == 200
    several = ("cookie", f"a=b; {session[1]} ;c")
    assert ask(locked, headers=[HOME, several]).status == 200
    assert ask(locked, "/logout", [HOME, session], "GET").status == 200  # not by a link
    left = ask(locked, "/logout", [HOME, session], "POST")
    assert (left.status, left.header("location")) == (303, "/")
    assert "Max-Age=0" in left.header("set-cookie")
    assert ask(locked, headers=[HOME, session]).status == 401


def test_who_is_in_has_no_need_to_log_in(locked):
    session = cookie_of(log_in(locked))
    again = ask(locked, "/login", [HOME, session, BROWSER])
    assert (again.status, again.header("location"), again.header("set-cookie")) == (303, "/", None)


def test_a_link_elsewhere_leads_in_with_a_session_that_is_not_sent_along(locked):
    link = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), BROWSER]
    for site, again in (("cross-site", "0"), ("same-origin", None), ("none", None)):
        answer = ask(locked, "/", [HOME, ("sec-fetch-site", site), *link])
        assert (answer.status, answer.header("refresh")) == (401, again)


def test_a_wrong_password_is_said_where_it_was_given(locked):
    answer = log_in(locked, "wrong", (HOME, FORM, BROWSER))
    assert answer.status == 401
    assert "not the password" in answer.body
    assert answer.header("set-cookie") is None


@pytest.mark.parametrize(
    "body",
    [b"", b"password", b"pass=x", b"\xff=\xff", b"a=" + b"x" * 9_999, b"&".join([b"a=b"] * 99)],
)
def test_a_form_that_is_none_is_a_wrong_password(locked, body):
    assert ask(locked, "/login", [HOME, FORM], "POST", chunks=(body,)).status == 401


def test_another_site_cannot_log_a_browser_in_or_out(locked):
    session = cookie_of(log_in(locked))
    foreign = ("origin", "http://evil.example")
    assert log_in(locked, headers=(HOME, FORM, foreign)).status == 403
    assert ask(locked, "/logout", [HOME, foreign, session], "POST").status == 403
    assert ask(locked, headers=[HOME, session]).status == 200


def test_guessing_is_slowed_and_only_for_the_guesser(locked):
    answers = [log_in(locked, f"guess {n}", client="10.0.0.7") for n in range(9)]
    assert [answer.status for answer in answers] == [401] * 5 + [429] * 4
    assert 1 <= int(answers[-1].header("retry-after")) <= 10
    assert "try again in" in answers[-1].body
    assert log_in(locked, client="10.0.0.7").status == 429  # or a guesser would learn it
    assert ask(locked, headers=[HOME, bearer(PASSWORD)], client="10.0.0.7").status == 429
    assert log_in(locked, client="10.0.0.8").status == 303
    assert ask(locked, headers=[HOME, bearer(PASSWORD)], client="10.0.0.9").status == 200


def test_who_is_in_stays_in_while_others_guess(locked):
    session = cookie_of(log_in(locked, client="10.0.0.7"))
    for n in range(200):
        log_in(locked, "guess", client=f"10.0.{n}.7")
    assert log_in(locked, "guess", client="10.9.9.9").status == 429
    assert ask(locked, headers=[HOME, session], client="10.0.0.7").status == 200


def test_a_header_of_either_kind_counts_as_a_try(locked):
    for n in range(5):
        assert ask(locked, headers=[HOME, bearer(f"guess {n}")]).status == 401
    assert log_in(locked, "guess").status == 429


def test_the_cookie_is_secure_behind_https_and_keeps_to_the_path(app):
    doors = Doors(names=PROXY.names, proxied=True, root_path="/t2", password=PASSWORD)
    guard = Guard(app, doors, drawn)
    https = ("x-forwarded-proto", "https")
    host = ("host", "example.org")
    entered = log_in(guard, headers=(host, https, FORM))
    assert entered.header("location") == "/t2/"
    assert "; Path=/t2; HttpOnly; SameSite=Strict; Secure" in entered.header("set-cookie")
    assert "action=/t2/login" in ask(guard, "/t2/", [host, BROWSER]).body


def test_each_port_has_a_cookie_of_its_own(app, locked):
    other = Guard(app, Doors(port=7861, password=PASSWORD))
    assert cookie_of(log_in(locked))[1].split("=")[0] != cookie_of(log_in(other))[1].split("=")[0]


def test_without_a_password_logging_in_is_the_applications_own(guard, app):
    assert ask(guard, "/login", method="POST").status == 200


def test_a_request_with_two_lengths_is_refused(guard, app):
    """A proxy may read the other one, and take what follows for a request of somebody else."""
    both = [HOME, ("content-length", "3"), ("transfer-encoding", "chunked")]
    assert ask(guard, method="POST", headers=both).status == 400
    assert not app.scopes

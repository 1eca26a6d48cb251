"""Who may come in, as it was decided at the start: names, proxies, the password or the accounts.

Values alone; `access.Guard` holds them for every request, and the page and `doctor` say them.
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from t2local.engine.people import Account, made_up
from t2local.errors import T2LocalError

LOCAL, EVERYWHERE, EVERYWHERE_6, DEFAULT_PORT = "127.0.0.1", "0.0.0.0", "::", 7860
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{0,5}))?", re.ASCII)
ORIGIN = re.compile(r"(https?)://([^/@]+)", re.ASCII)
MAX_UPLOAD_MB = 200
NAME_S = 2.0  # for the network to say what this computer is called
TOKEN = "T2LOCAL_TOKEN"  # the environment variable that may hold the password
ALLOWED = "T2LOCAL_ALLOW_HOSTS"  # another, of names as for --allow-host
ACCOUNTS = "T2LOCAL_ACCOUNTS"  # the one that may name the file of accounts
PATH = re.compile(r"(/[\w.~-]+)*/?", re.ASCII)
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


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
    `password`: None where none is asked for. `invented`: nobody has been told it yet. `accounts`:
    where each person has one, with a password of its own.
    `max_upload_mb`: the most that may be sent at once.
    """

    port: int = DEFAULT_PORT
    names: frozenset[str] = frozenset()
    listens: bool = False
    proxied: bool = False
    proxies: frozenset[str] = frozenset()
    root_path: str = ""
    password: str | None = field(default=None, repr=False)
    invented: bool = False
    accounts: tuple[Account, ...] = ()
    max_upload_mb: int = MAX_UPLOAD_MB

    @property
    def asks(self) -> bool:
        """Whether somebody must log in."""
        return self.password is not None or bool(self.accounts)

    @property
    def most_bytes(self) -> int:
        return self.max_upload_mb * 10**6

    @property
    def statement(self) -> str:
        """Who can open the page, in one sentence."""
        if self.listens:
            who = "Other computers can open the page"
        elif self.proxied:
            who = "Other computers can open the page through a reverse proxy"
        else:
            who = "Only this computer can open the page"
        asked = f"asks for {self._asked_for}"
        names = ", ".join(sorted(LOOPBACK | self.names))
        return f"{who}; it {asked}, and answers to {names}."

    @property
    def _asked_for(self) -> str:
        if self.accounts:
            owners = sum(account.owns for account in self.accounts)
            guests = len(self.accounts) - owners
            return f"a name and a password (owners: {owners}, guests: {guests})"
        return "no password" if self.password is None else "a password"

    @property
    def warning(self) -> str:
        """What is dangerous about it, or ""."""
        if not self.asks and (self.listens or self.proxied):
            return "No password: everybody who can reach this computer can use this page."
        return ""

    def opens_for(self, host: Authority, own_address: str) -> bool:
        """Whether this is a name of ours. `own_address`: at which the connection came in."""
        if host.name in LOOPBACK or host.name in self.names:
            return True
        return self.listens and host.name == own_address and is_address(host.name)

    def believes(self, peer: str) -> bool:
        """Whether what `peer` says of the client before it is taken for true."""
        trusted = is_loopback(peer) or peer in self.proxies or "*" in self.proxies
        return self.proxied and bool(peer) and trusted


def decide(
    host: str,
    port: int = DEFAULT_PORT,
    *,
    allow_hosts: Sequence[str] = (),
    root_path: str = "",
    password: str | None = None,
    no_password: bool = False,
    accounts: tuple[Account, ...] = (),
    max_upload_mb: int = MAX_UPLOAD_MB,
    environment: Mapping[str, str],
) -> Doors:
    """The doors of a page that is served at `host`.

    `root_path`: where a reverse proxy puts the page, a path or a whole address, whose host is then
    a name too. A password is asked for where one was given, and where others can reach the page;
    with `accounts` theirs are. Raises `T2LocalError` for a name, path or size that is none, and for
    a password that is empty or both wanted and not.
    """
    if max_upload_mb < 1:
        raise T2LocalError(f"--max-upload {max_upload_mb} lets nothing in; give 1 (MB) or more.")
    below, proxy = _public(root_path)
    allow_hosts = [*allow_hosts, *proxy, *environment.get(ALLOWED, "").replace(",", " ").split()]
    unknown = [name for name in allow_hosts if not known_names([name])]
    if unknown:
        raise T2LocalError(
            f"'{unknown[0]}' is no name of a host; write it without 'https://' and without a path, "
            "such as --allow-host example.org."
        )
    listens, proxied = not is_loopback(host), bool(allow_hosts or below)
    names = known_names([*allow_hosts, *([] if host in (EVERYWHERE, EVERYWHERE_6) else [host])])
    if accounts and (password is not None or no_password):
        raise T2LocalError(
            "With --accounts each person has a password; leave out --password and --no-password."
        )
    given = None if accounts else _password(password, no_password, environment)
    invented = not accounts and given is None and (listens or proxied) and not no_password
    return Doors(
        port=port,
        names=(names | names_of_this_computer() if listens else names) - LOOPBACK,
        listens=listens,
        proxied=proxied,
        proxies=frozenset(environment.get("FORWARDED_ALLOW_IPS", "").replace(",", " ").split()),
        root_path=below,
        password=made_up() if invented else given,
        invented=invented,
        accounts=accounts,
        max_upload_mb=max_upload_mb,
    )


def _public(root_path: str) -> tuple[str, list[str]]:
    """The path without a slash at its end, and the proxy's host where it was given too."""
    scheme, host, path, *more = urlsplit(root_path.strip())
    whole = scheme in ("http", "https") and bool(host)
    if any(more) or not (whole or not (scheme or host)) or not PATH.fullmatch(path):
        raise T2LocalError(
            f"'{root_path}' is no path to the page; give what stands behind the host's name, such "
            "as --root-path /t2."
        )
    return path.rstrip("/"), [host] if whole else []


def _password(given: str | None, none: bool, environment: Mapping[str, str]) -> str | None:
    """The password that somebody chose, None where nobody did or it is not wanted."""
    if given is not None and none:
        raise T2LocalError("--password and --no-password were both given; leave one of them out.")
    if given is not None and not given.strip():
        raise T2LocalError("The password is empty; give another to --password, or leave it out.")
    return None if none else (given or environment.get(TOKEN) or None)


def names_of_this_computer() -> frozenset[str]:
    """What others of the network may call it: its host names and its addresses."""
    names = {socket.gethostname(), *_full_name()} - LOOPBACK
    names |= {f"{name}.local" for name in names if "." not in name}
    return known_names([*names, *addresses_of_this_computer()])


def _full_name() -> list[str]:
    """The name with its domain; [] where the network does not say it soon."""
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(socket.getfqdn()), daemon=True)
    asking.start()
    asking.join(NAME_S)
    return found[:]


def addresses_of_this_computer() -> list[str]:
    """Its IP addresses, IPv4 first."""
    found = [one.address for each in psutil.net_if_addrs().values() for one in each]
    bare = [text.partition("%")[0] for text in found]  # without a link-local address's interface
    return sorted(filter(is_address, bare), key=lambda text: ":" in text)


def known_names(texts: Iterable[str]) -> frozenset[str]:
    """Names as they are compared, of names with or without a port; others are left out."""
    read = [Authority.read(f"[{text}]" if text.count(":") > 1 else text) for text in texts]
    return frozenset(where.name for where in read if where is not None)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether only this computer can reach what is served at this host name or address."""
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)

"""Who somebody is: accounts or one password, the sessions of browsers that gave it, failed tries.

Accounts are a text file, a line each: `name role hash`. All else is in memory and bounded; a
restart reads the file again and logs everybody out. One event loop uses `Keeper`, and only while a
password is hashed, in a thread, something else can happen between a question and its answer.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import math
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from t2local import locks, paths
from t2local.errors import T2LocalError
from t2local.untrusted import file_bytes, word

OWNER, GUEST = "owner", "guest"
ROLES = (OWNER, GUEST)
NAME = re.compile(r"[a-z0-9_-]{1,32}")
SECRET = re.compile(r"scrypt\$(\d{1,2})\$(\d{1,2})\$(\d)\$([A-Za-z0-9_=-]+)\$([A-Za-z0-9_=-]+)")
MOST_ACCOUNTS = 100  # each has a page of its own: 0.3 s and 5 MB
MOST_FILE_BYTES = 64 * 2**10
LOG2_N, BLOCK, LANES = 14, 8, 1  # of scrypt: 16 MiB, and 0.1 s of a slow core
MOST_HASH_BYTES = 64 * 2**20  # that a hash in the file may ask for
SALT_BYTES, HASH_BYTES = 16, 32
LEAST_CHARACTERS, MOST_CHARACTERS = 8, 256  # of a password that somebody chooses

LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that is taken for another
GROUPS, GROUP_LETTERS = 4, 4  # 79 bits
IDLE_S = 7 * 24 * 3600  # after which a session ends
MOST_SESSIONS = 1_000
MOST_ADDRESSES = 4_096  # whose failed tries are remembered
TRIES, TRY_EVERY_S = 5, 10.0  # of one address: so many at once, then one more each time
NAME_TRIES = 20  # for one name, so that its owner is not kept out by a few of somebody else
ALL_TRIES, ALL_EVERY_S = 60, 1.0  # of all addresses together

Clock = Callable[[], float]


def made_up() -> str:
    """A password that can be read out and typed on a phone: `k3ep-thxq-m8wn-2dzf`."""
    groups = ("".join(secrets.choice(LETTERS) for _ in range(GROUP_LETTERS)) for _ in range(GROUPS))
    return "-".join(groups)


def is_right(given: bytes, password: str) -> bool:
    """Compared in a time that says nothing of either."""
    digests = (hashlib.sha256(text).digest() for text in (given, password.encode()))
    return hmac.compare_digest(*digests)


# --- The file of accounts.


@dataclass(frozen=True)
class Account:
    """A person with a password of their own. `secret`: its scrypt hash, with salt and cost."""

    name: str
    role: str
    secret: str = field(repr=False)

    @property
    def owns(self) -> bool:
        return self.role == OWNER

    @property
    def folder(self) -> str:
        """What the folders are called that are this account's alone."""
        return f"of-{self.name}"

    @property
    def line(self) -> str:
        return f"{self.name} {self.role} {self.secret}"


def new_account(name: str, role: str, password: str) -> Account:
    """Raises `T2LocalError` for a name or password that cannot be one."""
    if not LEAST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        raise T2LocalError(
            f"The password has {len(password)} characters; choose one of {LEAST_CHARACTERS} to "
            f"{MOST_CHARACTERS}."
        )
    return Account(_checked_name(name), role, hashed(password))


def _checked_name(name: str) -> str:
    known = name.lower()
    if not NAME.fullmatch(known):
        raise T2LocalError(
            f"'{word(name)}' cannot be the name of an account; use 1 to 32 of a to z, 0 to 9, '-' "
            "and '_'."
        )
    return known


def read_accounts(path: Path) -> tuple[Account, ...]:
    """The accounts of a file, in its order. Raises `T2LocalError` where one line of it is wrong."""
    return _parsed(_text(path), path.name)


def _text(path: Path) -> str:
    try:
        return file_bytes(path, MOST_FILE_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise T2LocalError(
            f"The accounts in '{path}' cannot be read ({why}); make the file with `python -m "
            "t2local accounts FILE add NAME --owner`."
        ) from error


def _parsed(text: str, file: str) -> tuple[Account, ...]:
    found: dict[str, Account] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            account = _account(line)
        except ValueError as error:
            raise T2LocalError(
                f"Line {number} of '{file}' is no account ({error}); correct it, or take it out."
            ) from None
        if account.name in found:
            raise T2LocalError(
                f"Line {number} of '{file}' is a second '{account.name}'; take one of them out."
            )
        found[account.name] = account
    if not any(account.owns for account in found.values()):
        raise T2LocalError(
            f"No owner is in '{file}'; add one with `python -m t2local accounts {file} add NAME "
            "--owner`."
        )
    if len(found) > MOST_ACCOUNTS:
        raise T2LocalError(
            f"{len(found)} accounts are in '{file}', the most is {MOST_ACCOUNTS}; take some out."
        )
    return tuple(found.values())


def _account(line: str) -> Account:
    """Raises `ValueError` that says what is wrong, and nothing of a hash."""
    parts = line.split()
    if len(parts) != 3:
        raise ValueError(f"it has {len(parts)} words, not a name, a role and a hash")
    name, role, secret = parts[0].lower(), *parts[1:]
    if not NAME.fullmatch(name):
        raise ValueError(f"'{word(parts[0])}' is no name of a to z, 0 to 9, '-' and '_'")
    if role not in ROLES:
        raise ValueError(f"'{word(role)}' is no role; it is {' or '.join(ROLES)}")
    _cost(secret)
    return Account(name, role, secret)


def readable_by_others(path: Path) -> bool:
    """Whether other users of this computer can read a file, where its system tells."""
    return os.name == "posix" and bool(path.stat().st_mode & 0o077)


def add_account(path: Path, account: Account) -> None:
    """Write one more line, and the file where it is not there yet. Raises `T2LocalError`."""
    with _changing(path):
        before = _text(path) if path.exists() else ""
        if path.exists() and account.name in {one.name for one in _parsed(before, path.name)}:
            raise T2LocalError(
                f"'{account.name}' is in '{path.name}' already; choose another name, or remove it "
                "first."
            )
        _write(path, [*_lines(before), account.line])


def remove_account(path: Path, name: str) -> None:
    """Take one line out; comments stay. Raises `T2LocalError`, also for the only owner."""
    with _changing(path):
        before = _text(path)
        name = _checked_name(name)
        if name not in {account.name for account in _parsed(before, path.name)}:
            raise T2LocalError(f"There is no '{name}' in '{path.name}'; list who is there.")
        _write(path, [line for line in _lines(before) if line.lower().split()[:1] != [name]])


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _changing(path: Path) -> AbstractContextManager[None]:
    busy = f"'{path}' is being changed by another program; try it again."
    return locks.holding(path.with_name(f".{path.name}.lock"), busy, locks.WAIT_S)


def _write(path: Path, lines: Sequence[str]) -> None:
    """For its owner alone, wherever it lies; what could not be read back is not written."""
    text = "".join(f"{line}\n" for line in lines)
    _parsed(text, path.name)
    with paths.atomic_write(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(text, encoding="utf-8", newline="\n")


def hashed(password: str) -> str:
    """`scrypt$log2(n)$r$p$salt$hash`"""
    salt = secrets.token_bytes(SALT_BYTES)
    found = _scrypt(password.encode(), (LOG2_N, BLOCK, LANES), salt)
    texts = (base64.urlsafe_b64encode(part).decode() for part in (salt, found))
    return f"scrypt${LOG2_N}${BLOCK}${LANES}${'$'.join(texts)}"


def matches(given: bytes, secret: str) -> bool:
    """Whether this password made that hash. Takes about 0.1 s."""
    cost, salt, wanted = _cost(secret)
    return hmac.compare_digest(_scrypt(given, cost, salt), wanted)


Cost = tuple[int, int, int]  # log2(n), r, p


def _cost(secret: str) -> tuple[Cost, bytes, bytes]:
    """Cost, salt and hash of a secret. Raises `ValueError`."""
    found = SECRET.fullmatch(secret)
    if found is None:
        raise ValueError("its hash is none of scrypt")
    log2_n, block, lanes = cost = int(found[1]), int(found[2]), int(found[3])
    memory = 128 * block * 2**log2_n
    if not (log2_n >= 10 and block and lanes and memory <= MOST_HASH_BYTES):
        raise ValueError("its hash takes far too little or too much work")
    salt, wanted = (base64.urlsafe_b64decode(part) for part in found.group(4, 5))
    if len(salt) < SALT_BYTES or len(wanted) != HASH_BYTES:
        raise ValueError("its hash is cut off")
    return cost, salt, wanted


def _scrypt(password: bytes, cost: Cost, salt: bytes) -> bytes:
    log2_n, block, lanes = cost
    n, most = 2**log2_n, 2 * MOST_HASH_BYTES
    return hashlib.scrypt(password, salt=salt, n=n, r=block, p=lanes, maxmem=most, dklen=HASH_BYTES)


# --- Who is asking.


@dataclass(frozen=True)
class Checked:
    """`who` gave the right password; None where nobody did, `wait_s` where it was not compared."""

    who: str | None = None
    wait_s: int = 0


class Keeper:
    """Finds out who somebody is, and slows down whoever guesses.

    With accounts that is a name. Where there is one password for all, its holders are "".
    """

    def __init__(self, password: str | None, accounts: Sequence[Account] = ()) -> None:
        self.sessions, self.tries = Sessions(), Tries()
        self._password = password
        self._secrets = {account.name: account.secret for account in accounts}
        # A name that nobody has takes as long. The cost is that of the others.
        self._nobody = accounts[0].secret if accounts else ""
        self._key = secrets.token_bytes(32)
        self._right: dict[str, bytes] = {}  # name -> of the password that was right before
        self._turn = asyncio.Lock()  # or many tries at once would all come before the first fails

    async def check(self, client: str, name: str, given: bytes) -> Checked:
        """Compare a password that was given, unless its address or name has to wait."""
        name = name.strip().lower() if self._secrets else ""
        async with self._turn:
            if wait_s := math.ceil(self.tries.wait_s(client, name)):
                return Checked(wait_s=wait_s)
            if await self._opens(name, given):
                return Checked(name)
            self.tries.failed(client, name)
            return Checked()

    async def _opens(self, name: str, given: bytes) -> bool:
        if not self._secrets:
            return is_right(given, self._password)
        digest = hmac.digest(self._key, given, "sha256")
        if hmac.compare_digest(digest, self._right.get(name, b"")):
            return True  # programs give it with each request
        secret = self._secrets.get(name)
        right = await asyncio.to_thread(matches, given, secret or self._nobody)
        if not right or secret is None:
            return False
        self._right[name] = digest
        return True


class Sessions:
    """Browsers that gave a password. Each holds a random token; only its digest is kept here."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        # digest -> when, and who; the oldest first
        self._used: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def open(self, who: str = "") -> str:
        """A new session's token. The one that was idle longest makes room where there are many."""
        token = secrets.token_urlsafe(32)
        self._used[_digest(token)] = self._clock(), who
        if len(self._used) > MOST_SESSIONS:
            self._used.popitem(last=False)
        return token

    def who(self, token: str) -> str | None:
        """Whose session this is, if it goes on, which it then does for another `IDLE_S`."""
        digest, now = _digest(token), self._clock()
        used, who = self._used.pop(digest, (-math.inf, ""))
        if now - used >= IDLE_S:
            return None
        self._used[digest] = now, who  # at the end
        return who

    def close(self, token: str) -> None:
        self._used.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


@dataclass
class Bucket:
    """`size` tries at once, then one more every `every_s`. `left` of them at the time `at`."""

    size: int
    every_s: float
    left: float
    at: float

    def wait_s(self, now: float) -> float:
        """Until there is a try; 0 where there is one."""
        self.left = min(self.size, self.left + (now - self.at) / self.every_s)
        self.at = now
        return max(0.0, 1.0 - self.left) * self.every_s

    def take(self) -> None:
        self.left -= 1.0


class Tries:
    """Failed passwords, of each address, for each name and in all: nobody can go on guessing.

    The right password is refused too while an address must wait, or a guesser would learn it; from
    another address it works, after a second at most while many addresses guess at once, or when it
    is its name's turn while they guess that name.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._all = Bucket(ALL_TRIES, ALL_EVERY_S, ALL_TRIES, clock())
        self._of: OrderedDict[str, Bucket] = OrderedDict()  # the one that failed last at the end

    def wait_s(self, address: str, name: str = "") -> float:
        """How long this address must wait before it may try this name; 0 for now."""
        now = self._clock()
        own = [self._of[key] for key in _buckets(address, name) if key in self._of]
        return max(bucket.wait_s(now) for bucket in (self._all, *own))

    def failed(self, address: str, name: str = "") -> None:
        now = self._clock()
        for key, size in _buckets(address, name).items():
            own = self._of.setdefault(key, Bucket(size, TRY_EVERY_S, size, now))
            self._of.move_to_end(key)
            own.take()
        self._all.take()
        while len(self._of) > MOST_ADDRESSES:
            self._of.popitem(last=False)


def _buckets(address: str, name: str) -> dict[str, int]:
    """What a try counts for, and how many there are at once."""
    of_name = {f"name {name[:64]}": NAME_TRIES} if name else {}
    return {_network(address): TRIES, **of_name}


def _network(address: str) -> str:
    """Whoever has one IPv6 address has 2^64 of them."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if known.version == 4:
        return str(known)
    mapped = known.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((known, 64), strict=False))

"""Who somebody is: the password, the sessions of browsers that gave it, and failed tries.

All of it is in memory and bounded; a restart logs everybody out. One event loop uses it, so that
nothing between a question and its answer can interleave.
"""

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that is taken for another
GROUPS, GROUP_LETTERS = 4, 4  # 79 bits
IDLE_S = 7 * 24 * 3600  # after which a session ends
MOST_SESSIONS = 1_000
MOST_ADDRESSES = 4_096  # whose failed tries are remembered
TRIES, TRY_EVERY_S = 5, 10.0  # of one address: so many at once, then one more each time
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


class Sessions:
    """Browsers that gave the password. Each holds a random token; only its digest is kept here."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._used: OrderedDict[bytes, float] = OrderedDict()  # digest -> when, the oldest first

    def open(self) -> str:
        """A new session's token. The one that was idle longest makes room where there are many."""
        token = secrets.token_urlsafe(32)
        self._used[_digest(token)] = self._clock()
        if len(self._used) > MOST_SESSIONS:
            self._used.popitem(last=False)
        return token

    def knows(self, token: str) -> bool:
        """Whether this session goes on, which it then does for another `IDLE_S`."""
        digest, now = _digest(token), self._clock()
        if now - self._used.get(digest, -IDLE_S) >= IDLE_S:
            self._used.pop(digest, None)
            return False
        self._used[digest] = now
        self._used.move_to_end(digest)
        return True

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
    """Failed passwords, of each address and in all, so that nobody can go on guessing.

    The right password is refused too while an address must wait, or a guesser would learn it; from
    another address it works, after a second at most while many addresses guess at once.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._all = Bucket(ALL_TRIES, ALL_EVERY_S, ALL_TRIES, clock())
        self._of: OrderedDict[str, Bucket] = OrderedDict()  # the one that failed last at the end

    def wait_s(self, address: str) -> float:
        """How long this address must wait before it may try again; 0 for now."""
        now, own = self._clock(), self._of.get(_network(address))
        return max(self._all.wait_s(now), own.wait_s(now) if own else 0.0)

    def failed(self, address: str) -> None:
        now, network = self._clock(), _network(address)
        own = self._of.setdefault(network, Bucket(TRIES, TRY_EVERY_S, TRIES, now))
        self._of.move_to_end(network)
        own.take()
        self._all.take()
        if len(self._of) > MOST_ADDRESSES:
            self._of.popitem(last=False)


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

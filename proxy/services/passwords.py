"""Checking passwords (bcrypt) without letting anybody who guesses stop everybody else.

A check takes a core for as long as it lasts, so a few run at a time, in threads, and one place has only a few of those that wait.
What was right is remembered for a minute under a keyed hash that the password's own hash is part of, so that a changed password
counts at once. Who fails too often has to wait: by place and user, so that a robot with an old password keeps out nobody but
itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network

import bcrypt

from proxy.errors import LoginRefused, LoginUnavailable
from proxy.services.credentials import MAX_PASSWORD
from proxy.services.flights import Flights

_AT_A_TIME = 2
_MOST_WAITING = 64
_MOST_WAITING_THERE = 8
_REMEMBERED = 60.0
_MOST_REMEMBERED = 10_000
#: Wrong passwords in a minute: for one user from one place, and for all users from there.
_FAILURES = 10
_FAILURES_THERE = 100
_FAILURE_TIME = 60.0
_MOST_PLACES = 10_000
#: The same for everybody who is not let in: which users there are is nobody's business.
WRONG = "unknown user or wrong password"


def place_of(address: str | None) -> str:
    """What counts as one place: an IPv4 address, or the network of an IPv6 one (/64), of which one client has all addresses."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped) if found.ipv4_mapped else str(ip_network((found, 64), strict=False))
    return str(found)


def decoy(passwords: Mapping[str, bytes]) -> bytes:
    """A hash that no password has, of the cost that most users have: what unknown users are checked against."""
    costs = Counter(hashed[4:6] for hashed in passwords.values())
    cost = costs.most_common(1)[0][0] if costs else b"05"
    return b"$2b$" + cost + b"$" + b"." * 22 + b"O" * 31


class Passwords:
    """Who has which password. :meth:`adopt` takes others over."""

    def __init__(self, passwords: Mapping[str, bytes]) -> None:
        self._secret = secrets.token_bytes(32)
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._waiting: Counter[str] = Counter()
        self._right: OrderedDict[bytes, float] = OrderedDict()  #: keyed hash → until (monotonic)
        self._wrong: OrderedDict[tuple[str, str | None], tuple[int, float]] = OrderedDict()  #: → failures, until (monotonic)
        self._flights: Flights[tuple[bytes, str], bool] = Flights()
        self.adopt(passwords)

    def adopt(self, passwords: Mapping[str, bytes]) -> None:
        """Believe these from now on (user → bcrypt hash)."""
        self._passwords = passwords
        self._decoy = decoy(passwords)

    async def close(self) -> None:
        """End the checks under way."""
        await self._flights.close()

    def __contains__(self, user: str) -> bool:
        return user in self._passwords

    async def check(self, user: str, password: str, address: str | None) -> bytes:
        """The hash that the password fits. Raises LoginRefused, and LoginUnavailable where there is no time to look."""
        if not self._passwords:
            raise LoginRefused(WRONG)
        secret = password.encode("utf-8", "surrogatepass")
        hashed = self._passwords.get(user, self._decoy)
        key = b"\0".join((user.encode("utf-8", "surrogatepass"), hashed, secret))
        known, now, place = hmac.digest(self._secret, key, hashlib.sha256), time.monotonic(), place_of(address)
        if self._right.get(known, 0.0) > now:
            return hashed
        self._check_patience(place, user, now)
        # A cluster that starts shows one password many times at once: it is looked at once for each place.
        right = await self._flights.run((known, place), lambda: self._matches(secret, hashed, place))
        # The file may have been changed while the password of before was looked at.
        if not right or self._passwords.get(user) != hashed:
            self._note_failure(place, user, now)
            raise LoginRefused(WRONG)
        self._right[known] = now + _REMEMBERED
        while len(self._right) > _MOST_REMEMBERED:
            self._right.popitem(last=False)
        return hashed

    async def _matches(self, secret: bytes, hashed: bytes, place: str) -> bool:
        if len(secret) > MAX_PASSWORD or b"\0" in secret:
            return False
        if self._waiting.total() >= _MOST_WAITING or self._waiting[place] >= _MOST_WAITING_THERE:
            raise LoginUnavailable("too many are logging in; try again", 5.0)
        self._waiting[place] += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(bcrypt.checkpw, secret, hashed)
        except ValueError:  # not a hash after all: configuration has checked its form, not its salt
            return False
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place]

    def _check_patience(self, place: str, user: str, now: float) -> None:
        for key, most in (((place, user), _FAILURES), ((place, None), _FAILURES_THERE)):
            count, until = self._wrong.get(key, (0, 0.0))
            if count >= most and now < until:
                raise LoginUnavailable(f"too many wrong passwords from {place or 'there'}; try again later", until - now)

    def _note_failure(self, place: str, user: str, now: float) -> None:
        for key in ((place, user), (place, None)):
            count, until = self._wrong.pop(key, (0, 0.0))
            self._wrong[key] = (count + 1 if now < until else 1, now + _FAILURE_TIME)
        while len(self._wrong) > _MOST_PLACES:
            self._wrong.popitem(last=False)

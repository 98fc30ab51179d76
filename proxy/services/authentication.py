"""Who asks: from the ``Authorization`` header or the TLS connection's certificate to a principal.

Passwords (bcrypt) are checked in threads, a few at a time; what was right is remembered for a minute under a keyed hash that the
password's own hash is part of, so that a changed password counts at once. Whoever fails too often has to wait.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import bcrypt

from proxy.errors import LoginRefused, LoginUnavailable
from proxy.policy.access import ANONYMOUS, Kind, Principal
from proxy.services.credentials import MAX_PASSWORD, TOKEN_PREFIX, Credentials
from proxy.services.oidc import Issuers, looks_signed
from proxy.services.revision import Clock
from proxy.services.sessions import Sessions

#: bcrypt takes a core for as long as it lasts; logging in must not stop pulls.
_AT_A_TIME = 2
_MOST_WAITING = 64
_REMEMBERED = 60.0
_MOST_REMEMBERED = 10_000
_FAILURES = 10
_FAILURE_TIME = 60.0
_MOST_ADDRESSES = 10_000
_MAX_HEADER = 24 << 10
#: What an unknown user's password is checked against, so that it takes as long as a known one's.
_NOBODY = b"$2b$10$CwTycUXWue0Thq9StjUM0uJ8aRrTGbYxZ9PpVvZ6WmKf6V2eF9h1a"


@dataclass(frozen=True, slots=True)
class Identified:
    """Who asks. ``stamp`` names the credential behind it for sessions, ``until`` is the end of what was shown."""

    principal: Principal
    stamp: str = ""
    until: datetime | None = None


_NOT_IDENTIFIED = Identified(ANONYMOUS)


class Authenticator:
    """Checks credentials. :meth:`adopt` swaps what is believed; sessions given before count only where it still holds."""

    def __init__(self, credentials: Credentials, issuers: Issuers, clock: Clock) -> None:
        self._credentials = credentials
        self._issuers = issuers
        self._sessions: Sessions | None = None
        self._clock = clock
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._waiting = 0
        self._secret = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()  #: keyed hash → until (monotonic)
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  #: address → failures, until (monotonic)

    def adopt(self, credentials: Credentials, issuers: Issuers) -> None:
        """Believe these from now on."""
        self._credentials = credentials
        self._issuers = issuers

    def adopt_passwords(self, passwords: Mapping[str, bytes]) -> None:
        """Believe these passwords from now on (user → bcrypt hash), and everything else as before."""
        self._credentials = replace(self._credentials, passwords=passwords)

    def keep(self, sessions: Sessions) -> None:
        """Give and take the tokens of these sessions."""
        self._sessions = sessions

    @property
    def accepts_logins(self) -> bool:
        """Whether anybody can log in by a header: else asking for credentials would be pointless."""
        return bool(self._credentials.passwords or self._credentials.tokens) or self._issuers.any

    async def identify(self, header: str | None, certificate: str | None, address: str | None) -> Identified:
        """Who asks, by ``Authorization`` if there is one, else by the verified certificate's name, else nobody.

        Raises LoginRefused and LoginUnavailable: credentials that do not hold are never taken for none.
        """
        if header is None:
            return _NOT_IDENTIFIED if certificate is None else Identified(Principal(Kind.CERTIFICATE, certificate))
        if len(header) > _MAX_HEADER:
            raise LoginRefused("the Authorization header is too long")
        scheme, _, value = header.partition(" ")
        match scheme.lower():
            case "bearer":
                return await self._bearer(value.strip())
            case "basic":
                return await self._basic(*_user_and_password(value), address)
            case _:
                raise LoginRefused("only Basic and Bearer credentials are known here")

    # -- the ways to show it ------------------------------------------------------------------------------------------------

    async def _bearer(self, token: str) -> Identified:
        if token.startswith(TOKEN_PREFIX):
            return self._static(token, None)
        if self._sessions is not None and (session := self._sessions.read(token, self._clock())) is not None:
            if session.principal.known and self._stamp(session.principal) != session.stamp:
                raise LoginRefused(f"what {session.principal} logged in with is no longer valid; log in again")
            return Identified(session.principal, session.stamp, session.expires)
        return await self._signed(token)

    async def _signed(self, token: str) -> Identified:
        principal, until = await self._issuers.identify(token)
        return Identified(principal, self._issuers.stamp(principal) or "", until)

    async def _basic(self, user: str, password: str, address: str | None) -> Identified:
        if user in self._credentials.passwords:
            return await self._password(user, password, address)
        if password.startswith(TOKEN_PREFIX):
            return self._static(password, user)
        if self._issuers.any and looks_signed(password):
            return await self._signed(password)  # the form in which clients can show such a token: the user's name says nothing
        return await self._password(user, password, address)

    def _static(self, text: str, user: str | None) -> Identified:
        token = self._credentials.token(text, self._clock())
        if token is None or user not in (None, token.name):
            raise LoginRefused("this token is not known here, or no longer")
        principal = Principal(Kind.TOKEN, token.name)
        return Identified(principal, self._stamp(principal) or "", token.expires)

    async def _password(self, user: str, password: str, address: str | None) -> Identified:
        secret = password.encode("utf-8", "surrogatepass")
        hashed = self._credentials.passwords.get(user, _NOBODY)
        known = hmac.digest(self._secret, b"\0".join((user.encode("utf-8", "surrogatepass"), hashed, secret)), hashlib.sha256)
        now = time.monotonic()
        if self._right.get(known, 0.0) <= now:
            self._check_patience(address, now)
            if not await self._matches(secret, hashed) or user not in self._credentials.passwords:
                self._note_failure(address, now)
                raise LoginRefused("unknown user or wrong password")
            self._right[known] = now + _REMEMBERED
            while len(self._right) > _MOST_REMEMBERED:
                self._right.popitem(last=False)
        principal = Principal(Kind.USER, user)
        return Identified(principal, self._stamp(principal) or "")

    async def _matches(self, secret: bytes, hashed: bytes) -> bool:
        if len(secret) > MAX_PASSWORD or b"\0" in secret:
            return False
        if self._waiting >= _MOST_WAITING:
            raise LoginUnavailable("too many are logging in; try again", 5.0)
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(bcrypt.checkpw, secret, hashed)
        except ValueError:  # not a hash after all: configuration has checked its form, not its salt
            return False
        finally:
            self._waiting -= 1

    def _check_patience(self, address: str | None, now: float) -> None:
        count, until = self._wrong.get(address or "", (0, 0.0))
        if count >= _FAILURES and now < until:
            raise LoginUnavailable(f"too many wrong passwords from {address or 'there'}; try again later", until - now)

    def _note_failure(self, address: str | None, now: float) -> None:
        place = address or ""
        count, until = self._wrong.pop(place, (0, 0.0))
        self._wrong[place] = (count + 1 if now < until else 1, now + _FAILURE_TIME)
        while len(self._wrong) > _MOST_ADDRESSES:
            self._wrong.popitem(last=False)

    def _stamp(self, principal: Principal) -> str | None:
        """What stands behind a principal now; None when nothing does any more."""
        match principal.kind:
            case Kind.USER | Kind.TOKEN:
                return self._credentials.stamp(principal.kind, principal.name)
            case Kind.OIDC:
                return self._issuers.stamp(principal)
            case _:
                return None

    # -- sessions -----------------------------------------------------------------------------------------------------------

    def issue(self, identified: Identified) -> tuple[str, int]:
        """A session token for somebody, and its seconds. Raises ValueError where there are no sessions."""
        if self._sessions is None:
            raise ValueError("no sessions are kept")
        return self._sessions.issue(identified.principal, identified.stamp, self._clock(), identified.until)


def _user_and_password(value: str) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError) as error:
        raise LoginRefused("the Basic credentials cannot be read") from error
    if not colon:
        raise LoginRefused("the Basic credentials have no password")
    return user, password

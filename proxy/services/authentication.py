"""Who asks: from the ``Authorization`` header or the TLS connection's certificate to a principal.

Each answer comes with a stamp: a hash of the credential that was shown, as it was when it was shown. A session carries it, and
ends when the credential of that principal has another one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from proxy.errors import LoginRefused
from proxy.policy.access import ANONYMOUS, Kind, Principal
from proxy.services.credentials import TOKEN_PREFIX, Credentials, password_stamp
from proxy.services.oidc import Issuers, looks_signed
from proxy.services.passwords import WRONG, Passwords
from proxy.services.revision import Clock
from proxy.services.sessions import Sessions

_MAX_HEADER = 24 << 10


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
        self._passwords = Passwords(credentials.passwords)

    def adopt(self, credentials: Credentials, issuers: Issuers) -> None:
        """Believe these from now on."""
        self._credentials = credentials
        self._passwords.adopt(credentials.passwords)
        self._issuers = issuers

    def adopt_passwords(self, passwords: Mapping[str, bytes]) -> None:
        """Believe these passwords from now on (user → bcrypt hash), and everything else as before."""
        self._credentials = replace(self._credentials, passwords=passwords)
        self._passwords.adopt(passwords)

    async def close(self) -> None:
        """End the checks under way."""
        await self._passwords.close()

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
        issuers = self._issuers  # those that the token is held against; there may be others when that is done
        principal, until = await issuers.identify(token)
        return Identified(principal, issuers.stamp(principal) or "", until)

    async def _basic(self, user: str, password: str, address: str | None) -> Identified:
        if user in self._passwords:
            return await self._password(user, password, address)
        if password.startswith(TOKEN_PREFIX):
            return self._static(password, user)
        if self._issuers.any and looks_signed(password):
            return await self._signed(password)  # the form in which clients can show such a token: the user's name says nothing
        return await self._password(user, password, address)

    def _static(self, text: str, user: str | None) -> Identified:
        token = self._credentials.token(text, self._clock())
        if token is None or user not in (None, token.name):
            raise LoginRefused("this token is not known here, or no longer" if user is None else WRONG)
        return Identified(Principal(Kind.TOKEN, token.name), token.stamp, token.expires)

    async def _password(self, user: str, password: str, address: str | None) -> Identified:
        hashed = await self._passwords.check(user, password, address)
        return Identified(Principal(Kind.USER, user), password_stamp(hashed))

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
        """A session token for somebody, and its seconds. Raises LoginRefused where what was shown ends just now."""
        if self._sessions is None:
            raise ValueError("no sessions are kept")
        token, seconds = self._sessions.issue(identified.principal, identified.stamp, self._clock(), identified.until)
        if seconds < 1:
            raise LoginRefused("this token has expired")
        return token, seconds


def _user_and_password(value: str) -> tuple[str, str]:
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError) as error:
        raise LoginRefused("the Basic credentials cannot be read") from error
    if not colon:
        raise LoginRefused("the Basic credentials have no password")
    return user, password

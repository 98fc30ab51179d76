"""Short-lived tokens that this proxy signs, so that a password is checked once for many requests (Docker's token flow).

The key lies in the data directory and is shared by all workers. A token names a principal and carries a stamp of the
credential by which it was given: when that is changed or taken away, the token is worth nothing, however long it had to live.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import jwt

from proxy.policy.access import ANONYMOUS, Kind, Principal

_ALGORITHM = "HS256"
_ISSUER = "tagstone"
_KEY_FILE = "session.key"
_KEY_SIZE = 32
MAX_TOKEN = 8 << 10


@dataclass(frozen=True, slots=True)
class Session:
    """What a token says."""

    principal: Principal
    stamp: str
    expires: datetime


def session_key(data_dir: Path) -> bytes:
    """The key in the data directory, made at first use; of several workers one makes it. Raises OSError."""
    path = data_dir / _KEY_FILE
    for _ in range(2):
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            data_dir.mkdir(parents=True, exist_ok=True)
            draft = data_dir / f".{_KEY_FILE}.{secrets.token_hex(8)}"
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_SIZE))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass  # another worker was faster: its key is the one
            finally:
                draft.unlink()
            continue
        if len(key) != _KEY_SIZE:
            raise OSError(f"{path} is damaged: it has {len(key)} bytes, not {_KEY_SIZE}; remove it, and everybody logs in again")
        return key
    raise OSError(f"{path} vanished while it was read")


class Sessions:
    """Signs and reads tokens. ``lifetime`` is the longest."""

    def __init__(self, key: bytes, service: str, lifetime: timedelta) -> None:
        self._key = key
        self._service = service
        self._lifetime = lifetime

    def issue(self, principal: Principal, stamp: str, now: datetime, until: datetime | None = None) -> tuple[str, int]:
        """A token, and for how many seconds it is good: never beyond ``until``."""
        expires = now + self._lifetime
        if until is not None:
            expires = min(expires, until)
        claims = {
            "iss": _ISSUER,
            "aud": self._service,
            "sub": principal.name,
            "kind": principal.kind.value,
            "stamp": stamp,
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
        }
        return jwt.encode(claims, self._key, _ALGORITHM), max(0, int((expires - now).total_seconds()))

    def read(self, token: str, now: datetime) -> Session | None:
        """What a token says; None when it is not of this proxy, or its time is over."""
        if len(token) > MAX_TOKEN:
            return None
        try:
            claims = jwt.decode(
                token,
                self._key,
                [_ALGORITHM],
                audience=self._service,
                issuer=_ISSUER,
                # The clock is ours, so that there is one in the whole proxy.
                options={"require": ["exp", "iat", "sub", "aud", "iss"], "verify_exp": False, "verify_iat": False},
            )
            principal = Principal(Kind(claims["kind"]), claims["sub"])
            expires = datetime.fromtimestamp(claims["exp"], now.tzinfo)
            issued = datetime.fromtimestamp(claims["iat"], now.tzinfo)
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, OverflowError, OSError, RecursionError):
            return None
        # A clock that was set back must not lend it more time than it was given.
        if not issued - timedelta(minutes=5) <= now < expires:
            return None
        return Session(ANONYMOUS if principal.kind is Kind.ANONYMOUS else principal, str(claims.get("stamp", "")), expires)

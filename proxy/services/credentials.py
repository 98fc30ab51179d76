"""Credentials that operators keep: password files, static tokens. Read from text once, held as frozen values.

Nothing here can be turned back into a secret: passwords are bcrypt hashes, tokens are hashes of random text.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

#: ``apr1`` and the others that ``htpasswd`` can write are broken, or are no hashes at all.
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}", re.ASCII)
_MAX_USERS = 10_000
#: Costs that take longer than some seconds would let a few log-ins stop all others.
_COSTS = range(4, 16)
#: bcrypt looks at no more bytes than these.
MAX_PASSWORD = 72
#: What static tokens begin with, so that scanners for leaked secrets can know them.
TOKEN_PREFIX = "tagstone_"  # noqa: S105 (a prefix, not a secret)


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A token that an operator made for somebody; ``sha256`` is of the token's text, hex."""

    name: str
    sha256: str
    expires: datetime | None = None

    @property
    def stamp(self) -> str:
        """A short name of this token with all that is said of it: another one after any change."""
        return _stamp(self.sha256, "" if self.expires is None else self.expires.isoformat())


def password_stamp(hashed: bytes) -> str:
    """A short name of a password, by its hash."""
    return _stamp(hashed.decode("ascii", "replace"))


def _stamp(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Credentials:
    """All that can be checked without asking anybody."""

    passwords: Mapping[str, bytes] = field(default_factory=dict, repr=False)  #: user → bcrypt hash
    tokens: Mapping[str, StaticToken] = field(default_factory=dict)  #: by sha256

    def token(self, text: str, now: datetime) -> StaticToken | None:
        """The token with this text, while it is valid."""
        # Looked up by its hash: how long that takes tells nothing about the text.
        found = self.tokens.get(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())
        return None if found is None or (found.expires is not None and now > found.expires) else found

    def stamp(self, kind: str, name: str) -> str | None:
        """A short name of the credential behind a principal: another one after a change, None once it is gone."""
        if kind == "user":
            hashed = self.passwords.get(name)
            return None if hashed is None else password_stamp(hashed)
        return next((each.stamp for each in self.tokens.values() if each.name == name), None)


def new_token() -> str:
    """A new random token, 256 bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def read_htpasswd(text: str) -> dict[str, bytes]:
    """Users and bcrypt hashes of an Apache password file. Raises :class:`ValueError`, with the line, for anything else."""
    users: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        user, colon, hashed = entry.partition(":")
        if not colon or not _USER.fullmatch(user):
            raise ValueError(f"line {number} is not user:hash, with a user of A–Z a–z 0–9 . _ @ + -")
        found = _BCRYPT.fullmatch(hashed)
        if found is None:
            raise ValueError(
                f"line {number}: the password of {user} is not hashed by bcrypt; write it with `htpasswd -B FILE {user}`"
            )
        if int(found[1]) not in _COSTS:
            raise ValueError(
                f"line {number}: the bcrypt cost of {user} is {int(found[1])}; {_COSTS[0]} to {_COSTS[-1]} are accepted"
            )
        if user in users:
            raise ValueError(f"line {number}: {user} stands here a second time")
        users[user] = hashed.encode()
        if len(users) > _MAX_USERS:
            raise ValueError(f"there are more than {_MAX_USERS} users")
    return users

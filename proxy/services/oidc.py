"""Tokens that somebody else signed: OpenID Connect Core 1.0 §2, and the service accounts of Kubernetes (RFC 7519).

An issuer is believed for the names it gives, under the name that the configuration gives the issuer: two issuers can never speak
for the same principal. Its keys are remembered, asked for again when a token names one that is not known (not more often than
every :data:`_PATIENCE` seconds), and go on counting for :data:`_LONGEST` seconds when they cannot be had.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jwt

from proxy.errors import LoginRefused, LoginUnavailable
from proxy.policy.access import Kind, Principal
from proxy.upstream.keysets import KeySetPlace

_PATIENCE = 30.0
_FRESH = 3600.0
_LONGEST = 24 * 3600.0
_LEEWAY = 30
_MAX_TOKEN = 16 << 10
_MAX_KEYS = 100
_MAX_NAME = 256
#: No shared secrets, and no "none": only the issuer can sign.
_FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

FetchKeySet = Callable[[KeySetPlace], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Issuer:
    """One entry of ``access.oidc``. With ``keys`` nothing is fetched."""

    name: str
    place: KeySetPlace
    audiences: tuple[str, ...]
    claim: str  #: which claim is the principal's name
    keys: str | None = field(default=None, repr=False)  #: a key set as JSON

    @property
    def stamp(self) -> str:
        """A short name of all of it: another one after any change."""
        return hashlib.sha256(repr((self.name, self.place, self.audiences, self.claim, self.keys)).encode()).hexdigest()[:32]


def looks_signed(token: str) -> bool:
    """Whether a text has the form of a JSON Web Token."""
    return token.count(".") == 2 and len(token) <= _MAX_TOKEN and token.isascii()


class IssuerKeys:
    """The keys of one issuer, as they are known now."""

    def __init__(self, issuer: Issuer, fetch: FetchKeySet, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str | None, SigningKey] = {} if issuer.keys is None else usable(json.loads(issuer.keys))
        self._fetched = self._asked = -_LONGEST
        self._failed = False  #: whether the last fetch did
        self._turn = asyncio.Lock()

    async def find(self, kid: str | None) -> SigningKey:
        """The key with this id. Raises LoginRefused where there is none, LoginUnavailable where that cannot be told."""
        if self.issuer.keys is None and not self._good(kid):
            async with self._turn:
                if not self._good(kid):
                    await self._refresh(kid)
        found = self._keys.get(kid) if kid is not None or len(self._keys) != 1 else next(iter(self._keys.values()))
        if found is None and self._failed:
            raise LoginUnavailable(f"the keys of {self.issuer.place.issuer} cannot be had now", _PATIENCE)
        if found is None:
            raise LoginRefused(f"this token is signed by no key of {self.issuer.place.issuer}")
        return found

    def _good(self, kid: str | None) -> bool:
        """Whether what is known is new enough and has the key, or was asked for a moment ago."""
        now = self._clock()
        return (self._knows(kid) and now - self._fetched < _FRESH) or (
            now - self._asked < _PATIENCE and now - self._fetched < _LONGEST
        )

    def _knows(self, kid: str | None) -> bool:
        return kid in self._keys or (kid is None and bool(self._keys))

    async def _refresh(self, kid: str | None) -> None:
        now = self._clock()
        if now - self._asked < _PATIENCE:
            raise LoginUnavailable(f"the keys of {self.issuer.place.issuer} cannot be had now", _PATIENCE)
        self._asked = now
        try:
            self._keys = usable(await self._fetch(self.issuer.place))
        except LoginUnavailable as error:
            self._failed = True
            if not self._knows(kid) or now - self._fetched >= _LONGEST:
                raise LoginUnavailable(str(error), _PATIENCE) from error
            return
        self._failed = False
        self._fetched = self._clock()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key of an issuer."""

    kind: str  #: RSA, EC or OKP
    algorithm: str | None  #: the only one that it is for, where the set says so
    key: Any = field(repr=False)

    def fits(self, algorithm: str) -> bool:
        """Whether a token may be signed by this key in this way."""
        return self.kind == _FAMILIES[algorithm[:2]] and self.algorithm in (None, algorithm)


def usable(document: Mapping[str, Any]) -> dict[str | None, SigningKey]:
    """The signing keys of a set (RFC 7517) by id; what is of another kind is left out."""
    keys: dict[str | None, SigningKey] = {}
    listed = document.get("keys")
    for entry in listed[:_MAX_KEYS] if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        declared = entry.get("alg")
        kid = entry.get("kid")
        if all(each is None or isinstance(each, str) for each in (kid, declared)):
            keys[kid] = SigningKey(entry["kty"], declared, key.key)
    return keys


class Issuers:
    """All issuers that are believed."""

    def __init__(self, keys: Mapping[str, IssuerKeys]) -> None:
        self._keys = keys  #: by the issuer's own name for itself

    @classmethod
    def of(cls, issuers: tuple[Issuer, ...], fetch: FetchKeySet, before: Issuers | None = None) -> Issuers:
        """Those of the configuration. What is known of the keys of issuers that stay as they were is taken over."""
        old = {} if before is None else before.known
        return cls({each.place.issuer: old[each] if each in old else IssuerKeys(each, fetch) for each in issuers})

    async def identify(self, token: str) -> tuple[Principal, datetime]:
        """Who is named by a token, and until when it is good. Raises LoginRefused and LoginUnavailable."""
        if not looks_signed(token):
            raise LoginRefused("these are no credentials that are known here")
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise LoginRefused("this token cannot be read") from error
        named, algorithm, kid = claimed.get("iss"), header.get("alg"), header.get("kid")
        keys = self._keys.get(named) if isinstance(named, str) else None
        if keys is None:
            raise LoginRefused("this token is of an issuer that is not known here")
        if algorithm not in _ALGORITHMS or not (kid is None or isinstance(kid, str)):
            raise LoginRefused("this token is signed in a way that is not accepted")
        key = await keys.find(kid)
        if not key.fits(algorithm):
            raise LoginRefused("this token is signed in a way that is not accepted")
        issuer = keys.issuer
        try:
            claims = await asyncio.to_thread(
                jwt.decode,
                token,
                key.key,
                [algorithm],
                audience=issuer.audiences,
                issuer=issuer.place.issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud", issuer.claim]},
            )
            until = datetime.fromtimestamp(claims["exp"], UTC)
        except jwt.ExpiredSignatureError as error:
            raise LoginRefused("this token has expired") from error
        except jwt.InvalidAudienceError as error:
            raise LoginRefused("this token was made for somebody else: its audience is another") from error
        except jwt.MissingRequiredClaimError as error:
            raise LoginRefused(f"this token does not say {error.claim}") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, OSError, RecursionError) as error:
            raise LoginRefused("this token does not hold") from error
        name = claims[issuer.claim]
        if issuer.claim == "email" and claims.get("email_verified") is not True:
            # Not said is not verified: there are issuers whose users may write any address into their accounts.
            raise LoginRefused("this token's e-mail address is not verified by its issuer (email_verified)")
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise LoginRefused(f"this token names nobody in {issuer.claim}")
        return Principal(Kind.OIDC, f"{issuer.name}:{name}"), until

    def stamp(self, principal: Principal) -> str | None:
        """What stands behind a principal's session: another text after a change of its issuer's entry, None without one."""
        name = principal.name.partition(":")[0]
        found = next((keys.issuer for keys in self._keys.values() if keys.issuer.name == name), None)
        return None if found is None else found.stamp

    @property
    def known(self) -> dict[Issuer, IssuerKeys]:
        """What is known of the keys of each."""
        return {keys.issuer: keys for keys in self._keys.values()}

    @property
    def any(self) -> bool:
        """Whether there is one at all."""
        return bool(self._keys)

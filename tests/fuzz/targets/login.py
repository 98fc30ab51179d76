"""What clients log in with, and the keys of those who vouch for them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from proxy.errors import LoginRefused
from proxy.policy.access import Kind, Principal
from proxy.services.authentication import _user_and_password
from proxy.services.oidc import Issuer, Issuers, usable
from proxy.services.sessions import Sessions
from proxy.upstream.keysets import KeySetPlace
from proxy.web.login import read_form
from tests.fuzz.target import Target
from tests.simulator.signing import Signer

BY = Signer.of("p256", "issuer")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SESSIONS = Sessions(b"k" * 32, "tagstone.test", timedelta(hours=1))
_KEY = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(BY.private.public_key()))  # type: ignore[arg-type]  # it is one for EC
_KEYS = {"keys": [{**_KEY, "kid": "1", "use": "sig", "alg": "ES256"}]}
_ISSUER = Issuer("ci", KeySetPlace("https://issuer.test", None), ("tagstone.test",), "sub", json.dumps(_KEYS))
_CLAIMS = {"iss": "https://issuer.test", "aud": "tagstone.test", "sub": "job", "exp": 4102444800}


async def _nothing(place: KeySetPlace) -> dict[str, Any]:
    raise AssertionError("the keys are known")


def login(data: bytes) -> bool:
    """As a token, as Basic credentials, as a form. Who is let in is named in what was signed."""
    text = data.decode("latin-1")
    for read in (_user_and_password, lambda text: read_form(text.encode("latin-1"))):
        with suppress(LoginRefused):
            user, password = read(text)
            assert f"{user}:{password}".encode() is not None
    session = SESSIONS.read(text, NOW)
    assert session is None or session.principal.name == "somebody"
    try:
        who, until = asyncio.run(Issuers.of((_ISSUER,), _nothing).identify(text))
    except LoginRefused:
        return session is not None
    claims = jwt.decode(text, options={"verify_signature": False})
    assert (claims["iss"], who.name) == (_CLAIMS["iss"], f"ci:{claims['sub']}")
    assert until > NOW - timedelta(days=1)
    return True


def signed(data: bytes) -> bytes:
    """Signed by the issuer, whatever it says."""
    head, _, rest = data.partition(b".")
    body = rest.partition(b".")[0]
    try:
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        signature = b"".join(n.to_bytes(32, "big") for n in decode_dss_signature(BY.sign(head + b"." + body)))
    except ValueError:
        return data
    return b"%b.%b.%b" % (head, body, base64.urlsafe_b64encode(signature).rstrip(b"="))


def key_set(data: bytes) -> bool:
    """An issuer's keys: those that can be used, by their ids."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    if not isinstance(document, dict):
        return False
    keys = usable(document)
    assert all(kid is None or isinstance(kid, str) for kid in keys)
    return bool(keys)


def _logins() -> Iterator[bytes]:
    algorithm = "ES256"
    private: Any = BY.private
    yield jwt.encode(_CLAIMS, private, algorithm, {"kid": "1"}).encode()
    yield jwt.encode({**_CLAIMS, "aud": ["x", "tagstone.test"], "nbf": 1, "iat": 1}, private, algorithm).encode()
    yield SESSIONS.issue(Principal(Kind.USER, "somebody"), "x", NOW)[0].encode()
    yield base64.b64encode(b"user:password")
    yield b"grant_type=password&username=user&password=p%20w&service=tagstone.test&scope=x&scope=y"


def _key_sets() -> Iterator[bytes]:
    yield json.dumps(_KEYS).encode()
    rsa = {"kty": "RSA", "n": "u" * 342, "e": "AQAB", "kid": "r", "alg": "RS256"}
    okp = {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": "o"}
    yield json.dumps({"keys": [rsa, okp, {"kty": "oct", "k": "AAAA"}]}).encode()


TARGETS = (
    Target("login", login, (), tuple(_logins()), signed, longest=4 << 10, largest=16 << 10, seconds=1, told=False),
    Target(
        "key-set", key_set, (), tuple(_key_sets()), longest=8 << 10, words=("kty", "crv", "x5c", "use"), seconds=1, told=False
    ),
)

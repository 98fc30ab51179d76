"""Keys of issuers: fetched when needed, not more often than that, remembered through outages, and never from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from proxy.errors import LoginRefused, LoginUnavailable
from proxy.policy.access import Kind, Principal
from proxy.services.oidc import Issuer, IssuerKeys, Issuers, looks_signed
from proxy.services.sessions import Sessions
from proxy.upstream.keysets import KeySetPlace, fetch_key_set
from tests.simulator.tls import Authority
from tests.tools import free_port

ISSUER = "https://issuer.example"
FIRST, SECOND = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def key_set(**keys: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """Public keys by id."""
    return {
        "keys": [{**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": kid} for kid, key in keys.items()]
    }


def token(key: ec.EllipticCurvePrivateKey = FIRST, kid: str | None = "one", issuer: str = ISSUER) -> str:
    """A token of the issuer for alice."""
    claims = {"iss": issuer, "aud": "tagstone", "sub": "alice", "exp": int(datetime.now(UTC).timestamp()) + 60}
    return jwt.encode(claims, key, "ES256", headers={} if kid is None else {"kid": kid})


class Fetch:
    """An issuer that can be down, counted."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.answer = answer
        self.down = False
        self.count = 0
        self.now = 1_000_000.0

    async def __call__(self, place: KeySetPlace) -> Mapping[str, Any]:
        self.count += 1
        if self.down:
            raise LoginUnavailable(f"the keys of {place.issuer} could not be fetched")
        return self.answer

    def issuers(self) -> Issuers:
        """These, with this clock."""
        issuer = Issuer("corp", KeySetPlace(ISSUER), ("tagstone",), "sub")
        return Issuers({ISSUER: IssuerKeys(issuer, self, lambda: self.now)})


async def test_keys_are_fetched_once_and_again_after_an_hour() -> None:
    """The principal carries the issuer's name here, not the issuer's own."""
    fetch = Fetch(key_set(one=FIRST))
    issuers = fetch.issuers()
    for _ in range(3):
        principal, until = await issuers.identify(token())
        assert str(principal) == "oidc:corp:alice"
        assert until > datetime.now(UTC)
    assert fetch.count == 1
    fetch.now += 3601
    await issuers.identify(token())
    assert fetch.count == 2


async def test_a_new_key_is_looked_for_but_not_at_every_guess() -> None:
    """Rotation is noticed; made-up ids cost one request in half a minute."""
    fetch = Fetch(key_set(one=FIRST))
    issuers = fetch.issuers()
    await issuers.identify(token())
    fetch.answer = key_set(one=FIRST, two=SECOND)
    fetch.now += 31
    await issuers.identify(token(SECOND, "two"))
    assert fetch.count == 2
    for number in range(5):
        with pytest.raises(LoginRefused, match="no key of"):
            await issuers.identify(token(SECOND, f"made up {number}"))
    assert fetch.count == 2


async def test_an_outage_is_no_refusal_and_known_keys_outlive_it() -> None:
    """Unknown keys cannot be told; known ones go on for a day, and then no longer."""
    fetch = Fetch(key_set(one=FIRST))
    fetch.down = True
    issuers = fetch.issuers()
    with pytest.raises(LoginUnavailable):
        await issuers.identify(token())
    fetch.down = False
    fetch.now += 31
    await issuers.identify(token())
    fetch.down = True
    fetch.now += 3 * 3600
    await issuers.identify(token())
    fetch.now += 31
    with pytest.raises(LoginUnavailable):
        await issuers.identify(token(SECOND, "two"))
    fetch.now += 24 * 3600
    with pytest.raises(LoginUnavailable):
        await issuers.identify(token())


async def test_an_outage_stays_an_outage_for_the_next_one() -> None:
    """Right after a fetch that failed, an unknown key is still not refused, and a known one needs no id."""
    fetch = Fetch(key_set(one=FIRST))
    issuers = fetch.issuers()
    await issuers.identify(token())
    fetch.now += 31
    fetch.down = True
    for _ in range(2):
        with pytest.raises(LoginUnavailable):
            await issuers.identify(token(SECOND, "two"))
    fetch.now += 3601
    await issuers.identify(token(kid=None))


async def test_what_is_known_survives_a_reload() -> None:
    """An issuer that stays as it was keeps its keys; one that changed is asked again."""
    fetch = Fetch(key_set(one=FIRST))
    same = Issuer("corp", KeySetPlace(ISSUER), ("tagstone",), "sub")
    issuers = Issuers.of((same,), fetch)
    await issuers.identify(token())
    fetch.down = True
    again = Issuers.of((Issuer("corp", KeySetPlace(ISSUER), ("tagstone",), "sub"),), fetch, issuers)
    await again.identify(token())
    other = Issuers.of((Issuer("corp", KeySetPlace(ISSUER), ("tagstone", "more"), "sub"),), fetch, again)
    with pytest.raises(LoginUnavailable):
        await other.identify(token())
    assert again.stamp(Principal(Kind.OIDC, "corp:alice")) != other.stamp(Principal(Kind.OIDC, "corp:alice"))


@pytest.mark.parametrize(
    ("claims", "named"),
    [({}, False), ({"email_verified": True}, True), ({"email_verified": False}, False), ({"email_verified": "true"}, False)],
)
async def test_an_address_that_is_not_verified_names_nobody(claims: dict[str, Any], named: bool) -> None:
    """Whoever may write any address into a profile must not become its owner."""
    fetch = Fetch(key_set(one=FIRST))
    issuer = Issuer("corp", KeySetPlace(ISSUER), ("tagstone",), "email")
    issuers = Issuers({ISSUER: IssuerKeys(issuer, fetch, lambda: fetch.now)})
    now = int(datetime.now(UTC).timestamp())
    whole = {"iss": ISSUER, "aud": "tagstone", "email": "boss@acme.example", "exp": now + 60, **claims}
    text = jwt.encode(whole, FIRST, "ES256", headers={"kid": "one"})
    if named:
        assert str((await issuers.identify(text))[0]) == "oidc:corp:boss@acme.example"
    else:
        with pytest.raises(LoginRefused, match="not verified"):
            await issuers.identify(text)


@pytest.mark.parametrize("kid", [None, "one", "mine"])
@pytest.mark.parametrize("place", ["jwk", "jku", "x5u", "x5c"])
async def test_promise_25_a_key_in_the_header_verifies_nothing(place: str, kid: str | None) -> None:
    """Whoever signs by a key of their own may bring it along as they like: only the issuer's key set counts."""
    fetch = Fetch(key_set(one=FIRST))
    own = key_set(mine=SECOND)["keys"][0]
    brought = {"jwk": own, "jku": "https://evil.example/keys", "x5u": "https://evil.example/cert", "x5c": [own["x"]]}
    claims = {"iss": ISSUER, "aud": "tagstone", "sub": "alice", "exp": int(datetime.now(UTC).timestamp()) + 60}
    header = {place: brought[place]} | ({} if kid is None else {"kid": kid})
    with pytest.raises(LoginRefused):
        await fetch.issuers().identify(jwt.encode(claims, SECOND, "ES256", headers=header))
    assert fetch.count == 1


def test_promise_25_a_session_is_not_signed_by_what_it_brings() -> None:
    """Neither by a key in its header nor by none at all, nor by another secret; its own passes."""
    sessions = Sessions(b"k" * 32, "tagstone", timedelta(minutes=5))
    now = datetime.now(UTC)
    good, _ = sessions.issue(Principal(Kind.USER, "alice"), "stamp", now)
    assert sessions.read(good, now) is not None
    claims = jwt.decode(good, options={"verify_signature": False})
    jwk = {"kty": "oct", "k": "ZXZpbA"}
    for key, algorithm, header in (
        (b"e" * 32, "HS256", {"jwk": jwk}),
        (b"e" * 32, "HS256", {}),
        (b"k" * 64, "HS512", {}),
        (SECOND, "ES256", {"jwk": key_set(mine=SECOND)["keys"][0]}),
        ("", "none", {}),
    ):
        assert sessions.read(jwt.encode(claims, key, algorithm, headers=header), now) is None


@pytest.mark.parametrize(
    ("declared", "algorithm", "accepted"),
    [(None, "RS256", True), (None, "PS256", True), (None, "RS512", True), ("RS256", "RS256", True), ("RS256", "PS256", False)],
)
async def test_a_key_is_for_the_algorithm_that_its_set_says(declared: str | None, algorithm: str, accepted: bool) -> None:
    """Without a word of it, for every one of its kind."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    entry = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "r"}
    fetch = Fetch({"keys": [entry if declared is None else {**entry, "alg": declared}]})
    claims = {"iss": ISSUER, "aud": "tagstone", "sub": "alice", "exp": int(datetime.now(UTC).timestamp()) + 60}
    text = jwt.encode(claims, key, algorithm, headers={"kid": "r"})
    if accepted:
        await fetch.issuers().identify(text)
    else:
        with pytest.raises(LoginRefused, match="not accepted"):
            await fetch.issuers().identify(text)


async def test_a_token_without_a_key_id_fits_a_set_of_one_key_only() -> None:
    """Else it could not be said which key is meant."""
    fetch = Fetch(key_set(one=FIRST))
    issuers = fetch.issuers()
    await issuers.identify(token(kid=None))
    fetch.answer = key_set(one=FIRST, two=SECOND)
    fetch.now += 3601
    with pytest.raises(LoginRefused):
        await issuers.identify(token(kid=None))


async def test_unusable_keys_are_left_out() -> None:
    """Shared secrets, encryption keys and nonsense in a set are no keys by which anybody is believed."""
    odd: list[Any] = [
        {"kty": "oct", "k": "AAAA", "kid": "s"},
        1,
        {"kty": "EC"},
        {"kty": {}},
        {"kty": ["RSA"]},
        {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "r"},
    ]
    good = key_set(one=FIRST)["keys"]
    fetch = Fetch({"keys": [*odd, {**good[0], "kid": "enc", "use": "enc"}, *good]})
    issuers = fetch.issuers()
    await issuers.identify(token())
    for kid in ("s", "r", "enc"):
        with pytest.raises(LoginRefused):
            await issuers.identify(token(kid=kid))
    for answer in ({}, {"keys": 1}):
        other = Fetch(answer)
        with pytest.raises(LoginRefused):
            await other.issuers().identify(token())


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c.d", "é.b.c", "x" * 20000 + ".b.c"])
async def test_what_is_no_token_is_not_looked_into(text: str) -> None:
    """Bounded before it is parsed."""
    assert not looks_signed(text)
    fetch = Fetch({})
    with pytest.raises(LoginRefused):
        await fetch.issuers().identify(text)
    assert fetch.count == 0


# -- over the wire ------------------------------------------------------------------------------------------------------


class Site:
    """An issuer's web site over TLS."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.ca = self.authority.file(folder)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.pages: dict[str, tuple[int, bytes]] = {}
        self.seen: list[tuple[str, str | None]] = []

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append((request.path, request.headers.get("Authorization")))
        status, body = self.pages.get(request.path, (404, b""))
        return web.Response(status=status, body=body, headers={"Location": f"{self.url}/keys"} if status == 302 else {})

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.authority.server()).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


async def test_the_discovery_document_leads_to_the_keys(tmp_path: Path) -> None:
    """With the issuer's own authority, and the token that it wants to see."""
    (tmp_path / "bearer").write_text("service-account-token\n")
    async with Site(tmp_path) as site:
        document = {"issuer": site.url, "jwks_uri": f"{site.url}/keys"}
        site.pages["/.well-known/openid-configuration"] = 200, json.dumps(document).encode()
        site.pages["/keys"] = 200, json.dumps(key_set(one=FIRST)).encode()
        place = KeySetPlace(site.url, ca=site.ca, bearer_file=tmp_path / "bearer")
        assert await fetch_key_set(place) == key_set(one=FIRST)
        assert site.seen == [
            ("/.well-known/openid-configuration", "Bearer service-account-token"),
            ("/keys", "Bearer service-account-token"),
        ]
        assert await fetch_key_set(KeySetPlace(site.url, jwks=f"{site.url}/keys", ca=site.ca)) == key_set(one=FIRST)
        assert site.seen[-1] == ("/keys", None)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b""),
        (302, b""),
        (500, b"{}"),
        (200, b"[]"),
        (200, b"{"),
        (200, b"[" * 100_000),
        (200, b'{"keys": "' + b"x" * 300_000 + b'"}'),
    ],
)
async def test_answers_that_are_no_key_set(tmp_path: Path, status: int, body: bytes) -> None:
    """Absent, redirected, broken, too deep, too long: it cannot be told, and nothing else happens."""
    async with Site(tmp_path) as site:
        site.pages["/keys"] = status, body
        with pytest.raises(LoginUnavailable, match="the keys of"):
            await fetch_key_set(KeySetPlace(site.url, jwks=f"{site.url}/keys", ca=site.ca))
        assert len(site.seen) == 1


async def test_another_issuers_document_is_not_followed(tmp_path: Path) -> None:
    """Nor one that would have the token sent elsewhere, nor one that leads out of TLS; and TLS itself is checked."""
    (tmp_path / "bearer").write_text("secret")
    async with Site(tmp_path) as site:
        for document in (
            {"issuer": "https://other.example", "jwks_uri": f"{site.url}/keys"},
            {"issuer": site.url, "jwks_uri": f"https://localhost:{site.port}/keys"},
            {"issuer": site.url, "jwks_uri": f"http://127.0.0.1:{site.port}/keys"},
            {"issuer": site.url},
        ):
            site.pages["/.well-known/openid-configuration"] = 200, json.dumps(document).encode()
            with pytest.raises(LoginUnavailable):
                await fetch_key_set(KeySetPlace(site.url, ca=site.ca, bearer_file=tmp_path / "bearer"))
        assert {path for path, _ in site.seen} == {"/.well-known/openid-configuration"}
        with pytest.raises(LoginUnavailable):
            await fetch_key_set(KeySetPlace(site.url))
    with pytest.raises(LoginUnavailable):
        await fetch_key_set(KeySetPlace(site.url, ca=site.ca))

"""Simulated token endpoints and storage hosts: who gets in, who does not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.simulator import when
from tests.simulator.registry import Registry
from tests.simulator.server import Site
from tests.simulator.storage import SIGNATURE, Storage
from tests.simulator.tokens import TokenService, basic
from tests.unit.simulator.conftest import Ask

SCOPE = "repository:team/app:pull"


def given(user: str, password: str) -> dict[str, str]:
    """A Basic Authorization header."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def test_a_token_opens_its_scope_until_it_expires(registry: Registry, ask: Ask) -> None:
    """Without a token: a challenge. With one: in. For another scope, or after expiry: a challenge that names the error."""
    registry.image("team/app", "1.0")
    registry.image("team/other", "1.0")
    async with Site(address="127.0.0.2") as auth:
        service = TokenService(auth, fields=("token", "access_token"), extra={"issued_at": "now"}).guard(registry)
        url = f"{registry.url}/v2/team/app/manifests/1.0"
        refused = await ask("GET", url)
        assert refused.status == 401
        challenge = f'Bearer realm="{auth.url}/token",service="registry.test",scope="{SCOPE}"'
        assert refused.headers["WWW-Authenticate"] == challenge
        answer = await ask("GET", f"{auth.url}/token?service=registry.test&scope={SCOPE}")
        document = json.loads(answer.body)
        token = document["token"]
        assert document == {"token": token, "access_token": token, "issued_at": "now", "expires_in": 300}
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await ask("GET", url, headers=bearer)).status == 200
        assert (await ask("GET", f"{registry.url}/v2/", headers=bearer)).status == 200
        elsewhere = await ask("GET", url.replace("app", "other"), headers=bearer)
        assert elsewhere.status == 401
        service.expire()
        late = await ask("GET", url, headers=bearer)
        assert late.headers["WWW-Authenticate"].endswith('error="invalid_token"')
        assert len(service.asked()) == 1
        assert service.issued[0].account is None


@pytest.mark.parametrize(
    ("options", "method", "request_options", "status", "account"),
    [
        ({}, "GET", {}, 200, None),
        ({"anonymous": False}, "GET", {}, 401, None),
        ({"users": {"u": "p"}}, "GET", {"headers": given("u", "p")}, 200, "u"),
        ({"users": {"u": "p"}}, "GET", {"headers": given("u", "x")}, 401, None),
        ({"grants": lambda scope: scope != SCOPE}, "GET", {}, 403, None),
        ({}, "POST", {"data": {}}, 405, None),
        ({"refuse_method": 400}, "POST", {"data": {}}, 400, None),
        (
            {"methods": ("POST",), "identity_tokens": {"r": "u"}},
            "POST",
            {"data": {"grant_type": "refresh_token", "refresh_token": "r"}},
            200,
            "u",
        ),
        (
            {"methods": ("POST",), "identity_tokens": {"r": "u"}},
            "POST",
            {"data": {"grant_type": "refresh_token", "refresh_token": "x"}},
            401,
            None,
        ),
    ],
)
async def test_endpoints_of_all_kinds(
    registry: Registry,
    ask: Ask,
    options: dict[str, Any],
    method: str,
    request_options: dict[str, Any],
    status: int,
    account: str | None,
) -> None:
    """Who is granted a token depends on the endpoint's fields."""
    service = TokenService(registry, **options).guard(registry)
    got = await ask(method, f"{registry.url}/token?scope={SCOPE}", **request_options)
    assert got.status == status
    assert [token.account for token in service.issued] == ([account] if status == 200 else [])


async def test_an_answer_without_expiry_lives_a_minute(registry: Registry, ask: Ask) -> None:
    """``expires_in`` can be left out of the answer."""
    TokenService(registry, expires_in=None, scope=lambda seen: None).guard(registry, when.manifest())
    got = await ask("GET", f"{registry.url}/token")
    assert list(json.loads(got.body)) == ["token"]
    assert (await ask("GET", f"{registry.url}/v2/")).status == 200
    challenge = (await ask("GET", f"{registry.url}/v2/a/manifests/b")).headers["WWW-Authenticate"]
    assert "scope" not in challenge


async def test_basic(registry: Registry, ask: Ask) -> None:
    """Basic credentials let in, their absence or others give a challenge."""
    fault = registry.on(when.registry(), basic({"u": "p"}, realm="here"), guard=True)
    assert (await ask("GET", f"{registry.url}/v2/", headers=given("u", "p"))).status == 200
    for headers in ({}, given("u", "x"), {"Authorization": "Bearer x"}):
        refused = await ask("GET", f"{registry.url}/v2/", headers=headers)
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="here"')
    assert fault.fired == 4


async def test_signed_urls_work_byte_for_byte(registry: Registry, ask: Ask) -> None:
    """The storage serves a blob, also in ranges, under the very URL that was signed, as often and as long as it is good."""
    blob = registry.blob("team/app", b"0123456789")
    async with Storage(registry, address="127.0.0.2") as storage:
        registry.on(when.blob("GET"), storage.redirect(302, prefix="/a%2Fb", headers={"Cache-Control": "max-age=9"}))
        sent = await ask("GET", f"{registry.url}/v2/team/app/blobs/{blob.digest}")
        where = sent.headers["Location"]
        assert (sent.status, sent.headers["Cache-Control"]) == (302, "max-age=9")
        assert where.startswith(f"{storage.url}/a%2Fb/")
        assert SIGNATURE in where
        assert (await ask("GET", where)).body == b"0123456789"
        assert (await ask("GET", where, headers={"Range": "bytes=5-"})).body == b"56789"
        assert (await ask("GET", where.replace("%2F", "/"))).status == 403
        assert (await ask("GET", where.replace("~a", "%7Ea"))).status == 403
        storage.expire()
        assert (await ask("GET", where)).status == 403
        once = storage.url + storage.sign("team/app", blob.digest, uses=1)
        assert [(await ask("GET", once)).status for _ in range(2)] == [200, 403]
        assert (await ask("GET", storage.url + storage.sign("team/app", blob.digest, life=-1))).status == 403
        gone = storage.sign("team/app", blob.digest)
        registry.delete("team/app", blob.digest)
        assert (await ask("GET", storage.url + gone)).status == 404


async def test_relative_redirects(registry: Registry, ask: Ask) -> None:
    """A storage can be a part of the registry itself."""
    blob = registry.blob("team/app", b"0123456789")
    storage = Storage(registry)
    registry.on(when.blob(), storage.redirect(relative=True))
    registry.on(~when.registry(), lambda seen, following: storage.answer(seen))
    where = (await ask("GET", f"{registry.url}/v2/team/app/blobs/{blob.digest}")).headers["Location"]
    assert where.startswith("/blobs/sha256/")
    assert (await ask("GET", registry.url + where)).body == b"0123456789"

"""Challenges answered against small servers: which token is asked for, where, how often, and what is never sent."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.errors import UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.upstream import auth as module
from storage.digest import Digest
from storage.reference import Repository
from tests.unit.upstream.servers import MANIFEST, NAME, REPOSITORY, Clock, Handler, Server, client, denied, manifest, serve

SECRET = {"username": "user", "password": "secret"}
BASIC = "Basic " + base64.b64encode(b"user:secret").decode()


def registry(
    token: Callable[[web.Request], web.Response],
    challenge: str = 'Bearer realm="/token",service="test",scope="repository:team/app:pull"',
    good: Callable[[str], bool] = lambda header: header.startswith("Bearer "),
) -> Handler:
    """A registry with a token endpoint at ``/token``."""

    async def handle(request: web.Request) -> web.Response:
        if request.path.startswith("/token"):
            return token(request)
        return manifest() if good(request.headers.get("Authorization", "")) else denied(challenge)

    return handle


def tokens(*values: object, **fields: Any) -> Callable[[web.Request], web.Response]:
    """Give these one after the other, the last again and again."""
    left = list(values)

    def give(request: web.Request) -> web.Response:
        value = left.pop(0) if len(left) > 1 else left[0]
        return web.json_response({"token": value} | fields)

    return give


async def test_tokens_are_kept_until_they_expire_on_our_clock() -> None:
    """``expires_in`` counts from the moment of asking; then another one is asked for, without a 401 in between."""
    clock = Clock()
    async with serve(registry(tokens("one", "two", expires_in=300))) as server, client(server, clock=clock) as upstreams:
        for _ in range(2):
            await upstreams.manifest(REPOSITORY, "1.0")
        clock.now += 299
        await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == 1
        clock.now += 1
        await upstreams.manifest(REPOSITORY, "1.0")
    assert server.paths("/token") == ["GET /token?service=test&scope=repository%3Ateam%2Fapp%3Apull"] * 2
    sent = [each.headers.get("Authorization") for each in server.requests if each.path.startswith("/v2/")]
    assert sent == [None, "Bearer one", "Bearer one", "Bearer one", "Bearer two"]


@pytest.mark.parametrize(
    ("expires_in", "life"),
    [
        (None, 60),
        (1, 60),
        (-5, 60),
        (0, 60),
        ("300", 300),
        ("x", 60),
        (True, 60),
        (61.5, 61.5),
        (1e300, 86400),
        (10**400, 86400),  # more than any float
        (-(10**400), 60),
        (float("nan"), 60),
        ([], 60),
    ],
)
async def test_lives_of_tokens(expires_in: object, life: float) -> None:
    """60 seconds at least and by default, a day at most, whatever is said."""
    clock = Clock()

    def token(request: web.Request) -> web.Response:
        return web.Response(text=json.dumps({"access_token": "t", "expires_in": expires_in}))

    async with serve(registry(token)) as server, client(server, clock=clock) as upstreams:
        await upstreams.manifest(REPOSITORY, "1.0")
        clock.now += life - 0.5
        await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == 1
        clock.now += 1
        await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == 2


async def test_a_flight_survives_the_request_that_started_it() -> None:
    """The first of two requests goes away while the token is under way: the other gets it, from one flight."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            asked.set()
            await answer.wait()
            return web.json_response({"token": "t"})
        return manifest() if "Authorization" in request.headers else denied('Bearer realm="/token"')

    async with serve(handle) as server, client(server) as upstreams:
        first = asyncio.create_task(upstreams.manifest(REPOSITORY, "1.0"))
        await asked.wait()
        second = asyncio.create_task(upstreams.manifest(REPOSITORY, "2.0"))
        while len(server.paths("/v2/")) < 2:
            await asyncio.sleep(0.005)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        answer.set()
        assert (await second).body == MANIFEST
        assert len(server.paths("/token")) == 1


async def test_closing_ends_a_flight_and_those_who_wait_are_told() -> None:
    """Shutting down is an outage to a request in flight, not its cancellation; afterwards nothing is asked."""
    asked = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            asked.set()
            await asyncio.sleep(30)
        return denied('Bearer realm="/token"')

    async with serve(handle) as server, client(server) as upstreams:
        waiting = asyncio.create_task(upstreams.manifest(REPOSITORY, "1.0"))
        await asked.wait()
        await upstreams.close()
        with pytest.raises(UpstreamUnavailable):
            await waiting
        with pytest.raises(UpstreamUnavailable, match="shutting down"):
            await upstreams.manifest(REPOSITORY, "1.0")


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b"{}", UpstreamUnavailable, "answered without a token"),
        (b"[]", UpstreamUnavailable, "answered without a token"),
        (b'{"token":7}', UpstreamUnavailable, "answered without a token"),
        (b'{"token":"a b"}', UpstreamUnavailable, "answered without a token"),
        (b'{"token":"a\\r\\nX-Evil: 1"}', UpstreamUnavailable, "answered without a token"),
        (b'{"a":' * 10_000, UpstreamUnavailable, "answered without a token"),
        (b'{"token":"' + b"x" * (64 << 10) + b'"}', UpstreamMisbehaved, "more than the 65536"),
    ],
)
async def test_answers_that_hold_no_token(body: bytes, error: type[UpstreamError], words: str) -> None:
    """Other documents, tokens that are no header values, and endless ones are refused."""
    async with serve(registry(lambda request: web.Response(body=body))) as server, client(server) as upstreams:
        with pytest.raises(error, match=words):
            await upstreams.manifest(REPOSITORY, "1.0")


async def test_a_web_page_in_place_of_a_token() -> None:
    """A login page is said to be one."""

    def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>log in", content_type="text/html")

    async with serve(registry(page)) as server, client(server) as upstreams:
        with pytest.raises(UpstreamUnavailable, match="it sent a web page"):
            await upstreams.manifest(REPOSITORY, "1.0")


@pytest.mark.parametrize(
    ("status", "settings", "error", "words"),
    [
        (401, SECRET, UpstreamDenied, "refuses the credentials for registry.test (401 UNAUTHORIZED bad)"),
        (403, SECRET, UpstreamDenied, "does not give a token to the configured credentials (403 UNAUTHORIZED bad)"),
        (403, {}, UpstreamDenied, "does not give an anonymous token (403"),
        (400, {}, UpstreamUnavailable, "gave no token (400"),
        (404, SECRET, UpstreamUnavailable, "gave no token (404"),
        (429, {}, UpstreamUnavailable, "answered 429: UNAUTHORIZED bad"),
        (503, SECRET, UpstreamUnavailable, "answered 503"),
    ],
)
async def test_promise_33_refusals_of_the_token_endpoint(
    status: int, settings: dict[str, str], error: type[UpstreamError], words: str
) -> None:
    """Refused credentials, no anonymous access, nonsense and outage are told apart; nothing goes on anonymously."""

    def refuse(request: web.Request) -> web.Response:
        return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "bad"}]}, status=status)

    async with serve(registry(refuse)) as server, client(server, auth=settings) as upstreams:
        with pytest.raises(error) as caught:
            await upstreams.manifest(REPOSITORY, "1.0")
        assert words in str(caught.value)
        assert "secret" not in str(caught.value)
        sent = [each.headers.get("Authorization") for each in server.requests if each.path == "/token"]
        assert sent == [BASIC if settings else None]


async def test_refused_credentials_are_read_again(tmp_path: Path) -> None:
    """A password that was replaced in its file meanwhile is found."""
    path = tmp_path / "pw"
    path.write_text("old")

    def token(request: web.Request) -> web.Response:
        if request.headers["Authorization"] == BASIC:
            return web.json_response({"token": "t"})
        path.write_text("secret")
        return web.Response(status=401)

    async with serve(registry(token)) as server, client(server, auth={"username": "user", "password_file": path}) as upstreams:
        await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == 2


async def test_refused_credentials_that_stay_refused(tmp_path: Path) -> None:
    """Another password that is refused as well ends it."""
    path = tmp_path / "pw"
    path.write_text("old")

    def token(request: web.Request) -> web.Response:
        path.write_text("other")
        return web.Response(status=401)

    async with serve(registry(token)) as server, client(server, auth={"username": "user", "password_file": path}) as upstreams:
        with pytest.raises(UpstreamDenied, match="refuses the credentials"):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == 2


@pytest.mark.parametrize(
    ("realm", "words"),
    [
        (
            "http://localhost:{port}/token",
            r"localhost:{port}/token, but it is not on .* nothing was sent .* add localhost:{port} to `realm_h",
        ),
        ("http://evil@127.0.0.1:{port}/token", "a token endpoint with a user in it"),
        ("ftp://127.0.0.1/token", "a token endpoint that is no http"),
    ],
)
async def test_promise_22_unexpected_realms_are_not_asked(realm: str, words: str) -> None:
    """Neither credentials nor anything else goes there; the error names the place and the way out."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.path)
        return denied(f'Bearer realm="{realm.format(port=request.url.port)}"')

    async with serve(handle) as server, client(server, auth=SECRET) as upstreams:
        with pytest.raises((UpstreamDenied, UpstreamMisbehaved), match=words.replace("{port}", str(server.url.port))):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert asked == ["/v2/team/app/manifests/1.0"]


async def test_a_realm_that_the_configuration_names() -> None:
    """``realm_hosts`` lets credentials go there; a realm with a query keeps it; a service may hold spaces."""
    challenge = 'Bearer realm="http://localhost:{port}/token?a=b%20c",service="a b&c"'

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        if "Authorization" in request.headers:
            return manifest()
        return denied(challenge.format(port=request.url.port))

    async with serve(handle) as server, client(server, auth=SECRET, realm_hosts=["localhost"]) as upstreams:
        await upstreams.manifest(REPOSITORY, "1.0")
        (token,) = (each for each in server.requests if each.path == "/token")
        assert token.raw_path == "/token?a=b%20c&service=a%20b%26c&scope=repository%3Ateam%2Fapp%3Apull"
        assert token.headers["Authorization"] == BASIC


async def test_a_token_endpoint_that_redirects() -> None:
    """A redirect to an expected host is followed with the credentials, one to elsewhere is not, and none without end."""
    goal = "/token/"

    def token(request: web.Request) -> web.Response:
        if request.path == "/token/":
            return web.json_response({"token": "t"})
        return web.Response(status=307, headers={"Location": goal})

    async with serve(registry(token)) as server:
        async with client(server, auth=SECRET) as upstreams:
            await upstreams.manifest(REPOSITORY, "1.0")
            assert [each.headers["Authorization"] for each in server.requests if "token" in each.path] == [BASIC] * 2
        goal = f"http://localhost:{server.url.port}/token/"
        async with client(server, auth=SECRET) as upstreams:
            with pytest.raises(UpstreamDenied, match="not on the registry's own host"):
                await upstreams.manifest(REPOSITORY, "1.0")
        goal = "/token"
        async with client(server, auth=SECRET) as upstreams:
            with pytest.raises(UpstreamUnavailable, match="redirects without end"):
                await upstreams.manifest(REPOSITORY, "1.0")


async def test_the_ping_gives_realm_and_service_but_no_scope() -> None:
    """A 401 without a challenge sends us to ``/v2/``; its placeholder scope is not used."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        if request.path == "/v2/":
            return denied('Bearer realm="/token",service="s",scope="repository:user/image:pull"')
        return manifest() if "Authorization" in request.headers else denied(None)

    async with serve(handle) as server, client(server) as upstreams:
        await upstreams.manifest(REPOSITORY, "1.0")
        (token,) = (each for each in server.requests if each.path == "/token")
        assert token.query == {"service": "s", "scope": "repository:team/app:pull"}
        await upstreams.manifest(REPOSITORY, "2.0")
        assert server.paths("/v2/")[3:] == ["GET /v2/team/app/manifests/2.0"]


async def test_absence_is_believed_only_when_authorized() -> None:
    """With credentials configured, a 404 to a request without them asks the ping how to show them."""

    async def handle(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == BASIC:
            return manifest()
        return denied('Basic realm="x"') if request.path == "/v2/" else web.Response(status=404)

    async with serve(handle) as server, client(server, auth=SECRET) as upstreams:
        assert (await upstreams.manifest(REPOSITORY, "1.0")).body == MANIFEST
        assert server.paths() == ["GET /v2/team/app/manifests/1.0", "GET /v2/", "GET /v2/team/app/manifests/1.0"]
        await upstreams.manifest(Repository.of(NAME, "team/other"), "1.0")
        assert len(server.requests) == 4


async def test_an_open_registry_is_pinged_once() -> None:
    """Where the ping does not challenge, absences are believed for a while without asking it again."""
    clock = Clock()

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.path == "/v2/" else 404)

    async with serve(handle) as server, client(server, auth=SECRET, clock=clock) as upstreams:
        for _ in range(3):
            with pytest.raises(UpstreamError, match="does not exist upstream"):
                await upstreams.manifest(REPOSITORY, "1.0")
        assert server.paths("/v2/").count("GET /v2/") == 1
        clock.now += module.OPEN_FOR + 1
        with pytest.raises(UpstreamError):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert server.paths("/v2/").count("GET /v2/") == 2


async def test_a_ping_that_is_down_is_an_outage() -> None:
    """Without knowing how to authorize, nothing can be told."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=503 if request.path == "/v2/" else 401)

    async with serve(handle) as server, client(server) as upstreams:
        with pytest.raises(UpstreamUnavailable, match="answered 503"):
            await upstreams.manifest(REPOSITORY, "1.0")


async def test_a_stale_token_is_replaced_once_per_request() -> None:
    """A kept token that is refused is replaced; a fresh one that is refused ends it."""
    good = {"Bearer one"}
    handler = registry(tokens("one", "two", "three"), good=lambda header: header in good)
    async with serve(handler) as server, client(server) as upstreams:
        await upstreams.manifest(REPOSITORY, "1.0")
        good = {"Bearer two"}
        await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == 2
        good = set()
        with pytest.raises(UpstreamDenied, match=r"denies access to registry\.test/team/app:1\.0, or it does not exist"):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == 3


async def test_two_requests_with_the_same_stale_token_replace_it_once() -> None:
    """Whoever comes second finds the new one."""
    good, both = {"Bearer one"}, asyncio.Barrier(2)
    give = tokens("one", "two")

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return give(request)
        header = request.headers.get("Authorization", "")
        if header in good:
            return manifest()
        if header == "Bearer one":
            await both.wait()
        return denied('Bearer realm="/token"')

    async with serve(handle) as server, client(server) as upstreams:
        await upstreams.manifest(REPOSITORY, "1.0")
        good = {"Bearer two"}
        await asyncio.gather(*(upstreams.manifest(REPOSITORY, "1.0") for _ in range(2)))
        assert len(server.paths("/token")) == 2


async def test_bearer_may_become_basic_and_back() -> None:
    """A changed scheme is followed, also right after a fresh token."""
    wanted = 'Bearer realm="/token"'

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        if request.headers.get("Authorization", "").startswith(wanted.partition(" ")[0]):
            return manifest()
        return denied(wanted)

    async with serve(handle) as server, client(server, auth=SECRET) as upstreams:
        await upstreams.manifest(REPOSITORY, "1.0")
        wanted = 'Basic realm="x"'
        await upstreams.manifest(REPOSITORY, "1.0")
        wanted = 'Bearer realm="/token"'
        await upstreams.manifest(REPOSITORY, "1.0")
        assert [each.headers.get("Authorization") for each in server.requests if each.path.startswith("/v2/")] == [
            None,
            "Bearer t",
            "Bearer t",
            BASIC,
            BASIC,
            "Bearer t",
        ]


async def test_an_anonymous_client_is_not_led_to_basic() -> None:
    """Without credentials a Basic challenge to a stale token is answered by another token."""
    good = {"Bearer one"}
    give = tokens("one", "two")

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return give(request)
        header = request.headers.get("Authorization", "")
        if header in good:
            return manifest()
        return denied('Basic realm="x"' if header else 'Bearer realm="/token"')

    async with serve(handle) as server, client(server) as upstreams:
        await upstreams.manifest(REPOSITORY, "1.0")
        good = {"Bearer two"}
        await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == 2


async def test_basic_credentials_that_are_wrong() -> None:
    """They are tried once, and the error says that they were there."""

    async def handle(request: web.Request) -> web.Response:
        return denied('Basic realm="x"')

    async with serve(handle) as server, client(server, auth=SECRET) as upstreams:
        with pytest.raises(UpstreamDenied, match="with the configured credentials"):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert [each.headers.get("Authorization") for each in server.requests] == [None, BASIC]
        with pytest.raises(UpstreamDenied):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.requests) == 3


async def test_basic_without_credentials() -> None:
    """There is nothing to answer with."""

    async def handle(request: web.Request) -> web.Response:
        return denied('Basic realm="x"')

    async with serve(handle) as server, client(server) as upstreams:
        with pytest.raises(UpstreamDenied, match="asked anonymously"):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert server.paths() == ["GET /v2/team/app/manifests/1.0", "GET /v2/"]


async def test_lists_of_tags_have_a_scope_of_their_own() -> None:
    """A registry that wants another scope for tags is not asked to change its mind each time."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": request.query["scope"].replace(" ", "")})
        action = "metadata_read" if request.path.endswith("/list") else "pull"
        if request.headers.get("Authorization") != f"Bearer repository:team/app:{action}":
            return denied(f'Bearer realm="/token",scope="repository:team/app:{action}"')
        return web.json_response({"tags": ["1.0"]}) if action != "pull" else manifest()

    async with serve(handle) as server, client(server) as upstreams:
        for _ in range(3):
            await upstreams.manifest(REPOSITORY, "1.0")
            await upstreams.tags(REPOSITORY)
        assert len(server.paths("/token")) == 2
        assert len(server.paths("/v2/")) == 8


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever new repositories do not make tokens and challenges grow without end."""
    monkeypatch.setattr(module, "MAX_TOKENS", 2)
    monkeypatch.setattr(module, "MAX_CHALLENGES", 2)
    async with serve(registry(tokens("t"), 'Bearer realm="/token"')) as server, client(server) as upstreams:
        for number in range(4):
            await upstreams.manifest(Repository.of(NAME, f"team/app{number}"), "1.0")
        assert len(server.requests) == 12
        await upstreams.manifest(Repository.of(NAME, "team/app3"), "1.0")
        assert len(server.requests) == 13
        await upstreams.manifest(Repository.of(NAME, "team/app0"), "1.0")
        assert len(server.requests) == 16


async def test_a_slow_helper_does_not_outlast_the_request(tmp_path: Path) -> None:
    """Credentials that do not come in time are an outage of our own."""
    program = tmp_path / "docker-credential-slow"
    program.write_text("#!/bin/sh\nexec sleep 30\n")
    program.chmod(0o755)
    settings: dict[str, Any] = {"auth": {"helper": "slow"}, "environment": {"PATH": f"{tmp_path}:/usr/bin:/bin"}}
    limits = {"request_timeout": 1.0}
    async with serve(registry(tokens("t"))) as server, client(server, limits=limits, **settings) as upstreams:
        with pytest.raises(UpstreamUnavailable, match=r"no credentials for registry\.test in time"):
            await upstreams.manifest(REPOSITORY, "1.0")


async def test_a_redirect_target_that_challenges_for_elsewhere() -> None:
    """Another host's challenge is answered from that host only; a realm elsewhere leaves its 401 standing."""

    async def elsewhere(request: web.Request) -> web.Response:
        return denied('Bearer realm="http://127.0.0.1:1/token", Basic realm="x"')

    async with serve(elsewhere, host="127.0.0.2") as second:

        async def handle(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{second.url}/there?sig=secret"})

        async with serve(handle) as server, client(server, auth=SECRET) as upstreams:
            with pytest.raises(UpstreamUnavailable, match=r"where registry\.test redirects for .*, answers 401") as caught:
                await upstreams.manifest(REPOSITORY, Digest.of(MANIFEST))
            assert "sig=" not in str(caught.value)
            assert all("Authorization" not in each.headers for each in second.requests)


def server_paths(server: Server) -> list[str]:
    """Paths only."""
    return [each.path for each in server.requests]


async def test_an_identity_token_is_never_posted_after_a_redirect(tmp_path: Path) -> None:
    """A redirect in answer to the POST is not followed: the refresh token stays where it was meant to go."""
    (tmp_path / "token").write_text("refresh")

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.Response(status=307, headers={"Location": "/other"})
        return denied('Bearer realm="/token"')

    async with serve(handle) as server, client(server, auth={"identity_token_file": tmp_path / "token"}) as upstreams:
        with pytest.raises(UpstreamUnavailable, match="gave no token"):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert "/other" not in server_paths(server)

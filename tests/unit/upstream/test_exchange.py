"""A request as a whole: trying again, redirects, rate limits, the breaker, against small servers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from proxy.errors import UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.upstream import exchange as module
from proxy.upstream.client import Allowance
from tests.tools import SOON
from tests.unit.upstream.servers import BLOB, LAYER, MANIFEST, REPOSITORY, Clock, Handler, client, manifest, serve


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses between attempts."""
    monkeypatch.setattr(module, "BACKOFF", 0.005)


def failing(*statuses: int, **headers: str) -> Handler:
    """These statuses one after the other, then a manifest."""
    left = list(statuses)

    async def handle(request: web.Request) -> web.Response:
        if left:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            return web.Response(status=left.pop(0), text="sorry https://x.example/?sig=secret", headers=named)
        return manifest()

    return handle


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520])
async def test_promise_33_outages_are_tried_again(status: int) -> None:
    """As often as the setting says; then the last one is told, without query strings."""
    async with serve(failing(status, status)) as server, client(server, retries=2) as upstreams:
        assert (await upstreams.manifest(REPOSITORY, "1.0")).body == MANIFEST
        assert len(server.requests) == 3
    async with serve(failing(*[status] * 9)) as server, client(server, retries=2) as upstreams:
        with pytest.raises(UpstreamUnavailable, match=rf"answered {status} sorry https://x\.example/$"):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, UpstreamDenied, "denies access .*asked anonymously"),
        (403, UpstreamDenied, "denies access"),
        (451, UpstreamDenied, "denies access"),
        (404, UpstreamError, "does not exist upstream"),
        (400, UpstreamUnavailable, "answered 400 .*says nothing clear"),
        (410, UpstreamUnavailable, "answered 410"),
        (204, UpstreamUnavailable, "answered 204"),
        (501, UpstreamUnavailable, "answered 501"),
        (304, UpstreamUnavailable, "answered 304"),
    ],
)
async def test_promise_33_refusals_are_not_tried_again(status: int, error: type[UpstreamError], words: str) -> None:
    """What is an answer is taken as one: asked once (and, for a 401, the ping)."""
    async with serve(failing(*[status] * 9)) as server, client(server, retries=3) as upstreams:
        with pytest.raises(error, match=words):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/v2/team/")) == 1


async def test_a_405_that_is_a_denial() -> None:
    """Some say DENIED with another status; the code tells."""

    async def handle(request: web.Request) -> web.Response:
        return web.json_response({"errors": [{"code": "DENIED", "message": "namespace disabled"}]}, status=405)

    async with serve(handle) as server, client(server) as upstreams:
        with pytest.raises(UpstreamDenied, match="405 DENIED namespace disabled"):
            await upstreams.manifest(REPOSITORY, "1.0")


async def test_promise_33_retry_after_is_obeyed() -> None:
    """A short wait is waited, a long one is told to the caller at once, capped."""
    async with serve(failing(429, Retry_After="1")) as server, client(server, retries=3) as upstreams:
        began = asyncio.get_running_loop().time()
        await upstreams.manifest(REPOSITORY, "1.0")
        assert asyncio.get_running_loop().time() - began >= 1.0
    async with serve(failing(429, Retry_After="1000")) as server, client(server, retries=3) as upstreams:
        with pytest.raises(UpstreamUnavailable) as caught:
            await upstreams.manifest(REPOSITORY, "1.0")
        assert (caught.value.retry_after, len(server.requests)) == (60.0, 1)


async def test_there_is_a_budget() -> None:
    """Attempts end when the time for an answer is over, however many are left."""

    async def handle(request: web.Request) -> web.Response:
        await asyncio.sleep(0.15)
        return web.Response(status=503)

    async with (
        serve(handle) as server,
        client(server, retries=10, limits={"request_timeout": 0.6}, breaker_failures=99) as upstreams,
    ):
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamUnavailable):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert asyncio.get_running_loop().time() - began < SOON
        assert 1 <= len(server.requests) <= 5


async def test_the_breaker_leaves_a_failing_upstream_alone() -> None:
    """After some failures in a row it is not asked; after the cool-down one request tries."""
    clock = Clock()
    async with (
        serve(failing(503, 503, 503, Retry_After="30")) as server,
        client(server, clock=clock, breaker_failures=3, breaker_cooldown=10) as upstreams,
    ):
        for _ in range(5):
            with pytest.raises(UpstreamUnavailable):
                await upstreams.head(REPOSITORY, "1.0")
        assert len(server.requests) == 3
        (status,) = upstreams.status()
        assert (status.name, status.breaker, status.retry_after) == ("registry.test", "open", 30.0)
        assert status.last_error is not None
        assert "answered 503" in status.last_error
        clock.now += 31
        assert upstreams.status()[0].breaker == "half-open"
        await upstreams.manifest(REPOSITORY, "1.0")
        assert upstreams.status()[0].breaker == "closed"


async def test_the_rate_limit_is_noted() -> None:
    """What the upstream says is left; nonsense changes nothing."""
    said = ["99;w=21600", "98", "many", "²"]

    async def handle(request: web.Request) -> web.Response:
        return manifest(RateLimit_Remaining=said.pop(0))

    async with serve(handle) as server, client(server) as upstreams:
        assert upstreams.status()[0].remaining is None
        for expected in (99, 98, 98):
            await upstreams.manifest(REPOSITORY, "1.0")
            assert upstreams.status()[0].remaining == expected


async def test_how_often_it_may_be_asked_is_known() -> None:
    """The limit with its window as the upstream says it; without it, the most that was ever left."""
    said: list[tuple[dict[str, Any], tuple[int, int, float]]] = [
        ({"RateLimit_Remaining": "40"}, (40, 40, 0.0)),
        ({"RateLimit_Remaining": "39"}, (39, 40, 0.0)),
        ({"RateLimit_Remaining": "38;w=21600", "RateLimit_Limit": "100;w=21600"}, (38, 100, 21600.0)),
        ({"RateLimit_Remaining": "37", "RateLimit_Limit": "100;policy=x"}, (37, 100, 0.0)),
        ({"RateLimit_Limit": "7"}, (37, 100, 0.0)),
    ]
    answers = [headers for headers, _ in said]

    async def handle(request: web.Request) -> web.Response:
        return manifest(**answers.pop(0))

    async with serve(handle) as server, client(server) as upstreams:
        assert upstreams.allowance("registry.test") == Allowance()
        for _, expected in said:
            await upstreams.manifest(REPOSITORY, "1.0")
            allowance = upstreams.allowance("registry.test")
            assert (allowance.remaining, allowance.limit, allowance.window) == expected
        with pytest.raises(KeyError):
            upstreams.allowance("elsewhere.test")


@pytest.mark.parametrize(("said", "least"), [({"Retry_After": "40"}, 30.0), ({}, 20.0)])
async def test_too_many_requests_are_a_reason_to_pause(said: dict[str, str], least: float) -> None:
    """For as long as a 429 says, or a while; other outages say nothing of how often it may be asked."""
    async with serve(failing(429, **said)) as server, client(server, retries=0) as upstreams:
        with pytest.raises(UpstreamUnavailable):
            await upstreams.head(REPOSITORY, "1.0")
        allowance = upstreams.allowance("registry.test")
        assert allowance.refusals == 1
        assert least < allowance.pause <= 40
    async with serve(failing(503)) as server, client(server, retries=0, breaker_failures=9) as upstreams:
        with pytest.raises(UpstreamUnavailable):
            await upstreams.head(REPOSITORY, "1.0")
        assert upstreams.allowance("registry.test") == Allowance()


async def test_too_many_requests_in_the_background_are_no_trouble_of_those_who_wait() -> None:
    """Where nobody waits, a 429 is the answer: it is not tried again, and however often it comes, others are let through."""
    calls: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        calls.append(request.method)
        return web.Response(status=429 if len(calls) <= 9 else 200, body=b"{}", headers={"Retry-After": "0"})

    async with serve(handle) as server, client(server, retries=3, breaker_failures=2) as upstreams:
        for _ in range(3):
            for asked in (upstreams.named, upstreams.manifest):
                with pytest.raises(UpstreamUnavailable, match="429"):
                    await asked(REPOSITORY, "1.0", background=True)
            with pytest.raises(UpstreamUnavailable, match="429"):
                await upstreams.tags(REPOSITORY, background=True)
        assert len(calls) == 9
        assert upstreams.allowance("registry.test").refusals == 9
        assert upstreams.status()[0].breaker == "closed"
        assert (await upstreams.manifest(REPOSITORY, "1.0")).body == b"{}"


async def test_outages_in_the_background_count() -> None:
    """What is down is down for all: they are tried again, and open the breaker."""
    async with serve(failing(503, 503)) as server, client(server, retries=1, breaker_failures=2) as upstreams:
        with pytest.raises(UpstreamUnavailable, match="503"):
            await upstreams.named(REPOSITORY, "1.0", background=True)
        assert upstreams.status()[0].breaker == "open"


async def test_an_open_breaker_is_a_reason_to_pause() -> None:
    """Until the upstream is tried again, whoever has time need not ask."""
    clock = Clock()
    async with (
        serve(failing(503)) as server,
        client(server, clock=clock, retries=0, breaker_failures=1, breaker_cooldown=10) as upstreams,
    ):
        with pytest.raises(UpstreamUnavailable):
            await upstreams.head(REPOSITORY, "1.0")
        assert upstreams.allowance("registry.test").pause == 10
        clock.now += 11
        assert upstreams.allowance("registry.test").pause == 0


# -- redirects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_redirects_are_followed_with_their_method(status: int, method: str) -> None:
    """All five, within the origin with Authorization, relative and byte for byte."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="/token"'})
        if request.path.startswith("/v2/"):
            return web.Response(status=status, headers={"Location": "/there/a%2Fb?sig=a%2Bb%2F%3D&x=~+"})
        return manifest(Docker_Content_Digest=str(LAYER.digest) if method == "HEAD" else "")

    async with serve(handle) as server, client(server) as upstreams:
        if method == "HEAD":
            assert await upstreams.head(REPOSITORY, "1.0") == LAYER.digest
        else:
            await upstreams.manifest(REPOSITORY, "1.0")
        last = server.requests[-1]
        assert (last.method, last.raw_path) == (method, "/there/a%2Fb?sig=a%2Bb%2F%3D&x=~+")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        (None, "a redirect that is no URL"),
        ("ftp://x/", "no http"),
        ("http://user:pw@127.0.0.2/", "with a user in it, to http://127.0.0.2/"),
        ("", "a redirect that is no URL"),
        ("?again", "redirects in a circle"),
    ],
)
async def test_promise_23_redirects_that_are_refused(location: str | None, words: str) -> None:
    """Without a target, to another scheme, with a user, in a circle."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={} if location is None else {"Location": location})

    async with serve(handle) as server, client(server) as upstreams:
        with pytest.raises(UpstreamMisbehaved, match=words):
            await upstreams.manifest(REPOSITORY, "1.0")


async def test_promise_23_endless_redirects() -> None:
    """No more than the setting says."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"/{len(request.path)}{request.path}"})

    async with serve(handle) as server, client(server, limits={"redirects": 3}) as upstreams:
        with pytest.raises(UpstreamMisbehaved, match="redirects more than 3 times"):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.requests) == 4


async def test_a_target_with_a_token_of_its_own() -> None:
    """Another host that challenges gets an anonymous token from itself, and only that."""

    async def elsewhere(request: web.Request) -> web.Response:
        if request.path == "/auth":
            return web.json_response({"token": "theirs"})
        if request.headers.get("Authorization") == "Bearer theirs":
            return manifest()
        return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="/auth",service="s",scope="a"'})

    async with serve(elsewhere, host="127.0.0.2") as second:

        async def handle(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{second.url}{request.path}"})

        auth = {"username": "u", "password": "p"}
        async with serve(handle) as server, client(server, auth=auth) as upstreams:
            for _ in range(2):
                assert (await upstreams.manifest(REPOSITORY, "1.0")).body == MANIFEST
            assert [each.path for each in second.requests].count("/auth") == 1
            assert "Authorization" not in second.requests[0].headers
            asked = next(each for each in second.requests if each.path == "/auth")
            assert (asked.query_string, "Authorization" in asked.headers) == ("service=s&scope=a", False)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_spent_url_leads_back_once(status: int) -> None:
    """A target that refuses sends us back to the registry for another; one that refuses again ends it as what it is."""
    refusals = 1

    async def elsewhere(request: web.Request) -> web.Response:
        nonlocal refusals
        refusals -= 1
        return web.Response(status=status) if refusals >= 0 else web.Response(body=BLOB)

    async with serve(elsewhere, host="127.0.0.2") as second:

        async def handle(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"{second.url}/x?sig={len(second.requests)}"})

        async with serve(handle) as server, client(server) as upstreams:
            async with upstreams.blob(REPOSITORY, LAYER) as stream:
                assert b"".join([piece async for piece in stream.chunks()]) == BLOB
            assert [each.raw_path for each in second.requests] == ["/x?sig=0", "/x?sig=1"]
            refusals = 9
            with pytest.raises(
                UpstreamError, match="does not exist" if status == 404 else rf"redirects for .*, answers {status}"
            ):
                async with upstreams.blob(REPOSITORY, LAYER):
                    pass
            assert len(second.requests) == 4


@pytest.mark.parametrize(
    ("status", "body", "asked"),
    [
        (400, {"code": "DENIED", "message": "Your Authorization Token is invalid."}, 2),
        (403, {"code": "DENIED", "message": "Your authorization token has expired. Reauthenticate and try again."}, 2),
        (403, {"code": "DENIED", "message": "requested access to the resource is denied"}, 1),
        (404, {"code": "MANIFEST_UNKNOWN", "message": "token expired"}, 1),
    ],
)
async def test_words_that_renew_a_token(status: int, body: dict[str, Any], asked: int) -> None:
    """A 400 or 403 that speaks of the token earns another one, once; other refusals do not."""

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"token": "t"})
        if "Authorization" not in request.headers:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="/token"'})
        return web.json_response({"errors": [body]}, status=status)

    async with serve(handle) as server, client(server) as upstreams:
        with pytest.raises(UpstreamError):
            await upstreams.manifest(REPOSITORY, "1.0")
        assert len(server.paths("/token")) == asked

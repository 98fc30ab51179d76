"""Lookasides as HTTP servers: what is asked, what each answer means, and where nothing is asked."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp.abc
import pytest
import trustme
from aiohttp import web

from proxy.content import Lookaside
from proxy.errors import UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamOversized, UpstreamUnavailable
from proxy.settings import Limits
from proxy.upstream.client import Upstreams
from storage.digest import Digest
from storage.reference import Repository
from tests.tools import SOON
from tests.unit.upstream.servers import Handler, serve

REPOSITORY = Repository.of("docker.io", "nginx")
DIGEST = Digest.of(b"manifest")


def files(*signatures: bytes) -> Handler:
    """A server that has these."""

    async def handle(request: web.Request) -> web.Response:
        number = int(request.path.rpartition("-")[2])
        return web.Response(body=signatures[number - 1]) if number <= len(signatures) else web.Response(status=404)

    return handle


def always(**answer: Any) -> Handler:
    """A server that says the same to everybody."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(**answer)

    return handle


def asking(resolver: aiohttp.abc.AbstractResolver | None = None, **limits: Any) -> Upstreams:
    """A client with credentials in its environment, none of which are a lookaside's."""
    named = {"TAGSTONE_DOCKER_IO_USERNAME": "u", "TAGSTONE_DOCKER_IO_PASSWORD": "p"}
    return Upstreams({}, Limits(**limits), user_agent="tagstone/test", environment=named, resolver=resolver)


async def everything(upstreams: Upstreams, place: Lookaside, limit: int = 1000) -> list[bytes | UpstreamOversized]:
    """All signatures of the image."""
    try:
        async with aclosing(upstreams.lookaside(REPOSITORY, DIGEST, place, limit)) as signatures:
            return [each async for each in signatures]
    finally:
        await upstreams.close()


async def test_signatures_are_asked_for_until_one_is_not_there() -> None:
    """By path and digest alone, one after the other, without credentials."""
    async with serve(files(b"one", b"two")) as server:
        base = f"http://127.0.0.1:{server.url.port}/content/sigstore"
        assert await everything(asking(), Lookaside(base, allow_private=True)) == [b"one", b"two"]
        folder = f"/content/sigstore/library/nginx@sha256={DIGEST.hex}"
        assert server.paths() == [f"GET {folder}/signature-{number}" for number in (1, 2, 3)]
        assert not any("Authorization" in request.headers for request in server.requests)


async def test_who_wants_no_more_asks_for_no_more() -> None:
    """The next one is asked for when it is wanted."""
    async with serve(files(b"one", b"two")) as server:
        upstreams = asking()
        place = Lookaside(str(server.url.origin()), allow_private=True)
        async with aclosing(upstreams.lookaside(REPOSITORY, DIGEST, place, 1000)) as signatures:
            assert await anext(signatures) == b"one"
        await upstreams.close()
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ({"status": 500}, UpstreamUnavailable, "answered 500"),
        ({"status": 503, "headers": {"Retry-After": "7"}}, UpstreamUnavailable, "answered 503"),
        ({"status": 410}, UpstreamUnavailable, "which says nothing clear"),
        ({"status": 204}, UpstreamUnavailable, "which says nothing clear"),
        ({"status": 403}, UpstreamDenied, "denies access to signature 1 of docker.io/library/nginx"),
        ({"status": 401, "headers": {"WWW-Authenticate": "Basic"}}, UpstreamDenied, "asked anonymously"),
        ({"body": b"<html>", "content_type": "text/html"}, UpstreamUnavailable, "a web page instead of a signature"),
        ({"body": b"x", "headers": {"Content-Encoding": "br"}}, UpstreamMisbehaved, "an encoded body"),
        ({"status": 302, "headers": {"Location": "/"}}, UpstreamMisbehaved, "redirects in a circle"),
        ({"status": 302, "headers": {"Location": "ftp://x"}}, UpstreamMisbehaved, "no http"),
    ],
)
async def test_only_404_is_an_absence(answer: dict[str, Any], error: type[UpstreamError], told: str) -> None:
    """Everything else is raised, in words."""
    async with serve(always(**answer)) as server:
        with pytest.raises(error, match=told) as raised:
            await everything(asking(), Lookaside(str(server.url.origin()), allow_private=True))
        if isinstance(raised.value, UpstreamUnavailable) and answer["status" if "status" in answer else "body"] == 503:
            assert raised.value.retry_after == 7


async def test_nobody_there_is_an_outage() -> None:
    """A connection that is refused says nothing."""
    async with serve(files()) as server:
        port = server.url.port
    with pytest.raises(UpstreamUnavailable):
        await everything(asking(), Lookaside(f"http://127.0.0.1:{port}", allow_private=True))


class _Resolver(aiohttp.abc.AbstractResolver):
    """Every name is this machine's."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


async def test_what_is_too_large_hides_nothing_behind_it() -> None:
    """An error stands in its place, and the next one follows."""
    async with serve(files(b"one", bytes(1001), b"three")) as server:
        found = await everything(asking(), Lookaside(str(server.url.origin()), allow_private=True))
    assert (found[0], found[2], len(found)) == (b"one", b"three", 3)
    assert "announced 1001 bytes, more than the 1000 that are allowed" in str(found[1])


async def test_private_addresses_are_not_asked() -> None:
    """Neither by number nor by a name that leads there, unless it is allowed; nothing arrives."""
    async with serve(files(b"one")) as server:
        port = server.url.port
        for url in (f"http://127.0.0.1:{port}", f"http://sigs.example:{port}"):
            with pytest.raises(UpstreamMisbehaved, match="allow_private"):
                await everything(asking(_Resolver()), Lookaside(url))
        assert server.requests == []
        assert await everything(asking(_Resolver()), Lookaside(f"http://sigs.example:{port}", allow_private=True)) == [b"one"]


async def test_its_own_authorities_are_trusted(tmp_path: Path) -> None:
    """``ca`` instead of the system's; without it the certificate is none that anybody knows."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with serve(files(b"one"), tls=tls) as server:
        url = f"https://127.0.0.1:{server.url.port}"
        assert await everything(asking(), Lookaside(url, allow_private=True, ca=tmp_path / "ca.pem")) == [b"one"]
        with pytest.raises(UpstreamUnavailable, match="certificate"):
            await everything(asking(), Lookaside(url, allow_private=True))


async def test_one_lookaside_does_not_wait_for_another() -> None:
    """Each has its own connections and its own breaker."""
    async with serve(always(status=500)) as broken, serve(files(b"one")) as whole:
        upstreams = asking()
        bad, good = (Lookaside(str(each.url.origin()), allow_private=True) for each in (broken, whole))
        for _ in range(4):
            async with aclosing(upstreams.lookaside(REPOSITORY, DIGEST, bad, 10)) as signatures:
                with pytest.raises(UpstreamUnavailable):
                    await anext(signatures)
        asked = len(broken.requests)
        assert asked <= 6  # five in a row, and then it is left alone
        async with asyncio.timeout(SOON), aclosing(upstreams.lookaside(REPOSITORY, DIGEST, good, 10)) as signatures:
            assert await anext(signatures) == b"one"
        await upstreams.close()

"""Servers that certificates name: asked by the rules for strangers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from proxy.errors import UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import Limits
from proxy.upstream.revocation import RevocationServers
from tests.tools import SOON
from tests.unit.upstream.servers import Handler, raw, serve

BODY = b"an answer"


@asynccontextmanager
async def servers() -> AsyncIterator[RevocationServers]:
    """The client, closed at the end."""
    made = RevocationServers(Limits(), user_agent="tagstone/test")
    try:
        yield made
    finally:
        await made.close()


async def ask(
    url: object, question: bytes | None = None, *, limit: int = 1000, seconds: float = 5.0, private: bool = True
) -> bytes:
    """One question."""
    async with servers() as client:
        by = asyncio.get_running_loop().time() + seconds
        return await client.ask(str(url), question, limit, by, private=private)


async def good(_: web.Request) -> web.Response:
    """An honest server."""
    return web.Response(body=BODY)


def redirects(*statuses: int) -> Handler:
    """Redirects with these statuses, one after the other; then answers."""
    left = list(statuses)

    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=left.pop(0), headers={"Location": "/next"}) if left else await good(request)

    return handle


async def test_lists_and_questions() -> None:
    """A list is got; a question is posted, with nothing beside it."""
    bodies: list[bytes] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        bodies.append(await request.read())
        return web.Response(body=BODY)

    async with serve(handle) as server:
        assert await ask(server.url / "list.crl") == BODY
        assert await ask(server.url / "ocsp", b"a question") == BODY
        assert server.paths() == ["GET /list.crl", "POST /ocsp"]
        assert bodies == [b"", b"a question"]
        assert server.requests[1].headers["Content-Type"] == "application/ocsp-request"
        assert not {"Authorization", "Cookie"} & {*server.requests[1].headers}


async def test_answers_are_bounded() -> None:
    """To the byte, whatever the server says of their length."""
    async with serve(good) as server:
        assert await ask(server.url, limit=len(BODY)) == BODY
        with pytest.raises(UpstreamMisbehaved, match="more than the 8"):
            await ask(server.url, limit=len(BODY) - 1)
    async with raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000) as url:
        with pytest.raises(UpstreamMisbehaved, match="more than the 1000"):
            await ask(url)


@pytest.mark.parametrize("status", [204, 404, 500, 503])
async def test_other_statuses_are_no_answer(status: int) -> None:
    """Only 200 is."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serve(handle) as server:
        with pytest.raises(UpstreamUnavailable, match=f"answered {status}"):
            await ask(server.url)


@pytest.mark.parametrize(
    ("question", "statuses", "asked"),
    [(None, (301, 302, 303, 307, 308), 6), (b"q", (307, 308), 3), (None, (302,) * 6, 0), (b"q", (302,), 0), (b"q", (303,), 0)],
)
async def test_redirects(question: bytes | None, statuses: tuple[int, ...], asked: int) -> None:
    """A few are followed, a question by those alone that keep it."""
    async with serve(redirects(*statuses)) as server:
        if asked:
            assert await ask(server.url, question) == BODY
            assert len(server.requests) == asked
            assert {each.method for each in server.requests} == {"GET" if question is None else "POST"}
        else:
            with pytest.raises(UpstreamError):
                await ask(server.url, question)


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::ffff:127.0.0.1]:{port}/"])
async def test_private_addresses_are_not_dialled(target: str) -> None:
    """Unless the store allows it; the error says how."""
    async with serve(good) as server:
        url = target.format(port=server.url.port)
        with pytest.raises(UpstreamMisbehaved, match=r"not a public address; .*`allow_private: true` for the notation store"):
            await ask(url, private=False)
        assert server.requests == []


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/", "file:///etc/passwd", "http://user@127.0.0.1/", "gopher://x.test/", ""]
)
async def test_redirects_lead_nowhere_else(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to a private address, nor to another scheme, nor with a user."""
    from proxy.upstream import network

    judge = network.is_public
    monkeypatch.setattr(network, "is_public", lambda text: text == "127.0.0.1" or judge(text))

    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    async with serve(handle) as server:
        with pytest.raises(UpstreamMisbehaved):
            await ask(server.url, private=False)
        assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["", "no url", "http://", "http://user:word@x.test/", "http://x.test:0/", "http://\x7f/"])
async def test_what_is_no_url(url: str) -> None:
    """Certificates may say anything."""
    with pytest.raises(UpstreamError):
        await ask(url)


async def test_slow_servers() -> None:
    """Until the time is over, and not longer, wherever it is spent."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    for pieces in ((30.0,), (head, b"x", 30.0)):
        async with raw(*pieces) as url:
            begun = asyncio.get_running_loop().time()
            with pytest.raises(UpstreamUnavailable):
                await ask(url, seconds=0.3)
            assert asyncio.get_running_loop().time() - begun < SOON
    async with raw() as url:
        gone = url
    with pytest.raises(UpstreamUnavailable, match="refuses connections"):
        await ask(gone)

"""Small servers for the tests here: one handler behind every path, a byte-for-byte one, a clock that is turned by hand."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from yarl import URL

from proxy.settings import Limits, Upstream
from proxy.upstream.client import Upstreams
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository

NAME = "registry.test"
REPOSITORY = Repository.of(NAME, "team/app")
MANIFEST = b'{"schemaVersion":2}'
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
BLOB = bytes(range(256)) * 16
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", Digest.of(BLOB), len(BLOB))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Server:
    """A running server: where it is, and what was asked of it."""

    url: URL
    requests: list[web.BaseRequest] = field(default_factory=list)

    def paths(self, start: str = "") -> list[str]:
        """Method and raw path of each request, of those whose path starts so."""
        return [f"{each.method} {each.path_qs}" for each in self.requests if each.path.startswith(start)]

    def upstream(self, **settings: Any) -> Upstream:
        """Settings for this server as an upstream."""
        return Upstream.model_validate({"url": str(self.url.origin()), "allow_private": True, "retries": 0, **settings})


@asynccontextmanager
async def serve(handler: Handler, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve every path by ``handler``."""
    server = Server(URL())

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        server.requests.append(request)
        return await handler(request)  # type: ignore[arg-type]  # what a handler uses is common to both

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    server.url = URL(f"{'https' if tls else 'http'}://{host}:{port}")
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw(*pieces: bytes | float, hold: bool = False) -> AsyncIterator[URL]:
    """A server that sends these bytes to every request, sleeping where a number stands; ``hold`` keeps the connection open."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                if isinstance(piece, bytes):
                    writer.write(piece)
                    await writer.drain()
                else:
                    await asyncio.sleep(piece)
            if hold:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def client(
    server: Server | URL, *, limits: dict[str, Any] | None = None, clock: Callable[[], float] | None = None, **settings: Any
) -> AsyncIterator[Upstreams]:
    """A client of one upstream at ``server``, loopback allowed, without retries unless told."""
    place = server if isinstance(server, Server) else Server(server)
    more: dict[str, Any] = {} if clock is None else {"clock": clock}
    for key in ("resolver", "environment"):
        if key in settings:
            more[key] = settings.pop(key)
    built = Upstreams({NAME: place.upstream(**settings)}, Limits(**(limits or {})), user_agent="tagstone/test", **more)
    try:
        yield built
    finally:
        await built.close()


def manifest(body: bytes = MANIFEST, media_type: str = MANIFEST_TYPE, **headers: str) -> web.Response:
    """A manifest's answer; header names with underscores for dashes."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return web.Response(body=body, content_type=media_type, headers=named)


def denied(challenge: str | None, status: int = 401, body: str = "") -> web.Response:
    """A refusal with a challenge."""
    return web.Response(status=status, text=body, headers={} if challenge is None else {"WWW-Authenticate": challenge})

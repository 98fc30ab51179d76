"""One listening address on aiohttp's low-level server: start, drain, and no patience with clients that never ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.settings import Limits

#: A connection must bring its first whole request within this many seconds (slowloris).
_FIRST_REQUEST = 20.0
#: Idle connections are closed after this long; partial requests on them, too.
_KEEPALIVE = 75.0

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Server(web.Server):
    """Closes connections on which no request arrives in time."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(self._handle, keepalive_timeout=_KEEPALIVE, access_log=None, auto_decompress=False)
        self._answer = handler
        self._waiting: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._waiting and (timer := self._waiting.pop(request.protocol, None)) is not None:
            timer.cancel()
        return await self._answer(request)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """See aiohttp: a client has connected."""
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        self._waiting[handler] = loop.call_later(_FIRST_REQUEST, self._give_up, handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """See aiohttp: a client has gone."""
        if (timer := self._waiting.pop(handler, None)) is not None:
            timer.cancel()
        super().connection_lost(handler, exc)

    def _give_up(self, handler: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
        self._waiting.pop(handler, None)
        transport.abort()


class Listener:
    """One address (port 0: any free one). ``reuse_port`` lets several processes listen on it."""

    def __init__(self, handler: Handler, host: str, port: int, limits: Limits, *, reuse_port: bool = False) -> None:
        self._host = host
        self._port = port
        self._handler = handler
        self._limits = limits
        self._reuse_port = reuse_port
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        runner = web.ServerRunner(_Server(self._handler), shutdown_timeout=self._limits.drain_timeout)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, reuse_port=self._reuse_port, backlog=1024).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._runner is None or not self._runner.addresses:
            return self._port
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening; answers in flight have ``limits.drain_timeout`` to end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

"""One listening address on aiohttp's low-level server: TLS, start, drain, no patience with clients that do not ask or read."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.services.watched import FileWatch
from proxy.settings import Limits
from proxy.web.places import Places, neighbourhood
from proxy.web.tls import ServerTls

log = structlog.get_logger("tagstone.listener")
_log = logging.getLogger("tagstone.listener")  # aiohttp's, of which warnings are forwarded
#: Bytes that are read ahead of what was asked for, on each connection.
_READ_BUFFER = 64 << 10


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _ServerLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp has to say. A request that cannot be read is the client's error, and its bytes, secrets perhaps, stay out."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **more: Any) -> None:
        """Log an error, unless it is the client's."""
        if isinstance(exc_info, HttpProcessingError):
            self.debug("a request cannot be read: %s", type(exc_info).__name__)
        else:
            super().exception(msg, *args, exc_info=exc_info, **more)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a connection has from the moment in which it is accepted until it ends."""

    whose: str  #: to whose share it counts
    until: float  #: when its first request has to be there, by the loop's clock


class _Request(web.BaseRequest):
    """A request whose answer says nothing of the software that gives it, nor of its version."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.pop(hdrs.SERVER, None)  # aiohttp has put its own there just now


class _Server(web.Server):
    """Closes connections on which no request arrives in time, or whose client takes no bytes for ``stall`` seconds."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        super().__init__(
            self._handle,
            request_factory=functools.partial(_Request, loop=asyncio.get_running_loop()),
            keepalive_timeout=limits.client_idle_timeout,
            access_log=None,
            auto_decompress=False,
            logger=_ServerLog(_log),
            max_line_size=limits.client_header_size,
            max_field_size=limits.client_header_size,
            max_headers=limits.client_headers,
            read_bufsize=_READ_BUFFER,
        )
        self._answer = handler
        self._limits = limits
        each = limits.client_connections_each or (limits.client_connections + 1) // 2
        self._places = Places(limits.client_connections, each)
        # A place is in one of these, and whoever takes it out there gives it back.
        self._arriving: dict[asyncio.BaseProtocol, _Place] = {}  #: until the TLS handshake is over
        self._held: dict[asyncio.BaseProtocol, _Place] = {}
        self._handshakes: set[asyncio.Task[None]] = set()
        self._closing = False
        self._busy: set[asyncio.BaseProtocol] = set()
        self._waiting: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    def adopt(self, handler: Handler) -> None:
        """Answer by ``handler`` from the next request on."""
        self._answer = handler

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._waiting and (timer := self._waiting.pop(request.protocol, None)) is not None:
            timer.cancel()
        self._busy.add(request.protocol)
        try:
            return await self._answer(request)
        finally:
            self._busy.discard(request.protocol)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """See aiohttp: a client has connected; with TLS, its handshake is over."""
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        place = self._arriving.pop(handler, None) or self._place_for(transport)
        if place is None:
            loop.call_soon(transport.abort)  # aiohttp begins with a connection before it lets it end
            return
        self._held[handler] = place
        self._waiting[handler] = loop.call_at(place.until, self._give_up, handler, transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # The kernel ends the connection when the client takes nothing: also while nobody here waits for it to be written.
            stall = max(1, int(self._limits.client_stall_timeout * 1000))
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """See aiohttp: a client has gone."""
        if (place := self._held.pop(handler, None)) is not None:
            self._places.leave(place.whose)
        if (timer := self._waiting.pop(handler, None)) is not None:
            timer.cancel()
        super().connection_lost(handler, exc)

    def arrive(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """A client has connected and is to speak TLS: from now on it has a place, or is sent away.

        The connection changes hands before a byte of it is read. The loop would shake hands by itself if it had been given the
        context, but tell nobody of clients that are about to; and what it has begun to read, uvloop does not hold back for
        ``start_tls``. So a second descriptor of the socket goes on as a connection of its own, and the loop closes the first.
        """
        place = self._place_for(transport)
        if place is not None:
            try:
                known = transport.get_extra_info("socket")
                accepted = socket.fromfd(known.fileno(), known.family, known.type)
            except OSError as error:  # too many open files, or it has gone
                _log.warning("a connection cannot be accepted: %s", error)
                self._places.leave(place.whose)
            else:
                task = asyncio.create_task(self._shake_hands(accepted, tls, place), name="handshake")
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)
        transport.abort()

    async def _shake_hands(self, accepted: socket.socket, tls: ssl.SSLContext, place: _Place) -> None:
        """Make it an ordinary connection: one of which :meth:`connection_made` hears, with its place."""
        loop = asyncio.get_running_loop()
        handler = self()
        self._arriving[handler] = place
        try:
            accepted.setblocking(False)
            async with asyncio.timeout_at(place.until):
                await loop.connect_accepted_socket(
                    lambda: handler, accepted, ssl=tls, ssl_handshake_timeout=self._limits.client_first_timeout
                )
        except OSError as error:  # it speaks no TLS that we speak, has no certificate that counts, has gone, or is too slow
            _log.debug("a TLS handshake has failed: %s", error)
        finally:
            if self._arriving.pop(handler, None) is not None:  # it has never become a connection
                self._places.leave(place.whose)

    async def end_handshakes(self) -> None:
        """Begin no more, and end those under way."""
        self._closing = True
        self._cut_handshakes()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def retire(self) -> None:
        """Close every connection: at once where nothing is asked, else after the answer."""
        self._cut_handshakes()
        for handler in list(self.connections):
            if handler in self._busy:
                handler.close()
            else:
                handler.force_close()

    def _cut_handshakes(self) -> None:
        for task in self._handshakes:
            asyncio.get_running_loop().call_soon(task.cancel)  # a task that has not begun would leave its socket open

    def _place_for(self, transport: asyncio.Transport) -> _Place | None:
        """A place, if there is one: who has one already goes on, whoever else comes."""
        whose = neighbourhood(transport.get_extra_info("peername"))
        if self._closing or not self._places.take(whose):
            return None
        return _Place(whose, asyncio.get_running_loop().time() + self._limits.client_first_timeout)

    def _give_up(self, handler: asyncio.BaseProtocol, transport: asyncio.Transport) -> None:
        self._waiting.pop(handler, None)
        transport.abort()


class _Arrival(asyncio.Protocol):
    """A connection that was accepted, and on which nothing was read."""

    def __init__(self, server: _Server, tls: ssl.SSLContext) -> None:
        self._server = server
        self._tls = tls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio: a client has connected."""
        self._server.arrive(cast("asyncio.Transport", transport), self._tls)  # uvloop's are of no class of asyncio's


class Listener:
    """One address (port 0: any free one). ``reuse_port`` lets several processes listen on it."""

    def __init__(
        self,
        handler: Handler,
        host: str,
        port: int,
        limits: Limits,
        *,
        reuse_port: bool = False,
        tls: ServerTls | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._handler = handler
        self._limits = limits
        self._reuse_port = reuse_port
        self._tls = tls
        self._certificates = FileWatch(() if tls is None else tls.files, self._read_certificates, self._refuse_certificates)
        self._server: _Server | None = None
        self._runner: web.ServerRunner | None = None

    def adopt(self, handler: Handler) -> None:
        """Answer by ``handler`` from now on."""
        self._handler = handler
        if self._server is not None:
            self._server.adopt(handler)

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        # aiohttp waits twice this long before it cancels an answer, and for ever when it is zero.
        grace = max(self._limits.drain_timeout, 0.02) / 2
        self._server = _Server(self._handler, self._limits)
        runner = web.ServerRunner(self._server, shutdown_timeout=grace)
        await runner.setup()
        try:
            await _Site(runner, self._server, self._host, self._port, self._reuse_port, self._tls).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        if self._tls is not None:
            await self._certificates.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._runner is None or not self._runner.addresses:
            return self._port
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stop listening; answers in flight have ``limits.drain_timeout`` to end."""
        await self._certificates.close()
        if self._server is not None:
            await self._server.end_handshakes()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _read_certificates(self) -> None:
        if self._tls is None:
            return
        others = await asyncio.to_thread(self._tls.reload)
        log.info("tls.read", files=[str(path) for path in self._tls.files])
        if others and self._server is not None:
            # Whom the old authorities vouched for must not go on by a connection that is open.
            self._server.retire()

    @staticmethod
    def _refuse_certificates(error: Exception) -> None:
        log.error("tls.unusable", error=str(error), kept="the files as they were")


class _Site(web.BaseSite):
    """As aiohttp's TCPSite, but that connections count before their TLS handshake, which has to end in time."""

    def __init__(
        self,
        runner: web.ServerRunner,
        server: _Server,
        host: str,
        port: int,
        reuse_port: bool,
        tls: ServerTls | None,
    ) -> None:
        super().__init__(runner)
        self._answering = server
        self._place = host, port
        self._reuse_port = reuse_port
        self._tls = tls

    @property
    def name(self) -> str:
        """Where it listens, for people."""
        host, port = self._place
        return f"{'http' if self._tls is None else 'https'}://{host}:{port}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        host, port = self._place
        context = None if self._tls is None else self._tls.context

        def accept() -> asyncio.Protocol:
            return self._answering() if context is None else _Arrival(self._answering, context)

        self._server = await asyncio.get_running_loop().create_server(
            accept, host, port, backlog=1024, reuse_port=self._reuse_port
        )

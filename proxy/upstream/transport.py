"""One request to one URL: connection, TLS, timeouts, bounds. Knows neither redirects nor credentials nor retries.

A :class:`Transport` belongs to one upstream and carries everything that is sent on its behalf: to the registry, its token
endpoint and the storage that it redirects to. What goes wrong comes out as one of our errors, in words.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Self

import aiohttp
import aiohttp.abc
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDictProxy
from yarl import URL

from proxy.errors import UpstreamMisbehaved, UpstreamOversized, UpstreamUnavailable
from proxy.settings import Limits, Upstream
from proxy.upstream.failures import Complaint, Outage, complaint, explain, host_of
from proxy.upstream.network import GuardedResolver, guarded_socket, tls_context
from proxy.upstream.registries import Endpoint

#: Bytes that aiohttp buffers before it stops reading: two reads of the socket (about 256 KiB each), so that the network goes on
#: while what came before is handed on.
READ_BUFFER = 512 << 10
#: How long reading an error body, or the short body of a redirect, may take in seconds.
COMPLAINT_TIME = 2.0


class Reply:
    """An answer whose head is here and whose body is not. As a context manager it holds its connection until the end."""

    def __init__(self, response: aiohttp.ClientResponse, url: URL, slots: asyncio.Semaphore) -> None:
        self._response = response
        self._slots: asyncio.Semaphore | None = slots
        self._said: Complaint | None = None
        self.url = url  #: what was asked last
        self.status = response.status
        self.headers: CIMultiDictProxy[str] = response.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def host(self) -> str:
        """The host that answered, for messages."""
        return host_of(self.url)

    @property
    def length(self) -> int | None:
        """Content-Length, if it says one."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    @property
    def media_type(self) -> str:
        """Content-Type without parameters, in lower case; empty when missing."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def html(self) -> bool:
        """Whether the body is a web page: a login or error page where a registry should be."""
        return self.media_type in {"text/html", "application/xhtml+xml"}

    @property
    def encoding(self) -> str:
        """Content-Encoding; empty when there is none."""
        text = self.headers.get("Content-Encoding", "").strip().lower()
        return "" if text == "identity" else text

    @property
    def ambiguity(self) -> str | None:
        """Why it is in doubt where the body ends or how it is to be read (RFC 9112, section 6.3); None when it is not."""
        coding = ", ".join(self.headers.getall("Transfer-Encoding", ())).strip().lower()
        if coding and "Content-Length" in self.headers:
            return "both Transfer-Encoding and Content-Length"
        if coding not in {"", "chunked"}:
            return f"a body that is not only chunked but {coding[:40]}"
        return None

    async def piece(self, stall: float) -> bytes:
        """The next bytes of the body as they came; none at its end. Raises :class:`Outage` when it stalls or is cut."""
        try:
            async with asyncio.timeout(stall):
                return await self._response.content.readany()
        except TimeoutError:
            raise Outage(f"{self.host} fell silent in the middle of its answer for {stall:g} s") from None
        except (aiohttp.ClientError, OSError):
            raise Outage(f"{self.host} cut its answer short") from None

    async def read(self, limit: int, by: float, stall: float) -> bytes:
        """The whole body, at most ``limit`` bytes, until ``by`` on the loop's clock.

        Raises :class:`UpstreamOversized` when it is longer (before reading where Content-Length says so),
        :class:`UpstreamMisbehaved` when it is encoded, and :class:`Outage` when it is late, stalls or is cut.
        """
        self.refuse_encoding()
        if (self.length or 0) > limit:
            raise UpstreamOversized(f"{self.host} announced {self.length} bytes, more than the {limit} that are allowed")
        pieces: list[bytes] = []
        total = 0
        loop = asyncio.get_running_loop()
        while piece := await self.piece(max(0.0, min(stall, by - loop.time()))):
            total += len(piece)
            if total > limit:
                raise UpstreamOversized(f"{self.host} sent more than the {limit} bytes that are allowed")
            pieces.append(piece)
        return b"".join(pieces)

    def refuse_encoding(self) -> None:
        """Raise :class:`UpstreamMisbehaved` when the body is compressed although ``identity`` was asked for."""
        if self.encoding:
            raise UpstreamMisbehaved(f"{self.host} sent an encoded body ({self.encoding[:40]}) although identity was asked for")

    async def complaint(self, limit: int, by: float) -> Complaint:
        """What the error body says, from its first ``limit`` bytes; remembered. Never raises: the status has already decided."""
        if self._said is None:
            self._said = complaint(self.media_type, b"" if self.encoding else await self._beginning(limit, by))
        return self._said

    async def _beginning(self, limit: int, by: float) -> bytes:
        body = b""
        loop = asyncio.get_running_loop()
        until = min(by, loop.time() + COMPLAINT_TIME)
        with suppress(Outage):  # what came until then is as good as it gets
            while len(body) <= limit and (piece := await self.piece(max(0.0, until - loop.time()))):
                body += piece
        return body[:limit]

    def close(self) -> None:
        """Give the connection back if the body was read to its end, close it otherwise. Idempotent."""
        if self._slots is not None:
            self._response.release()
            self._slots.release()
            self._slots = None


class Transport:
    """The connections of one upstream. Built without I/O; the session opens with the first request."""

    def __init__(
        self,
        endpoint: Endpoint,
        upstream: Upstream,
        limits: Limits,
        *,
        user_agent: str,
        resolver: aiohttp.abc.AbstractResolver | None = None,
        hint: str | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._upstream = upstream
        self._limits = limits
        self._user_agent = user_agent
        self._resolver = resolver
        self._hint = hint or f"if that is right, set `allow_private: true` for upstream {endpoint.name}"
        self._reading = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._tls: dict[bool, ssl.SSLContext] = {}  # by whether it shows the client certificate
        self._closed = False
        self._slots = asyncio.Semaphore(upstream.connections)
        # Blobs hold their connections for long: a part is kept free, so that they never keep manifests and tokens waiting.
        self._streams = asyncio.Semaphore(max(1, upstream.connections - max(1, upstream.connections // 4)))

    async def send(
        self, method: str, url: URL, headers: Mapping[str, str], by: float, form: Mapping[str, str] | bytes | None = None
    ) -> Reply:
        """Ask once, without following redirects; the head of the answer must be here until ``by`` on the loop's clock.

        Raises :class:`Outage` for everything that is the other side's or the network's failure, :class:`UpstreamMisbehaved` for
        an address that may not be dialled or a head that is ambiguous, :class:`UpstreamUnavailable` when it is our own fault.
        """
        tls = await self._trust(url)
        await self._acquire(self._slots, by)
        try:
            response = await self._exchange(self._open(), method, url, headers, by, form, tls)
        except BaseException:
            self._slots.release()
            raise
        reply = Reply(response, url, self._slots)
        if (reason := reply.ambiguity) is not None:
            reply.close()
            raise UpstreamMisbehaved(f"{reply.host} sent {reason}")
        return reply

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        by: float,
        form: Mapping[str, str] | bytes | None,
        tls: ssl.SSLContext | bool,
    ) -> aiohttp.ClientResponse:
        loop = asyncio.get_running_loop()
        connect, wait = self._upstream.connect_timeout, self._upstream.header_timeout
        # Resolving and connecting have connect_timeout each; once connected, the timer is set to header_timeout.
        timer = asyncio.timeout_at(min(by, loop.time() + 2 * connect + 1.0))
        progress = _Progress(timer, by, wait)
        token = _PROGRESS.set(progress)
        try:
            async with timer:
                return await session.request(method, url, headers=headers, data=form, allow_redirects=False, ssl=tls)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                what = f"no answer from {host_of(url)}" if progress.connected else f"no connection to {host_of(url)}"
                limit = f"within {wait if progress.connected else connect:g} s"
                raise Outage(f"{what} {'in the time that was left for it' if timer.when() == by else limit}") from error
            raise explain(error, url, allow_private_hint=self._hint, connect=connect) from error
        finally:
            _PROGRESS.reset(token)
            progress.end()

    @asynccontextmanager
    async def stream_slot(self) -> AsyncIterator[None]:
        """Wait for the right to stream a blob; blobs of the same upstream queue up here."""
        await self._acquire(self._streams, asyncio.get_running_loop().time() + self._upstream.queue_timeout)
        try:
            yield
        finally:
            self._streams.release()

    async def _acquire(self, slots: asyncio.Semaphore, by: float) -> None:
        if not slots.locked():
            await slots.acquire()  # at once: it needs no timer
            return
        try:
            async with asyncio.timeout_at(by):
                await slots.acquire()
        except TimeoutError:
            name, number = self._endpoint.name, self._upstream.connections
            raise UpstreamUnavailable(f"all {number} connections to {name} are busy", retry_after=1.0) from None

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise UpstreamUnavailable(f"{self._endpoint.name} is not asked any more: Tagstone is shutting down")
        if self._session is None:
            self._session = self._build()
        return self._session

    async def _trust(self, url: URL) -> ssl.SSLContext | bool:
        """Whom to trust at ``url``, read when first needed. The client certificate is shown to the registry alone."""
        if url.scheme != "https":
            return True
        shown = self._upstream.client_certificate is not None and self._endpoint.owns(url)
        async with self._reading:
            if shown not in self._tls:
                self._tls[shown] = await asyncio.to_thread(
                    tls_context, self._endpoint.name, self._upstream, client_certificate=shown
                )
            return self._tls[shown]

    def _build(self) -> aiohttp.ClientSession:
        upstream, allow_private = self._upstream, self._upstream.allow_private
        connector = _Connector(
            resolver=GuardedResolver(allow_private, upstream.connect_timeout, self._resolver),
            socket_factory=guarded_socket(allow_private),
            limit=0,  # bounded by our own slots, whose waiting time is nobody's outage
        )
        return aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=upstream.connect_timeout),
            auto_decompress=False,
            trust_env=False,
            requote_redirect_url=False,
            read_bufsize=READ_BUFFER,
        )

    async def close(self) -> None:
        """Close all connections; nothing can be sent afterwards."""
        self._closed = True
        if self._session is not None:
            await self._session.close()


class _Progress:
    """Sets the timer of a request anew as soon as it has a connection."""

    def __init__(self, timer: asyncio.Timeout, by: float, wait: float) -> None:
        self._timer: asyncio.Timeout | None = timer
        self._by = by
        self._wait = wait
        self.connected = False

    def advance(self) -> None:
        self.connected = True
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(min(self._by, asyncio.get_running_loop().time() + self._wait))

    def end(self) -> None:
        """Let go of the timer, which knows its task: a connection remembers the context that it was opened in."""
        self._timer = None


#: Of the request that is being made.
_PROGRESS: ContextVar[_Progress] = ContextVar("progress")


class _Connector(aiohttp.TCPConnector):
    """Says when a request has its connection. Tracing tells the same, at a price for each step that nobody follows."""

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        connection = await super().connect(req, traces, timeout)
        _PROGRESS.get().advance()
        return connection

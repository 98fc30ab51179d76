"""A small HTTP/1.1 server that does exactly what it is told, also what no proper server would do.

A :class:`Site` is one origin on loopback. It records every request it sees (:class:`Seen`) and answers with an
:class:`Answer`: its own honest one (:meth:`Site.answer`), or what the faults switched on with :meth:`Site.on` make of it.
Bytes go to the socket as they are told, with no library between that would mend or refuse them: a wrong Content-Length, a
broken chunk, a NUL in a header, a body that never ends. That is why this is not built on a web framework.

An error inside a behaviour or handler (a bug of the test, not of the client) is raised when the site is left.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, unquote

from multidict import CIMultiDict, MultiDict

PIECE = 64 << 10
_MAX_HEAD = 64 << 10
_ROUTES = (
    ("ping", re.compile(r"/v2/?")),
    ("manifest", re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<reference>[^/]+)")),
    ("blob", re.compile(r"/v2/(?P<repository>.+)/blobs/(?P<reference>[^/]+)")),
    ("tags", re.compile(r"/v2/(?P<repository>.+)/tags/list")),
    ("referrers", re.compile(r"/v2/(?P<repository>.+)/referrers/(?P<reference>[^/]+)")),
)


@dataclass(eq=False, slots=True)
class Seen:
    """One request as it arrived, and what became of it."""

    method: str
    target: str  #: path and query, byte for byte as they stood in the request line
    headers: CIMultiDict[str]
    body: bytes
    connection: int  #: which connection of the site it came over, counted from 1
    kind: str = "other"  #: ``ping``, ``manifest``, ``blob``, ``tags``, ``referrers`` or ``other``
    repository: str = ""
    reference: str = ""  #: tag or digest, where the kind has one
    status: int | None = None  #: what was answered; None before the head of the answer is out
    sent: int = 0  #: body bytes that were written to the socket
    finished: bool = False  #: the answer went out whole, as it was meant

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> MultiDict[str]:
        """The query, decoded."""
        return MultiDict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def form(self) -> MultiDict[str]:
        """An ``application/x-www-form-urlencoded`` body, decoded."""
        return MultiDict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def authorization(self) -> str | None:
        """The Authorization header, or None."""
        return self.headers.get("Authorization")

    def __str__(self) -> str:
        return f"{self.method} {self.target} -> {self.status}"


class Cut(Exception):
    """Raised inside a body: end the connection here, by FIN, or by RST if ``reset``."""

    def __init__(self, reset: bool = False) -> None:
        super().__init__("cut")
        self.reset = reset


@dataclass(slots=True)
class Answer:
    """What to send.

    ``Content-Length`` is computed for a ``body`` of bytes unless the headers already hold one (true or not). A body from
    ``pieces`` has the framing that the headers say: their Content-Length, chunks if they say ``Transfer-Encoding:
    chunked``, else it ends with the connection. ``verbatim`` replaces all of this by bytes for the socket, status line
    included, after which the connection is closed.
    """

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytes = b""
    pieces: AsyncIterator[bytes] | None = None
    close: bool = False  #: close the connection after this answer, and say so
    reason: str | None = None
    verbatim: bytes | None = None
    hang_up: bool = False  #: close the connection without a word


Next = Callable[[], Awaitable[Answer]]
#: What a fault does: it may answer by itself, or take the answer of what stands below it (``await following()``) and bend it.
Behaviour = Callable[[Seen, Next], Awaitable[Answer]]
Predicate = Callable[[Seen], bool]


@dataclass(eq=False, slots=True)
class Fault:
    """A behaviour that is switched on for the requests that match. ``fired`` counts how often it acted."""

    when: Predicate
    behaviour: Behaviour
    times: int | None = None  #: act so often at most; None: always
    guard: bool = False  #: acts before all faults that are none, whenever they are switched on
    fired: int = 0
    active: bool = True

    def off(self) -> None:
        """Switch the fault off; ``fired`` stays."""
        self.active = False

    def again(self) -> None:
        """Switch the fault on (again)."""
        self.active = True

    def applies(self, seen: Seen) -> bool:
        """Whether it acts on this request."""
        return self.active and (self.times is None or self.fired < self.times) and self.when(seen)


class Site:
    """One origin: an async context manager that listens on a free port of a loopback address."""

    def __init__(self, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Seen] = []
        self.connections = 0  #: accepted so far
        self.faults: list[Fault] = []
        self._address = address
        self._tls = tls
        self._port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[Exception] = []

    # -- where it is -----------------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """``address:port``."""
        return f"{self._address}:{self._port}"

    @property
    def url(self) -> str:
        """``http://address:port``, or https."""
        return self.url_as(self._address)

    def url_as(self, name: str) -> str:
        """The same port under another name, e.g. ``localhost``: another origin to a browser and to a careful client."""
        return f"{'https' if self._tls else 'http'}://{name}:{self._port}"

    # -- what it saw -----------------------------------------------------------------------------------------------

    def seen(self, method: str | None = None, path: str = "", *, kind: str | None = None) -> list[Seen]:
        """Requests by method, by a part of the path, by kind; in the order of arrival."""
        return [
            request
            for request in self.requests
            if method in (None, request.method) and path in request.path and kind in (None, request.kind)
        ]

    def count(self, method: str | None = None, path: str = "", *, kind: str | None = None) -> int:
        """How many requests :meth:`seen` would list."""
        return len(self.seen(method, path, kind=kind))

    def forget(self) -> None:
        """Start the record of requests anew."""
        self.requests.clear()

    # -- what it does ----------------------------------------------------------------------------------------------

    def on(self, when: Predicate, behaviour: Behaviour, *, times: int | None = None, guard: bool = False) -> Fault:
        """Switch a fault on. Of those that match, the one switched on last acts first, around the others.

        A ``guard`` (authentication) stands before all faults, so that ``cut(500)`` cuts what an entitled client gets and not
        the challenge.
        """
        fault = Fault(when, behaviour, times, guard)
        self.faults.insert(0 if guard else sum(each.guard for each in self.faults), fault)
        return fault

    async def answer(self, seen: Seen) -> Answer:
        """The honest answer; this one knows nothing."""
        return Answer(404, CIMultiDict({"Content-Type": "text/plain"}), f"no {seen.kind} here\n".encode())

    async def start(self) -> None:
        """Listen: on a free port, or after :meth:`stop` on the same one again."""
        patience = 1.0 if self._tls else None  # for a client that never says goodbye on TLS
        self._server = await asyncio.start_server(
            self._accept, self._address, self._port, ssl=self._tls, limit=_MAX_HEAD, ssl_shutdown_timeout=patience
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections and cut those that are open. What it holds and has seen stays."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
        if self._errors and kind is None:
            raise self._errors[0]

    # -- the wire --------------------------------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer, self.connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        try:
            while (seen := await _read(reader, number)) is not None:
                self.requests.append(seen)
                if not await _write(writer, seen, await self._decide(seen, 0)):
                    break
        except Cut as cut:
            if cut.reset:
                # Closing with a linger time of zero is what makes the kernel send RST instead of FIN.
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
        except _NotHttp:
            await reader.read(_MAX_HEAD)  # what stays unread would turn the closing into a reset
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # the client left: its right, and visible in Seen.finished
        except asyncio.CancelledError:
            writer.transport.abort()  # the site stops: whatever was not sent is lost
            raise
        except Exception as error:
            self._errors.append(error)
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError, TimeoutError):
                await writer.wait_closed()

    async def _decide(self, seen: Seen, position: int) -> Answer:
        for index, fault in enumerate(self.faults[position:], position):
            if fault.applies(seen):
                fault.fired += 1
                return await fault.behaviour(seen, lambda: self._decide(seen, index + 1))  # noqa: B023 - returned at once
        return await self.answer(seen)


class _NotHttp(Exception):
    """A TLS handshake on a plain port, say. Real servers answer 400 in plain text."""


async def _read(reader: asyncio.StreamReader, number: int) -> Seen | None:
    """The next request of a connection, or None when the client is done."""
    try:
        start = await reader.readexactly(1)
        if not start.isalpha():
            raise _NotHttp
        head = start + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = CIMultiDict[str]()
    for line in filter(None, lines[1:]):
        name, _, value = line.partition(":")
        headers.add(name, value.strip())
    body = await reader.readexactly(int(headers.get("Content-Length", "0")))
    seen = Seen(method, target, headers, body, number)
    for kind, route in _ROUTES:
        if found := route.fullmatch(seen.path):
            seen.kind = kind
            seen.repository, seen.reference = (found.groupdict().get(name, "") for name in ("repository", "reference"))
            break
    return seen


async def _write(writer: asyncio.StreamWriter, seen: Seen, answer: Answer) -> bool:
    """Send an answer; whether the connection may be used again. Raises Cut where the body says so."""
    if answer.hang_up:
        return False
    if answer.verbatim is not None:
        seen.status = answer.status
        writer.write(answer.verbatim)
        await writer.drain()
        seen.finished = True
        return False
    headers = answer.headers.copy()
    bodiless = seen.method == "HEAD" or answer.status in (204, 304)
    chunked = headers.get("Transfer-Encoding") == "chunked"
    ends_with_connection = not chunked and "Content-Length" not in headers and answer.pieces is not None
    if "Content-Length" not in headers and answer.pieces is None and not chunked and answer.status != 204:
        headers["Content-Length"] = str(len(answer.body))
    declared = headers.get("Content-Length", "")
    close = answer.close or (ends_with_connection and not bodiless) or seen.headers.get("Connection", "").lower() == "close"
    if close:
        headers["Connection"] = "close"
    reason = answer.reason if answer.reason is not None else HTTPStatus(answer.status).phrase
    head = [f"HTTP/1.1 {answer.status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(head).encode("latin-1"))
    seen.status = answer.status
    try:
        async for piece in _nothing() if bodiless else (answer.pieces or _slices(answer.body)):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            seen.sent += len(piece)
            await writer.drain()
        if chunked and not bodiless:
            writer.write(b"0\r\n\r\n")
    finally:
        await writer.drain()
    seen.finished = True
    # A body that is shorter or longer than it was declared leaves a connection that nobody can go on with.
    return not close and (bodiless or chunked or declared == str(seen.sent))


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""  # makes this an async generator


async def _slices(data: bytes) -> AsyncIterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(data), PIECE):
        yield bytes(view[start : start + PIECE])

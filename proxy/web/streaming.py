"""Bytes of blobs to clients: by sendfile from the stored or still growing file, never from a buffer per client.

A part of a file goes out as soon as :class:`proxy.services.ingest.Source` says that it may. When the source fails after the
headers are out, the connection is cut: a client must never take a shortened or wrong body for a whole one.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from aiohttp import web

from proxy.services.answers import Refused
from storage.digest import Digest
from storage.errors import DigestMismatch

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII | re.IGNORECASE)
#: One turn in the worker thread sends at most this much, so that many downloads share the threads.
_TURN = 4 << 20
_PIECE = 256 << 10


class Source(Protocol):
    """What can be streamed (:class:`proxy.services.ingest.Source`)."""

    size: int

    def fileno(self) -> int:
        """Descriptor of the file that holds the bytes."""
        ...

    async def available(self, offset: int) -> int:
        """Wait until more than ``offset`` bytes may be handed out; how many may be."""
        ...


class Unsatisfiable(Exception):
    """A Range that lies outside the blob (RFC 9110 §15.5.17)."""


class Withdrawn(Exception):
    """What is on its way to a client may not be handed out any more."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__("; ".join(refusal.reasons))
        self.refusal = refusal


async def _always() -> None:
    """The permit of what nobody takes back."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and one past the last byte of a single range; None where the whole is to be sent.

    RFC 9110 §14.2: a malformed or multiple range is ignored. Raises :class:`Unsatisfiable`.
    """
    found = None if header is None else _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = int(found[2])
        if length == 0 or size == 0:
            raise Unsatisfiable
        return max(0, size - length), size
    start = int(found[1])
    if found[2] and int(found[2]) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(size, int(found[2]) + 1) if found[2] else size


class Rehashed:
    """A stored blob that is hashed once more while it goes out, its last piece held back until the digest matches."""

    def __init__(self, source: Source, digest: Digest) -> None:
        self.size = source.size
        self._source = source
        self._digest = digest
        self._hasher = digest.hasher()
        self._hashed = 0

    def fileno(self) -> int:
        """See :meth:`Source.fileno`."""
        return self._source.fileno()

    async def available(self, offset: int) -> int:
        """See :meth:`Source.available`. Raises :class:`storage.errors.DigestMismatch`."""
        while self._hashed < self.size and self._hashed - _PIECE <= offset:
            await asyncio.to_thread(self._step)
        if self._hashed < self.size:
            return self._hashed - _PIECE
        if (actual := self._hasher.hexdigest()) != self._digest.hex:
            raise DigestMismatch(str(self._digest), f"{self._digest.algorithm}:{actual}")
        return self.size

    async def whole(self) -> None:
        """Hash all of it. Raises :class:`storage.errors.DigestMismatch`."""
        await self.available(self.size)

    def _step(self) -> None:
        data = os.pread(self._source.fileno(), min(_TURN, self.size - self._hashed), self._hashed)
        if not data:
            raise DigestMismatch(str(self._digest), f"a file of only {self._hashed} bytes")
        self._hasher.update(data)
        self._hashed += len(data)


async def send(
    request: web.BaseRequest,
    response: web.StreamResponse,
    source: Source,
    start: int,
    stop: int,
    stall: float,
    count: Callable[[int], None] = lambda sent: None,
    permit: Callable[[], Awaitable[None]] = _always,
) -> None:
    """Send the bytes [start, stop) of ``source`` as the body of ``response`` (which has its headers and its length).

    ``stall`` is how long (seconds) a client may take nothing; ``count`` is told of the bytes that went out. ``permit`` is asked
    before each piece, and raises :class:`Withdrawn`. Raises that, what the source raises, ConnectionError when the client is
    gone, TimeoutError when it is too slow.
    """
    async with asyncio.timeout(stall):
        writer = await response.prepare(request)
    transport = request.transport
    if writer is None or transport is None:
        raise ConnectionResetError("the client has gone")
    writer.send_headers()
    position = start
    if transport.get_extra_info("sslcontext") is not None:
        while position < stop:
            limit = min(stop, await source.available(position), position + _PIECE)
            await permit()
            data = await asyncio.to_thread(os.pread, source.fileno(), limit - position, position)
            if not data:
                raise ConnectionAbortedError("the stored file ended early")
            async with asyncio.timeout(stall):
                await response.write(data)
            position += len(data)
            count(len(data))
        return
    # Headers first: sendfile writes past the transport's buffer.
    transport.set_write_buffer_limits(high=0)
    async with asyncio.timeout(stall):
        await writer.drain()
    socket = transport.get_extra_info("socket")
    # A descriptor of our own: the loop refuses to watch one that belongs to a transport.
    out = os.dup(socket.fileno())
    try:
        while position < stop:
            limit = min(stop, await source.available(position))
            while position < limit:
                await permit()
                sent = await _in_thread(_sendfile, out, source.fileno(), position, min(limit - position, _TURN))
                position += sent
                count(sent)
                if position < limit and sent < _TURN:
                    async with asyncio.timeout(stall):
                        await _writable(out)
                    if transport.is_closing():
                        raise ConnectionResetError("the client has gone")
    finally:
        os.close(out)
        if not transport.is_closing():
            transport.set_write_buffer_limits()


async def _in_thread(work: Callable[..., int], *arguments: int) -> int:
    """Run ``work`` in a thread and, when cancelled, wait until it has let go of the descriptors it was given."""
    turn = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(turn)
    except asyncio.CancelledError:
        await asyncio.wait([turn])
        raise


def _sendfile(out: int, source: int, offset: int, count: int) -> int:
    """Send until the socket is full or ``count`` bytes are out. The socket is non-blocking; the disk may not be."""
    sent = 0
    while sent < count:
        try:
            step = os.sendfile(out, source, offset + sent, count - sent)
            if step == 0:
                raise ConnectionAbortedError("the stored file ended early")
        except BlockingIOError:
            break
        except OSError:
            if sent:
                break  # the next turn finds the same, when these are counted
            raise
        sent += step
    return sent


async def _writable(descriptor: int) -> None:
    """Wait until the socket takes bytes again."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def cut(request: web.BaseRequest) -> None:
    """End the connection at once, so that the client cannot take what it has for the whole."""
    if request.transport is not None:
        with suppress(OSError):
            request.transport.abort()

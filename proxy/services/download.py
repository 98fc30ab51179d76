"""Downloads: a blob's bytes from one repository into a spool, resumed where they break off."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from proxy.errors import UpstreamMisbehaved, UpstreamUnavailable
from storage.blobs import Spool
from storage.records import Descriptor
from storage.reference import Repository

log = structlog.get_logger("tagstone.ingest")

#: Seconds between two resumptions at most, unless the upstream asks for more.
_LONGEST_BACKOFF = 10.0
#: An upstream that wants to be left alone for longer than this (in seconds) is given up instead.
_LONGEST_RETRY_AFTER = 60.0
#: How long (seconds) a thread that has written everything waits for more: coming back to it costs a fast upstream more.
_LINGER = 0.002
#: After so many bytes a thread is free for another download.
_TURN = 32 << 20


class BlobStream(Protocol):
    """An upstream's answer to a request for a blob."""

    @property
    def offset(self) -> int:
        """Where in the blob the answer begins: what was asked for, or 0 where the upstream ignored it."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes. Raises :class:`UpstreamError`, in particular UpstreamUnavailable when the connection breaks."""
        ...


class BlobOpener(Protocol):
    """The part of the upstream client that is needed here (:class:`proxy.upstream.client.Upstreams`)."""

    def blob(self, repository: Repository, descriptor: Descriptor, offset: int = 0) -> AbstractAsyncContextManager[BlobStream]:
        """Ask for a blob from ``offset``. Entering raises :class:`UpstreamError`, also when the length announced is wrong."""
        ...


@dataclass(frozen=True)
class Pace:
    """How an arrival goes about it. Sizes in bytes, times in seconds."""

    holdback: int = 64 << 10  #: kept from clients until the digest matches
    piece: int = 2 << 20  #: that may be in memory, waiting or being written and hashed
    resumes: int = 5  #: in a row, without one byte of progress, before a broken upstream is given up
    backoff: float = 0.25  #: before the first resumption; doubles
    poll: float = 0.02  #: between looks at another process's spool
    stall: float = 120.0  #: without progress of another process's spool before its readers give up


class Download:
    """Fills ``spool`` from ``repository``. ``begun`` hears that the upstream has answered well, ``grown`` of every piece."""

    def __init__(
        self,
        upstream: BlobOpener,
        repository: Repository,
        descriptor: Descriptor,
        spool: Spool,
        pace: Pace,
        *,
        begun: Callable[[], None],
        grown: Callable[[int], None],
    ) -> None:
        self._upstream = upstream
        self._repository = repository
        self._descriptor = descriptor
        self._spool = spool
        self._pace = pace
        self._begun = begun
        self._grown = grown

    async def run(self) -> None:
        """Return when the spool has its size. Raises :class:`proxy.errors.UpstreamError` and what the spool raises.

        A body that breaks off is asked for again from where it stopped; an upstream that cannot even begin is not, for its
        client has retried already.
        """
        spool = self._spool
        fruitless = 0
        while spool.written < spool.size:
            before = spool.written
            opened = False
            try:
                async with self._upstream.blob(self._repository, self._descriptor, offset=before) as stream:
                    opened = True
                    self._begun()
                    await self._pump(stream)
            except UpstreamUnavailable as error:
                if spool.written == spool.size:
                    return  # only the end of the answer was missing
                fruitless = 1 if spool.written > before else fruitless + 1
                asked = error.retry_after or 0.0
                if fruitless > self._pace.resumes or asked > _LONGEST_RETRY_AFTER or not (opened or spool.written):
                    raise
                backoff = min(self._pace.backoff * 2 ** (fruitless - 1), _LONGEST_BACKOFF) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
                log.info(
                    "blob.broken_off", blob=str(spool.digest), source=str(self._repository), at=spool.written, error=str(error)
                )
                await asyncio.sleep(max(backoff, asked))

    async def _pump(self, stream: BlobStream) -> None:
        """Append what the stream brings. Raises UpstreamUnavailable when that is too little, UpstreamMisbehaved when too much."""
        spool = self._spool
        position = stream.offset
        skip = spool.written - position
        if skip < 0:
            raise UpstreamMisbehaved(f"asked for {spool.digest} from byte {spool.written}, was answered from byte {position}")
        pieces = _Pieces(spool, self._pace.piece, self._grown)
        try:
            async for chunk in stream.chunks():
                position += len(chunk)
                if position > spool.size:
                    raise UpstreamMisbehaved(f"{self._repository} sent more than the {spool.size} bytes that {spool.digest} has")
                dropped = min(skip, len(chunk))
                skip -= dropped
                await pieces.add(chunk[dropped:])
        finally:
            await pieces.finish()
        if spool.written < spool.size:
            raise UpstreamUnavailable(f"{self._repository} ended {spool.digest} after {position} of {spool.size} bytes")


class _Pieces:
    """Collects chunks while earlier ones are written and hashed, and hands over all that have come by then at once.

    So a fast upstream is written in large pieces, by one thread that goes on for as long as there is something, and a slow one
    without delay. At most ``size`` bytes, and one chunk, are in memory; then :meth:`add` waits, and with it the network.
    """

    def __init__(self, spool: Spool, size: int, grown: Callable[[int], None]) -> None:
        self._spool = spool
        self._size = size
        self._grown = grown
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._held = 0
        self._writer: asyncio.Task[None] | None = None
        #: Guards what follows, which the thread uses too.
        self._change = threading.Condition()
        self._chunks: list[bytes] = []
        self._writing = False
        self._ended = False
        self._left = 0

    async def add(self, chunk: bytes) -> None:
        """Take a chunk; wait where the disk is slower than the network. Raises what appending raised."""
        if not chunk:
            return
        self._held += len(chunk)
        with self._change:
            self._chunks.append(chunk)
            self._writing = True
            self._change.notify()
        if self._writer is None or self._writer.done():
            if self._writer is not None:
                self._writer.result()
            self._writer = asyncio.create_task(self._write())
        while self._held >= self._size and not self._writer.done():
            self._room.clear()
            await self._room.wait()

    async def finish(self) -> None:
        """Wait until everything is appended. Raises what appending raised."""
        with self._change:
            self._ended = True
            self._change.notify()
        if self._writer is not None:
            await self._writer

    async def _write(self) -> None:
        try:
            while self._writing:
                self._left = _TURN
                await self._spool.append(self._take, self._written)
        finally:
            self._room.set()

    def _take(self) -> list[bytes]:
        """In the thread: what has come; nothing when nothing comes for a moment, or when others have waited long enough."""
        with self._change:
            if self._left <= 0:
                return []
            if not self._chunks and not self._ended:
                self._change.wait(_LINGER)
            chunks, self._chunks = self._chunks, []
            self._left -= sum(map(len, chunks))
            self._writing = bool(chunks)
            return chunks

    def _written(self, count: int) -> None:
        """In the thread: ``count`` more bytes are in the spool."""
        self._loop.call_soon_threadsafe(self._advance, count)

    def _advance(self, count: int) -> None:
        self._held -= count
        self._room.set()
        self._grown(self._spool.written)

"""Bytes for many clients from one fetch: whoever asks for a blob gets a :class:`Source`, stored or still arriving.

Fetches belong to :class:`Ingest`, not to the clients that caused them: a client that leaves stops nothing. Whether a client
may have the blob was asked of the gate before; here only bytes are shared, across repositories and processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import structlog

from proxy.errors import UpstreamUnavailable
from proxy.services.arrival import Arrival, check_size
from proxy.services.download import BlobOpener, Pace
from storage.blobs import BlobStore, StoredBlob
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository

log = structlog.get_logger("tagstone.ingest")

#: Told of an upstream whose bytes do not hash to what was asked for: repository, descriptor, what was wrong.
Tampered = Callable[[Repository, Descriptor, str], Awaitable[None]]


class Source:
    """One client's view of one blob: a file, and how much of it may be sent by now.

    Send ``fileno()`` from ``offset`` up to ``await available(offset)`` until that is :attr:`size`; cut the connection when it
    raises. Close it when done, however that comes (it is an async context manager).
    """

    def __init__(self, digest: Digest, size: int, repository: Repository, origin: StoredBlob | Arrival) -> None:
        self.digest = digest
        self.size = size
        self._repository = repository
        self._origin: StoredBlob | Arrival | None = origin
        if isinstance(origin, Arrival):
            origin.join(repository)

    @property
    def complete(self) -> bool:
        """Whether all of it is verified. If not, only the whole may be promised: a range could turn out to be wrong."""
        origin = self._opened()
        return not isinstance(origin, Arrival) or origin.verified

    def fileno(self) -> int:
        """Descriptor of a regular file, for sendfile and pread; the same one until :meth:`close`. Not before :meth:`ready`."""
        return self._opened().fileno()

    async def ready(self) -> None:
        """Wait until an answer may begin with 200.

        That is when the upstream has answered well, or the blob is there; for one no larger than the hold-back, when it
        is verified. Raises :class:`proxy.errors.UpstreamError` or :class:`storage.errors.StorageError` otherwise.
        """
        origin = self._opened()
        if isinstance(origin, Arrival):
            await origin.ready(self._repository)

    async def available(self, offset: int) -> int:
        """Wait until more than ``offset`` bytes may be sent and say how many in all; :attr:`size` at the end.

        Less than the last ``holdback`` bytes before the digest is known to match. Raises what :meth:`ready` raises.
        """
        origin = self._opened()
        return await origin.available(self._repository, offset) if isinstance(origin, Arrival) else self.size

    def close(self) -> None:
        """Give the file back. Idempotent."""
        origin, self._origin = self._origin, None
        if isinstance(origin, Arrival):
            origin.leave()
        elif origin is not None:
            origin.close()

    def _opened(self) -> StoredBlob | Arrival:
        if self._origin is None:
            raise ValueError(f"the source of {self.digest} is closed")
        return self._origin

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Ingest:
    """Owns every fetch of this process. :meth:`start` before the first :meth:`open`, :meth:`close` at the end.

    ``max_concurrent`` fetches run at once per registry, so that a slow one does not take the place of the others; each
    holds about ``piece`` bytes in memory.
    """

    def __init__(
        self,
        store: BlobStore,
        upstream: BlobOpener,
        *,
        on_tampered: Tampered | None = None,
        resumes: int = Pace.resumes,
        holdback: int = Pace.holdback,
        piece: int = Pace.piece,
        backoff: float = Pace.backoff,
        poll: float = Pace.poll,
        stall: float = Pace.stall,
        max_concurrent: int = 16,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._on_tampered = on_tampered
        self._pace = Pace(holdback, piece, resumes, backoff, poll, stall)
        self._max_concurrent = max_concurrent
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._arrivals: dict[tuple[Digest, int], Arrival] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = False

    async def start(self) -> None:
        """Begin to accept."""
        self._accepting = True

    async def close(self, drain: float) -> None:
        """Accept nothing more, give fetches under way ``drain`` seconds to end, and break off the others.

        What is broken off leaves nothing behind; its readers get UpstreamUnavailable.
        """
        self._accepting = False
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=drain)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def arriving(self) -> int:
        """How many blobs are being fetched or put away."""
        return len(self._arrivals)

    async def open(self, repository: Repository, descriptor: Descriptor) -> Source:
        """The blob, from the store, from the fetch under way, or from a new one.

        Returns at once; what goes wrong upstream is raised by the source. Raises :class:`storage.errors.StorageError` where
        the store does not answer, UpstreamUnavailable when closing, and UpstreamMisbehaved when what is stored under the
        digest does not have the size that the manifest says.
        """
        key = (descriptor.digest, descriptor.size)
        arrival = self._arrivals.get(key)
        if arrival is None:
            stored = await self._store.open(descriptor.digest)
            if stored is not None:
                try:
                    check_size(descriptor, stored.size)
                    return Source(descriptor.digest, descriptor.size, repository, stored)
                except BaseException:
                    stored.close()
                    raise
            arrival = self._arrivals.get(key)  # another client may have come while the store was asked
        if arrival is None:
            arrival = self._begin(key, descriptor)
        return Source(descriptor.digest, descriptor.size, repository, arrival)

    def _begin(self, key: tuple[Digest, int], descriptor: Descriptor) -> Arrival:
        if not self._accepting:
            raise UpstreamUnavailable("Tagstone is shutting down")
        arrival = Arrival(self._store, self._upstream, descriptor, self._pace, self._slot)
        self._arrivals[key] = arrival
        task = asyncio.create_task(self._bring(key, arrival))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return arrival

    async def _bring(self, key: tuple[Digest, int], arrival: Arrival) -> None:
        try:
            await arrival.run()
        finally:
            del self._arrivals[key]
        if arrival.tampered:
            await self._tell(arrival)

    async def _tell(self, arrival: Arrival) -> None:
        reason = str(arrival.failure)
        log.warning("blob.rejected", digest=str(arrival.descriptor.digest), reason=reason)
        if self._on_tampered is None:
            return
        for repository in arrival.tampered:
            try:
                await self._on_tampered(repository, arrival.descriptor, reason)
            except Exception:  # the bytes are gone already; that nobody could be told must not take the fetches down
                log.exception("blob.unreported", repository=str(repository))

    def _slot(self, registry: str) -> asyncio.Semaphore:
        return self._slots.setdefault(registry, asyncio.Semaphore(self._max_concurrent))

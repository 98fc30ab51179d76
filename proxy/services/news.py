"""News about content (damage on disk, tampering upstream): logged, counted and recorded, off everybody's way."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from proxy.services.background import forever
from proxy.services.metrics import Metrics
from proxy.services.revision import utc_now
from storage.digest import Digest
from storage.errors import StorageError
from storage.events import EventStore
from storage.records import Descriptor, Event, EventType
from storage.reference import Repository

log = structlog.get_logger("tagstone.news")
_WAITING = 1000


class News:
    """Takes events from any thread and writes them one after the other."""

    def __init__(self, events: EventStore, metrics: Metrics) -> None:
        self._events = events
        self._metrics = metrics
        self._queue: asyncio.Queue[Event] = asyncio.Queue(_WAITING)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write what is told."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(forever("news", self._write), name="news")

    async def close(self) -> None:
        """Write what still waits (for five seconds at most), then end."""
        if self._task is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._queue.join()
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None

    def damaged(self, digest: Digest, message: str) -> None:
        """A stored file no longer hashes to its name. Called from any thread."""
        told = f"the stored blob {digest} is damaged: {message}"
        event = Event(EventType.BLOB_DAMAGED, str(digest), digest, told, utc_now())
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._take, event)

    async def tampered(self, repository: Repository, descriptor: Descriptor, message: str) -> None:
        """An upstream sent bytes that are not what was asked for."""
        self._take(Event(EventType.BLOB_TAMPERED, str(repository), descriptor.digest, message, utc_now()))

    def _take(self, event: Event) -> None:
        log.warning(event.type.value, subject=event.subject, digest=str(event.digest), message=event.message)
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            log.error("news.lost", reason="too many events wait for the database; this one is only in the log")

    async def _write(self) -> None:
        event = await self._queue.get()
        try:
            if await self._events.record(event):
                self._metrics.happened(event.type.value)
        except StorageError as error:
            log.error("news.unwritten", event_type=event.type.value, digest=str(event.digest), error=str(error))
        finally:
            self._queue.task_done()

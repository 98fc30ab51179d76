"""Duties: what one worker does for all that share a database, for as long as the server runs."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import structlog

from proxy.services.background import PAUSE, forever
from proxy.services.revision import Clock
from storage.errors import StorageError
from storage.leases import Leases

log = structlog.get_logger("tagstone.duty")

#: How long a lease lasts that is not renewed: so long nobody does the work after a worker was killed.
DURATION = timedelta(seconds=30)
#: How often a lease is renewed, and asked for by those who do not have it. Seconds.
RENEWAL = 10.0


class Duty:
    """Repeats ``step`` while this worker has the lease ``name``; another one takes over when it ends.

    ``step`` does its own waiting, and is cancelled where the lease is lost. What it does must be safe to do twice: see
    :mod:`storage.leases`.
    """

    def __init__(self, name: str, step: Callable[[], Awaitable[None]], leases: Leases, clock: Clock) -> None:
        self._name = name
        self._step = step
        self._leases = leases
        self._clock = clock
        self._holder = secrets.token_hex(8)
        self._task: asyncio.Task[None] | None = None
        self._working: asyncio.Task[None] | None = None

    @property
    def on(self) -> bool:
        """Whether this worker is the one."""
        return self._working is not None

    async def start(self) -> None:
        """Begin to ask for the lease."""
        self._task = asyncio.create_task(forever(f"{self._name}-duty", self._renew), name=f"{self._name}-duty")

    async def close(self) -> None:
        """End the work, and let another worker have it at once."""
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        await self._end()
        try:
            # Also where it is not known to be held: whoever was cancelled while taking it may have it.
            await self._leases.release(self._name, self._holder)
        except StorageError as error:
            log.warning("duty.unreleased", duty=self._name, error=str(error), ends_within_seconds=DURATION.total_seconds())

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(RENEWAL):
                held = await self._leases.hold(self._name, self._holder, self._clock(), DURATION)
        except (StorageError, TimeoutError) as error:
            log.warning("duty.unrenewed", duty=self._name, error=str(error))
            held = False
        if held and self._working is None:
            log.debug("duty.begun", duty=self._name)
            self._working = asyncio.create_task(forever(self._name, self._step), name=self._name)
        elif not held and self._working is not None:
            log.info("duty.lost", duty=self._name)
            await self._end()
        await asyncio.sleep(RENEWAL if held else PAUSE)

    async def _end(self) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait((self._working,))
            self._working = None

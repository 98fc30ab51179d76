"""What enters the ledger without any change of a pin: that a pull was refused, and by which policy a server decides.

Neither is worth a pull's time, so both are written by a task of its own. Refusals are bounded: each (image, digest, cause) once,
at most so many in an hour over all workers, and only what was judged, so that names that clients make up never get here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import structlog

from proxy.policy.decision import Refusal
from proxy.services.background import forever
from proxy.services.revision import Clock
from storage.database import Database
from storage.entries import Entry, EntryKind
from storage.errors import StorageError
from storage.ledger import succeed
from storage.refusals import Outcome, record_refusal

log = structlog.get_logger("tagstone.bookkeeper")

_WAITING = 1000
#: Refusals that are known to be recorded, and need not be looked up.
_TOLD = 10_000
_HOUR = timedelta(hours=1)
#: Seconds in which nothing more is tried once an hour's refusals are recorded, or the database cannot be written.
_PAUSE = 60.0


class Bookkeeper:
    """Takes what is to be entered and enters it, one after the other. ``most``: refusals in an hour; 0: none are entered."""

    def __init__(self, database: Database, clock: Clock, most: int) -> None:
        self._database = database
        self._clock = clock
        self._most = most
        self._queue: asyncio.Queue[tuple[str, Refusal, str]] = asyncio.Queue(_WAITING)
        self._told: set[tuple[str, Refusal]] = set()
        self._policy: tuple[str, str, Mapping[str, Any]] | None = None
        self._wake = asyncio.Event()
        self._quiet_until = 0.0
        self._unrecorded = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to write."""
        steps = {"refusals": self._write, "policy": self._enter}
        self._tasks = [asyncio.create_task(forever(name, step), name=name) for name, step in steps.items()]

    async def close(self) -> None:
        """Write what still waits (for five seconds at most), then end."""
        if not self._tasks:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._queue.join()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        self._tasks = []

    def refused(self, subject: str, refusal: Refusal, reason: str) -> None:
        """A pull of ``subject`` (``registry/repository:tag`` or ``…@digest``) was refused. Never waits."""
        key = subject, refusal
        if self._most == 0 or key in self._told:
            return
        if asyncio.get_running_loop().time() < self._quiet_until or self._queue.full():
            self._unrecorded += 1
            return
        if len(self._told) >= _TOLD:
            self._told.clear()
        self._told.add(key)
        self._queue.put_nowait((subject, refusal, reason))

    def decides_by(self, policy: str, reason: str, facts: Mapping[str, Any]) -> None:
        """From now on this server decides by the policy of this hash; entered unless the ledger's last policy is the same."""
        self._policy = policy, reason, facts
        self._wake.set()

    async def _write(self) -> None:
        subject, refusal, reason = await self._queue.get()
        try:
            await self._record(subject, refusal, reason)
        finally:
            self._queue.task_done()

    async def _record(self, subject: str, refusal: Refusal, reason: str) -> None:
        now = self._clock()
        entry = Entry(EntryKind.REFUSAL, subject, now, "server", reason, None, str(refusal.digest), {"cause": refusal.cause})
        try:
            outcome = await self._database.write(record_refusal, entry, refusal.digest, refusal.cause, self._most, now - _HOUR)
        except StorageError as error:
            log.error("refusal.unrecorded", image=subject, digest=str(refusal.digest), error=str(error))
            outcome = Outcome.FULL
        if outcome is Outcome.FULL:
            self._told.discard((subject, refusal))  # it may come again when there is room
            self._unrecorded += 1
            self._quiet_until = asyncio.get_running_loop().time() + _PAUSE
        elif self._unrecorded:
            log.warning("refusals.unrecorded", count=self._unrecorded, reason="more than ledger.refusals in an hour")
            self._unrecorded = 0

    async def _enter(self) -> None:
        await self._wake.wait()
        self._wake.clear()
        if self._policy is None:
            return
        policy, reason, facts = self._policy
        entry = Entry(EntryKind.POLICY, "policy", self._clock(), "server", reason, None, policy, facts)
        try:
            if await self._database.write(succeed, entry):
                log.info("policy.recorded", policy=policy)
        except StorageError as error:
            log.error("policy.unrecorded", policy=policy, error=str(error), retry_seconds=_PAUSE)
            await asyncio.sleep(_PAUSE)
            self._wake.set()

"""A sweep: pins are judged again now, because somebody wants to know, by the verifier's means and at its pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from proxy.services.revision import Clock
from proxy.services.verifying.leave import Leave
from proxy.services.verifying.pins import PinVerifier, Result, Verified
from proxy.services.weighing import Manner
from storage.pins import PinStore
from storage.records import Pin
from storage.watching import Round, Seen, WatchStore

#: Pins that are read, and noted, at once.
PAGE = 100


class Sweep:
    """Judges pins in the order of their names. Raises StorageError. ``leaves``: by upstream, ``concurrency`` for each."""

    def __init__(
        self,
        verifier: PinVerifier,
        pins: PinStore,
        store: WatchStore,
        leaves: Mapping[str, Leave],
        concurrency: int,
        clock: Clock,
    ) -> None:
        self._verifier = verifier
        self._pins = pins
        self._store = store
        self._manners = {registry: Manner(leave=leave) for registry, leave in leaves.items()}
        self._rooms = {registry: asyncio.Semaphore(concurrency) for registry in leaves}
        self._clock = clock

    async def run(self, pattern: str | None) -> AsyncIterator[Verified]:
        """How each pin that matches ``pattern`` (None: all) stands."""
        after: str | None = None
        while page := await self._pins.list(pattern=pattern, limit=PAGE, after=after):
            after = page[-1].name
            for verified in await self._judge(page):
                yield verified

    async def _judge(self, page: Sequence[Pin]) -> list[Verified]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(pin)) for pin in page]
        found = [task.result() for task in tasks]
        now = self._clock()
        noted = {each.name: Seen(each.pin.digest, now) for each in found if each.pin and each.result is not Result.UNKNOWN}
        await self._store.noted(noted, Round.VERDICTS)
        return found

    async def _one(self, pin: Pin) -> Verified:
        registry = pin.repository.registry
        if registry not in self._manners:
            reason = f"{registry} is not among the configured upstreams"
            return Verified(pin.repository, pin.tag, Result.UNKNOWN, pin, (reason,))
        async with self._rooms[registry]:
            return await self._verifier.verify(pin.repository, pin.tag, self._manners[registry])

"""A sweep: pinned tags are checked now, because somebody wants to know, by the watcher's means and at its pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from proxy.services.checks import Checked, Result
from proxy.services.gate import Gate
from proxy.services.revision import Clock
from proxy.services.watching.pace import Pace
from proxy.settings import Watch
from proxy.upstream.client import Upstreams
from storage.pins import PinStore
from storage.records import Pin
from storage.watching import Seen, WatchStore

#: Pins that are read, and noted, at once.
PAGE = 100
#: How often a tag is asked about for which there were too many requests.
TRIES = 3
#: An upstream that wants to be left alone for longer than so many seconds is not waited for.
PATIENCE = 10.0


class Sweep:
    """Checks pins in the order of their names. Raises StorageError."""

    def __init__(
        self,
        gate: Gate,
        pins: PinStore,
        store: WatchStore,
        upstreams: Upstreams,
        settings: Watch,
        rates: Mapping[str, float | None],
        clock: Clock,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        """``rates``: requests a second by upstream; where None or 0, ``settings.rate``: 0 is about the schedule alone."""
        self._gate = gate
        self._pins = pins
        self._store = store
        self._upstreams = upstreams
        self._clock = clock
        self._mono = mono
        self._paces = {name: Pace(rate or settings.rate, settings.reserve) for name, rate in rates.items()}
        self._rooms = {name: asyncio.Semaphore(settings.concurrency) for name in rates}

    async def run(self, pattern: str | None) -> AsyncIterator[Checked]:
        """What became of each pinned tag that matches ``pattern`` (None: of all)."""
        after: str | None = None
        while page := await self._pins.list(pattern=pattern, limit=PAGE, after=after):
            after = page[-1].name
            for checked in await self._check(page):
                yield checked

    async def _check(self, page: Sequence[Pin]) -> list[Checked]:
        noted: dict[str, Seen] = {}
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(pin, noted)) for pin in page]
        if noted:
            await self._store.noted(noted)
        return [task.result() for task in tasks]

    async def _one(self, pin: Pin, noted: dict[str, Seen]) -> Checked:
        repository, registry = pin.repository, pin.repository.registry
        if registry not in self._paces:
            reason = f"{registry} is not among the configured upstreams"
            return Checked(repository, pin.tag, Result.DENIED, pin, reason)
        async with self._rooms[registry]:
            checked = await self._asked(pin, self._paces[registry], TRIES - 1)
        if checked.told and checked.pin is not None:
            noted[checked.name] = Seen(checked.pin.digest, self._clock())
        return checked

    async def _asked(self, pin: Pin, pace: Pace, more: int) -> Checked:
        """One check, in its time; where there were too many requests, up to so many ``more``."""
        repository, registry = pin.repository, pin.repository.registry
        while (wait := pace.wait(self._mono(), self._upstreams.allowance(registry))) > 0:
            if wait > PATIENCE:
                reason = f"{registry} is left alone for {wait:.0f} s: {pace.slow.value if pace.slow else 'it did not answer'}"
                return Checked(repository, pin.tag, Result.UNREACHABLE, pin, reason)
            await asyncio.sleep(wait)
        pace.spent(self._mono())
        refusals = self._upstreams.allowance(registry).refusals
        checked = await self._gate.check(repository, pin.tag)
        too_many = self._upstreams.allowance(registry).refusals > refusals
        return await self._asked(pin, pace, more - 1) if checked.result is Result.UNREACHABLE and too_many and more else checked

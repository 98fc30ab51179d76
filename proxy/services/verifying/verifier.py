"""The verifier: in one worker of all on the database, every upstream in a lane of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime

import structlog

from proxy.services.background import forever
from proxy.services.duty import Duty
from proxy.services.inventory import Ending
from proxy.services.metrics import Gauge
from proxy.services.verifying.endings import Endings
from proxy.services.verifying.lane import Lane, Tools
from proxy.services.verifying.leave import Leave
from proxy.settings import Verification, Watch
from proxy.upstream.client import Upstreams
from storage.catalog import BLOCK_NOTICE
from storage.errors import StorageError
from storage.leases import Leases
from storage.notices import EVERYTHING
from storage.records import Notice

log = structlog.get_logger("tagstone.verification")

#: Seconds between two looks at what of the trust ends.
LOOK = 3600.0
_TROUBLE = 5.0


class Verifier:
    """Judges what is pinned again for as long as the server runs, while this worker has that duty.

    ``rates``: the upstreams, each with the requests a second that it may be sent; None, or 0: ``watch.rate``. ``endings`` says
    what of today's trust ends, or has ended.
    """

    def __init__(
        self,
        tools: Tools,
        upstreams: Upstreams,
        rates: Mapping[str, float | None],
        settings: Verification,
        watch: Watch,
        told: Endings,
        endings: Callable[[datetime], Iterable[Ending]],
        leases: Leases,
    ) -> None:
        self._tools = tools
        self._rates = rates
        self._settings = settings
        self._told = told
        self._endings = endings
        self._leaves = {name: Leave(name, upstreams, rate or watch.rate, watch.reserve) for name, rate in rates.items()}
        self._lanes: dict[str, Lane] = {}
        self._counts: dict[str, Counter[str]] = {registry: Counter() for registry in rates}
        self._looked = asyncio.Event()
        self._duty = Duty("verification", self._run, leases, tools.clock)

    @property
    def on(self) -> bool:
        """Whether this worker is the one."""
        return bool(self._lanes)

    async def start(self) -> None:
        """Begin, as soon as this worker has the duty."""
        await self._duty.start()

    async def close(self) -> None:
        """End; judgements under way are broken off."""
        await self._duty.close()

    def adopt(self, settings: Verification, watch: Watch) -> None:
        """Go by these settings from now on."""
        self._settings = settings
        for name, leave in self._leaves.items():
            leave.adopt(self._rates[name] or watch.rate, watch.reserve)
        for lane in self._lanes.values():
            lane.adopt(settings)

    def changed(self) -> None:
        """Rules or trust are others now: whoever is concerned is judged at once."""
        self._looked.set()
        for lane in self._lanes.values():
            lane.changed()

    def notice(self, notice: Notice) -> None:
        """Something was written, by whomever: a block may be on what is pinned."""
        if notice.kind in {BLOCK_NOTICE, EVERYTHING}:
            for lane in self._lanes.values():
                lane.changed()

    async def _run(self) -> None:
        lanes = {
            registry: Lane(registry, self._tools, self._settings, leave, self._counts[registry])
            for registry, leave in self._leaves.items()
        }
        self._lanes = lanes
        try:
            async with asyncio.TaskGroup() as group:
                for registry, lane in lanes.items():
                    group.create_task(forever(f"verification {registry}", lane.turns))
                    group.create_task(forever(f"verification-changes {registry}", lane.changes))
                group.create_task(forever("endings", self._look))
        finally:
            self._lanes = {}

    async def _look(self) -> None:
        self._looked.clear()
        pause = LOOK
        try:
            await self._told.tell(self._endings(self._tools.clock()))
        except StorageError as error:
            log.error("verification.unable", error=str(error), retry_seconds=_TROUBLE)
            pause = _TROUBLE
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._looked.wait()

    def readings(self) -> Iterable[Gauge]:
        """For metrics. How old verdicts are is known where the duty is."""
        values = tuple(
            ((registry, result), float(count))
            for registry, counts in self._counts.items()
            for result, count in sorted(counts.items())
        )
        told = "Judgements of pinned digests by continuous verification, by result."
        yield Gauge("verifications", told, ("upstream", "result"), values, counter=True)
        yield Gauge("verification_on_duty", "1 in the worker that verifies.", (), (((), float(self.on)),))
        now = self._tools.clock()
        ages = {
            registry: max(0.0, (now - lane.oldest).total_seconds())
            for registry, lane in self._lanes.items()
            if lane.oldest is not None
        }
        interval = self._settings.interval
        yield Gauge(
            "verification_oldest_seconds",
            "Age of the verdict on the pinned digest that was judged least lately.",
            ("upstream",),
            tuple(((registry,), age) for registry, age in ages.items()),
        )
        yield Gauge(
            "verification_overdue_seconds",
            "By how much that is older than `verification.interval` wants.",
            ("upstream",),
            tuple(((registry,), max(0.0, age - interval) if interval else 0.0) for registry, age in ages.items()),
        )

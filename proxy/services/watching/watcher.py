"""The watcher: in one worker of all on the database, every upstream in a lane of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

from proxy.services.background import forever
from proxy.services.duty import Duty
from proxy.services.metrics import Gauge
from proxy.services.watching.lane import Lane, Tools
from proxy.settings import Watch
from storage.leases import Leases
from storage.records import Notice

#: What is exposed of each lane: its properties of these names.
_READINGS = {
    "due": "Pinned tags whose check is due.",
    "overdue_seconds": "By how much the pinned tag that waits longest for its check is overdue.",
    "slowed": "1 while an upstream is watched less often because it allows no more requests.",
    "away": "1 while an upstream is only tried now and then because it answers nothing.",
}


class Watcher:
    """Asks about pinned tags and reads lists of tags for as long as the server runs, while this worker has that duty.

    ``rates``: the upstreams, each with the requests a second that it may be sent; None: ``settings.rate``; 0: it is not watched.
    """

    def __init__(self, tools: Tools, rates: Mapping[str, float | None], settings: Watch, leases: Leases) -> None:
        self._tools = tools
        self._rates = {registry: rate for registry, rate in rates.items() if rate != 0}
        self._settings = settings
        self._lanes: dict[str, Lane] = {}
        self._counts: dict[str, Counter[tuple[str, str]]] = {registry: Counter() for registry in self._rates}
        self._duty = Duty("watch", self._run, leases, tools.clock)

    async def start(self) -> None:
        """Begin, as soon as this worker has the duty."""
        await self._duty.start()

    async def close(self) -> None:
        """End; checks under way are broken off."""
        await self._duty.close()

    def adopt(self, settings: Watch) -> None:
        """Watch by these settings from now on."""
        self._settings = settings
        for lane in self._lanes.values():
            lane.adopt(settings)

    def notice(self, notice: Notice) -> None:
        """A pin was changed, by whomever."""
        if notice.kind == "pin" and (lane := self._lanes.get(notice.subject.partition("/")[0])) is not None:
            lane.wake()

    async def _run(self) -> None:
        lanes = {
            registry: Lane(registry, self._tools, self._settings, rate, self._counts[registry])
            for registry, rate in self._rates.items()
        }
        self._lanes = lanes
        try:
            async with asyncio.TaskGroup() as group:
                for registry, lane in lanes.items():
                    group.create_task(forever(f"watch-pins {registry}", lane.pins))
                    group.create_task(forever(f"watch-tags {registry}", lane.tags))
                group.create_task(_for_ever())
        finally:
            self._lanes = {}

    def readings(self) -> Iterable[Gauge]:
        """For metrics. How late, slow or silent an upstream is, is known where the duty is."""
        for what, told in (("checks", "Checks of pinned tags"), ("lists", "Lists of tags that were read")):
            yield Gauge(
                f"watch_{what}",
                f"{told} by the watcher, by result.",
                ("upstream", "result"),
                tuple(
                    ((registry, result), float(count))
                    for registry, counts in self._counts.items()
                    for (kind, result), count in sorted(counts.items())
                    if kind == what
                ),
                counter=True,
            )
        lanes = self._lanes.items()
        yield Gauge("watch_on_duty", "1 in the worker that watches.", (), (((), float(self._duty.on)),))
        for name, told in _READINGS.items():
            values = tuple(((registry,), float(getattr(lane, name))) for registry, lane in lanes)
            yield Gauge(f"watch_{name}", told, ("upstream",), values)


async def _for_ever() -> None:
    """Without upstreams there is nothing to watch, and no end of that either."""
    await asyncio.Event().wait()

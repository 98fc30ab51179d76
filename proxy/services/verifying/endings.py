"""What of the trust ends soon, as events that are open for as long as it is so."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from proxy.services.inventory import Ending
from proxy.services.metrics import Metrics
from proxy.services.revision import Clock
from storage.events import EventStore
from storage.records import Event, EventType, Severity

log = structlog.get_logger("tagstone.verification")


class Endings:
    """Opens and closes ``key.expiring``: one event for each entry of ``trust``."""

    def __init__(self, events: EventStore, metrics: Metrics, clock: Clock) -> None:
        self._events = events
        self._metrics = metrics
        self._clock = clock

    async def tell(self, endings: Iterable[Ending]) -> None:
        """Bring the open events in line with what ends, or has ended, now. Raises StorageError."""
        now = self._clock()
        wanted: dict[str, list[Ending]] = {}
        for each in endings:
            wanted.setdefault(each.entry, []).append(each)
        events = {entry: _event(entry, found, self._clock) for entry, found in wanted.items()}
        for known in await self._events.open_of(EventType.KEY_EXPIRING):
            new = events.get(known.subject)
            if new is not None and new.message == known.message:
                del events[known.subject]
                continue
            await self._events.close(known.subject, {EventType.KEY_EXPIRING}, now)
        for event in events.values():
            if await self._events.record(event):
                self._metrics.happened(event.type.value)
                log.warning(event.type.value, entry=event.subject, message=event.message)


def _event(entry: str, found: list[Ending], clock: Clock) -> Event:
    message = f"{entry}: {'; '.join(each.told for each in found)}"
    ended = any(each.ended for each in found)
    ends = min((each.until for each in found if each.until is not None), default=None)
    details = {} if ends is None else {"until": ends.isoformat()}
    severity = Severity.CRITICAL if ended else Severity.WARNING
    return Event(EventType.KEY_EXPIRING, entry, None, message, clock(), severity=severity, details=details)

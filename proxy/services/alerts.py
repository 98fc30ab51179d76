"""Alerts: messages of the outbox are given to the sinks that want them, and delivered, by that one worker which has the duty.

Nothing here is on a pull's way. A pull writes its event and the message about it in its own transaction; what follows happens
beside it, from the database: after a crash it goes on where it was, and what may have been sent already is sent again under the
same id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from proxy.policy.alerts import Alertmanager, AlertPolicy, Apprise, CloudEvents, SinkPolicy
from proxy.services.background import PAUSE, forever
from proxy.services.delivery import LONGEST_SLEEP, Deliverer
from proxy.services.duty import Duty
from proxy.services.metrics import Gauge
from proxy.services.revision import Clock
from proxy.sinks.model import Sink
from storage.deliveries import Assignment, Deliveries
from storage.errors import StorageError
from storage.events import EventStore
from storage.leases import Leases
from storage.records import Event, Message, SinkStatus

log = structlog.get_logger("tagstone.alerts")

#: Makes an event say more before it is told (what changed between two digests, say), and perhaps graver.
Enrich = Callable[[Event], Awaitable[Event]]
#: Seconds that this may take for a page of messages; then the rest is told as it is.
ENRICH_TIMEOUT = 10.0
#: Events of which it is asked at a time: when many tags are overwritten at once, the upstream is not to bear it all at once.
ENRICH_AT_A_TIME = 4
#: Messages that are given to the sinks at a time.
PAGE = 50
#: Seconds between two rounds of looking after the tables.
TIDY = 600.0
#: How long a sink that no server has in its configuration is remembered.
FORGET = timedelta(days=1)


async def plain(event: Event) -> Event:
    """Say no more than there is."""
    return event


def make_sink(policy: SinkPolicy, source: str, user_agent: str) -> Sink:
    """The sink that a policy describes; nothing is dialled yet."""
    match policy.target:
        case CloudEvents():
            from proxy.sinks.cloudevents import CloudEventsSink

            return CloudEventsSink(policy.target, source, policy.timeout, user_agent=user_agent)
        case Alertmanager():
            from proxy.sinks.alertmanager import AlertmanagerSink

            return AlertmanagerSink(policy.target, source, policy.timeout, user_agent=user_agent)
        case Apprise():
            from proxy.sinks.people import PeopleSink

            return PeopleSink(policy.target, policy.timeout, digest=policy.digest is not None)


class Alerts:
    """All sinks of one server. ``enrich`` is asked about every event before it is told."""

    def __init__(
        self,
        policy: AlertPolicy,
        deliveries: Deliveries,
        events: EventStore,
        leases: Leases,
        clock: Clock,
        *,
        user_agent: str,
        enrich: Enrich = plain,
    ) -> None:
        self._policy = policy
        self._deliveries = deliveries
        self._events = events
        self._clock = clock
        self._user_agent = user_agent
        self._enrich = enrich
        self._duty = Duty("alerts", self._run, leases, clock)
        self._woken = asyncio.Event()
        self._changed = asyncio.Event()
        self._deliverers: list[Deliverer] = []
        self._tidied_at: float | None = None  # monotonic
        self._status: tuple[datetime, tuple[SinkStatus, ...]] | None = None

    async def start(self) -> None:
        """Make the sinks known, so that nothing that is told from now on passes them by, and begin. Raises StorageError."""
        await self._deliveries.register(self._names, self._clock())
        await self._duty.start()

    async def close(self) -> None:
        """End. An attempt under way may end within a few seconds; everything else waits in the database."""
        await self._duty.close()

    def follow(self, policy: AlertPolicy) -> None:
        """Another configuration holds from now on."""
        if policy != self._policy:
            self._policy = policy
            self._changed.set()
            self.wake()

    def wake(self) -> None:
        """Something may have to be told."""
        self._woken.set()
        for each in self._deliverers:
            each.wake()

    async def look(self) -> None:
        """Learn from the database what :meth:`readings` say. What cannot be read now is as it was."""
        try:
            self._status = self._clock(), tuple(await self._deliveries.status())
        except StorageError as error:
            log.warning("alerts.status_unread", error=str(error))

    def readings(self) -> list[Gauge]:
        """How the sinks did when they were last looked at, for the metrics."""
        if self._status is None or not self._status[1]:
            return []
        now, found = self._status
        oldest = {each.name: 0.0 if each.oldest is None else max(0.0, (now - each.oldest).total_seconds()) for each in found}

        def values(read: Callable[[SinkStatus], float]) -> tuple[tuple[tuple[str, ...], float], ...]:
            return tuple(((each.name,), float(read(each))) for each in found)

        sink = ("sink",)
        return [
            Gauge("alerts_waiting", "Alerts that wait to be taken by a sink.", sink, values(lambda each: each.waiting)),
            Gauge(
                "alerts_oldest_seconds", "How long the oldest of them has waited.", sink, values(lambda each: oldest[each.name])
            ),
            Gauge("alerts_delivered", "Alerts that a sink took.", sink, values(lambda each: each.delivered), counter=True),
            Gauge(
                "alerts_failed",
                "Alerts that are not tried again: refused, or out of reach for too long.",
                sink,
                values(lambda each: each.rejected),
                counter=True,
            ),
            Gauge(
                "alerts_sink_failures",
                "Attempts that failed since the last that did not.",
                sink,
                values(lambda each: each.failures),
            ),
        ]

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self._policy.sinks)

    # -- the duty -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Give out messages and deliver them, each sink in a task of its own, until the configuration changes."""
        self._changed.clear()
        policy = self._policy
        try:
            await self._deliveries.register(self._names, self._clock())
        except StorageError as error:
            log.error("alerts.database", error=str(error))
            await asyncio.sleep(PAUSE)
            return
        async with AsyncExitStack() as exits:
            self._deliverers = [self._deliverer(each) for each in policy.sinks]
            tasks = [asyncio.create_task(forever("alerts-outbox", self._hand_out), name="alerts-outbox")]
            for name, deliverer in zip(self._names, self._deliverers, strict=True):
                exits.push_async_callback(deliverer.close)
                tasks.append(asyncio.create_task(forever(f"alerts-{name}", deliverer.step), name=f"alerts-{name}"))
            exits.push_async_callback(_end, tasks)
            await self._changed.wait()

    def _deliverer(self, policy: SinkPolicy) -> Deliverer:
        sink = make_sink(policy, self._policy.source, self._user_agent)
        give_up = timedelta(seconds=self._policy.give_up)
        return Deliverer(policy, sink, self._deliveries, self._events, self._clock, give_up=give_up)

    async def _hand_out(self) -> None:
        """One page of the outbox, or wait for news."""
        self._woken.clear()
        try:
            await self._tidy()
            page = await self._deliveries.unassigned(self._names, PAGE) if self._policy.sinks else []
            if page:
                await self._assign(page)
                return
        except StorageError as error:
            log.error("alerts.database", error=str(error))
            await asyncio.sleep(PAUSE)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_SLEEP):
                await self._woken.wait()

    async def _assign(self, page: list[Message]) -> None:
        changed = await self._enriched(page)
        events = {message.number: event for message, event in changed}
        page = [replace(each, event=events.get(each.number, each.event)) for each in page]
        now = self._clock()
        plan = [
            Assignment(sink.name, message, None if sink.digest is None else sink.digest.after(now))
            for message in page
            for sink in self._policy.sinks
            if sink.wants(message.event)
        ]
        await self._deliveries.assign(self._names, page[-1], plan, changed)
        for each in self._deliverers:
            each.wake()

    async def _enriched(self, page: list[Message]) -> list[tuple[Message, Event]]:
        """Those messages whose events now say more. It is asked once for each: what is told later says the same."""
        fresh = [message for message in page if not message.resolved]
        until, slots = asyncio.get_running_loop().time() + ENRICH_TIMEOUT, asyncio.Semaphore(ENRICH_AT_A_TIME)
        found = await asyncio.gather(*(self._enrich_one(message.event, until, slots) for message in fresh))
        return [(message, event) for message, event in zip(fresh, found, strict=True) if event != message.event]

    async def _enrich_one(self, event: Event, until: float, slots: asyncio.Semaphore) -> Event:
        try:
            async with asyncio.timeout_at(until), slots:
                return await self._enrich(event)
        except TimeoutError:
            reason = f"it took longer than {ENRICH_TIMEOUT:g} s"
        except Exception as error:  # whatever is wrong with saying more, what there is must be told
            reason = f"{type(error).__name__}: {error}"
        log.warning("alerts.not_enriched", event_type=event.type.value, subject=event.subject, reason=reason)
        return event

    async def _tidy(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._tidied_at is not None and now < self._tidied_at + TIDY:
            return
        self._tidied_at = now
        clock = self._clock()
        await self._deliveries.register(self._names, clock)
        ended_before = clock - timedelta(seconds=self._policy.keep)
        if removed := await self._deliveries.prune(clock, ended_before=ended_before, unseen_since=clock - FORGET):
            log.debug("alerts.pruned", deliveries=removed)
        if removed := await self._events.prune(clock - timedelta(seconds=self._policy.history)):
            log.debug("alerts.pruned", events=removed)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

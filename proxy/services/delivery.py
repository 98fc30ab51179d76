"""The deliverer of one sink: takes what is due for it, sends it, notes what became of it. It knows nothing of other sinks.

An attempt that failed puts off its messages, each by its own number of attempts, and the sink as a whole by the number of
failures in a row: one message that a sink stumbles over does not hold up those behind it, and a sink that is down is not asked
more often than once in :data:`proxy.policy.alerts.LONGEST_PAUSE`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from proxy.policy.alerts import FAILING_AFTER, LONGEST_PAUSE, LONGEST_RETRY_AFTER, SinkPolicy, pause
from proxy.services.background import PAUSE
from proxy.services.revision import Clock
from proxy.sinks.model import Answer, Kind, Sink
from storage.deliveries import Deliveries, Patience, Work
from storage.errors import StorageError
from storage.events import EventStore
from storage.records import Delivery, Event, EventType, sink_subject

log = structlog.get_logger("tagstone.alerts")

#: Longest sleep without looking, in seconds: whatever wakes a deliverer may have been missed.
LONGEST_SLEEP = 30.0
#: How long an attempt that is under way may take when the server stops, in seconds.
GRACE = 5.0
#: Open events that are read at a time, to be sent again.
PAGE = 1000
_DIGEST_AHEAD = timedelta(days=8)  # longer than a week: what is due later than that was never meant


class Deliverer:
    """Delivers to one sink, step by step. ``chance`` gives numbers in [0, 1), for jitter."""

    def __init__(
        self,
        policy: SinkPolicy,
        sink: Sink,
        deliveries: Deliveries,
        events: EventStore,
        clock: Clock,
        *,
        give_up: timedelta,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._name = policy.name
        self._sink = sink
        self._deliveries = deliveries
        self._events = events
        self._clock = clock
        self._patience = Patience(give_up, max(FAILING_AFTER, round(give_up.total_seconds() / LONGEST_PAUSE)))
        self._chance = chance
        self._woken = asyncio.Event()
        self._reminded_at: float | None = None  # monotonic

    def wake(self) -> None:
        """Something may be due."""
        self._woken.set()

    async def close(self) -> None:
        """Close the sink's connections."""
        await self._sink.close()

    async def step(self) -> None:
        """Send what is due, or wait until something may be."""
        self._woken.clear()
        try:
            wait = await self._work()
        except StorageError as error:
            log.error("alerts.database", sink=self._name, error=str(error))
            wait = PAUSE
        if wait > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait, LONGEST_SLEEP)):
                    await self._woken.wait()

    async def _work(self) -> float:
        """One attempt at most; seconds until there is reason for another."""
        now = self._clock()
        digest = self._policy.digest is not None
        far = now + (_DIGEST_AHEAD if digest else timedelta(seconds=LONGEST_PAUSE))
        work = await self._deliveries.work(self._name, now, far, self._sink.batch, in_order=not digest)
        if work.retry_at is not None and now < work.retry_at <= now + timedelta(seconds=LONGEST_RETRY_AFTER):
            return (work.retry_at - now).total_seconds()
        if work.batch:
            await self._to_its_end(self._deliver(work))
            return 0
        remind_in = self._remind_in()
        if remind_in <= 0:
            await self._to_its_end(self._remind(work))
            return 0
        later = LONGEST_SLEEP if work.next_at is None else (work.next_at - now).total_seconds()
        return max(0.001, min(later, remind_in))

    async def _to_its_end(self, attempt: Awaitable[None]) -> None:
        """Do not break off what is under way when the server stops, or the lease is lost, if it ends soon."""
        task = asyncio.ensure_future(attempt)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait((task,), timeout=GRACE)
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("alerts.unrecorded", sink=self._name, error=str(error))
            raise

    # -- sending --------------------------------------------------------------------------------------------------------

    async def _deliver(self, work: Work) -> None:
        batch = work.batch
        answer = await self._sink.send([each.message for each in batch])
        if answer.kind is Kind.REFUSED and len(batch) > 1:
            # One of them may be what it refuses: the others need not fail with it.
            for each in batch:
                await self._note(work, (each,), await self._sink.send([each.message]))
            return
        await self._note(work, batch, answer)

    async def _note(self, work: Work, batch: Sequence[Delivery], answer: Answer) -> None:
        ids = [each.id for each in batch]
        match answer.kind:
            case Kind.TAKEN:
                log.debug("alerts.delivered", sink=self._name, messages=len(batch), answer=answer.words)
                await self._taken(ids)
            case Kind.REFUSED:
                log.error("alerts.refused", sink=self._name, messages=[each.message.id for each in batch], answer=answer.words)
                tell = self._failing(f"refused an alert, and it is not tried again: {answer.words}", None)
                if await self._deliveries.refused(self._name, ids, self._clock(), answer.words, tell):
                    log.error("alerts.sink_failing", sink=self._name, reason=answer.words)
            case Kind.FAILED | Kind.GONE:
                await self._put_off(work, batch, answer)

    async def _taken(self, ids: Sequence[int]) -> None:
        if await self._deliveries.delivered(self._name, ids, self._clock()):
            log.info("alerts.sink_recovered", sink=self._name)

    async def _put_off(self, work: Work, batch: Sequence[Delivery], answer: Answer) -> None:
        now = self._clock()
        failures = work.failures + 1
        gone = answer.kind is Kind.GONE
        # Retry-After is the sink's own word; who is gone is asked once a day, in case it comes back.
        least = LONGEST_RETRY_AFTER if gone else answer.retry_after or 0.0
        retry_at = now + timedelta(seconds=max(least, pause(failures, self._chance)))
        due = {each.id: now + timedelta(seconds=pause(each.attempts + 1, self._chance)) for each in batch}
        log.warning(
            "alerts.failed",
            sink=self._name,
            messages=len(batch),
            answer=answer.words,
            failures=failures,
            retry_seconds=round((retry_at - now).total_seconds(), 1),
        )
        tell = None
        if failures >= FAILING_AFTER or gone:
            since = work.failing_since or now
            tell = self._failing(f"has not taken alerts {failures} times in a row: {answer.words}", since)
        lost, news = await self._deliveries.postponed(self._name, due, now, retry_at, answer.words, self._patience, tell)
        if news:
            log.error("alerts.sink_failing", sink=self._name, reason=answer.words)
        if lost:
            log.error("alerts.given_up", sink=self._name, messages=lost, answer=answer.words)

    def _failing(self, words: str, since: datetime | None) -> Event:
        details = {"sink": self._name} | ({} if since is None else {"failing_since": since.isoformat(timespec="seconds")})
        told = f"the alert sink {self._name} {words}"
        return Event(EventType.SINK_FAILING, sink_subject(self._name), None, told, self._clock(), details=details)

    # -- what is open ---------------------------------------------------------------------------------------------------

    def _remind_in(self) -> float:
        if self._sink.resend is None:
            return LONGEST_SLEEP
        now = asyncio.get_running_loop().time()
        return 0.0 if self._reminded_at is None else self._reminded_at + self._sink.resend - now

    async def _remind(self, work: Work) -> None:
        self._reminded_at = asyncio.get_running_loop().time()
        after, reminded = 0, False
        while page := await self._events.open_after(after, PAGE):
            after = page[-1][0]
            wanted = [event for _, event in page if self._policy.wants(event)]
            for start in range(0, len(wanted), self._sink.batch):
                answer = await self._sink.remind(wanted[start : start + self._sink.batch])
                if not answer.taken:
                    await self._put_off(work, (), answer)
                    return
                reminded = True
        if work.failures and reminded:  # where nothing was sent (what is open may be its own failure), nothing was taken
            await self._taken(())

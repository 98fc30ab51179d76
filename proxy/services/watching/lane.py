"""One upstream: its pins and lists of tags have their turns, as fast as it allows, whatever becomes of other upstreams."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from proxy.services.checks import UNTOLD, Result, Standing
from proxy.services.gate import Gate
from proxy.services.metrics import Metrics
from proxy.services.revision import Clock
from proxy.services.watching.course import CATCH_UP, STRIDE, Course, moved, seen_lately, turn_of
from proxy.services.watching.pace import Health, Pace, Slow
from proxy.services.watching.tags import TagLists
from proxy.settings import Watch
from proxy.upstream.client import Allowance, Upstreams
from storage.errors import StorageError
from storage.events import EventStore
from storage.records import Event, EventType
from storage.reference import Repository
from storage.verdicts import VerdictStore
from storage.watching import PHASES, Hand, Round, Seen, Turn, WatchStore

log = structlog.get_logger("tagstone.watch")

#: How many turns are read, and kept, at once.
PAGE = 100
#: Longest and shortest time between two looks at whose turn it is, in seconds.
LOOK, SOONEST = 15.0, 0.05
#: Where few have their turn at once, so many seconds pass before the next look, but not more than this part of a turn: looking,
#: and writing down what was seen, costs about as much for one as for all of a page.
GATHER, PART = 3.0, 1 / 100
#: What was looked up for a page is taken at its word for so many seconds. Later in a slow page, each check looks for itself.
FRESH = 15.0
#: What could not be asked is asked again after so many seconds, twice as many the next time, so many times; and so many of it
#: are remembered.
AGAIN, TIMES, MOST = 15.0, 3, 1000
#: A repository is not listed out of its turn again within so many seconds.
REST = 60.0
#: Seconds to wait where the database does not answer.
_TROUBLE = 5.0
#: Longest wait for the next request, in seconds, in the middle of a page.
_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What all lanes work with."""

    gate: Gate
    upstreams: Upstreams
    store: WatchStore
    verdicts: VerdictStore
    events: EventStore
    lists: TagLists
    metrics: Metrics
    clock: Clock
    mono: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


@dataclass(frozen=True, slots=True)
class _Failed:
    """A check that said nothing, to be repeated."""

    repository: Repository
    tag: str
    times: int
    at: float


class Lane:
    """The watcher's work for one registry. ``counts``: (what, result) → how often, kept by whoever outlives the lane."""

    def __init__(
        self, registry: str, tools: Tools, settings: Watch, rate: float | None, counts: Counter[tuple[str, str]]
    ) -> None:
        self.registry = registry
        self.due = 0  #: pins whose turn it is
        self._tools = tools
        self._rate = rate
        self._counts = counts
        self._settings = settings
        self._pace = Pace(settings.rate if rate is None else rate, settings.reserve)
        self._health = Health()
        self._answered = False  # whether it ever did, while this lane was there
        self._clear = False  # whether no event about its silence is open any more
        self._misbehaved_at: datetime | None = tools.clock()  # as if: an event of before may be open
        self._misbehaved = ""
        self._misbehaviour_told = False
        self._seen: dict[str, Seen] = {}  # which pins it told about: not written yet
        self._trouble: StorageError | None = None
        self._courses: dict[Round, Course] = {}
        self._again: dict[tuple[Repository, str], _Failed] = {}
        self._next_try = 0.0
        self._tried: int | None = None  # the phase of the tag that was tried last while the upstream is away
        self._unanswered: tuple[Repository, str] | None = None  # about what nothing was heard last
        self._behind = False  # whether it is told
        self._behind_since: float | None = None
        self._slow: Slow | None = None
        self._reporting = asyncio.Lock()
        self._woken = {each: asyncio.Event() for each in Round}

    def adopt(self, settings: Watch) -> None:
        """Watch by these settings from now on."""
        self._settings = settings
        self._pace.adopt(settings.rate if self._rate is None else self._rate, settings.reserve)
        for event in self._woken.values():
            event.set()

    def wake(self) -> None:
        """Something happened to a pin of this registry: its list of tags may be due."""
        self._woken[Round.TAGS].set()

    @property
    def overdue_seconds(self) -> float:
        """By how many seconds the pin that waits longest for its check is overdue."""
        course = self._courses.get(Round.PINS)
        if course is None or not self._settings.interval:
            return 0.0
        late = course.late(self._tools.clock(), turn_of(self._settings.interval, self._settings.jitter))
        return late if self.due else 0.0  # where nobody waits the hand is only looked at now and then

    @property
    def slowed(self) -> bool:
        """Whether it is asked less often than was configured."""
        return self._pace.slow is not None

    @property
    def away(self) -> bool:
        """Whether it answers nothing."""
        return self._health.away

    # -- the two rounds -------------------------------------------------------------------------------------------------

    async def pins(self) -> None:
        """Check the pins whose turn it is, then wait until there are more."""
        await self._work(Round.PINS, self._settings.interval, self._pins)

    async def tags(self) -> None:
        """Read the lists of tags whose turn it is, then wait until there are more."""
        await self._work(Round.TAGS, self._settings.tags_interval, self._tags)

    async def _work(self, which: Round, interval: float, work: Callable[[float], Awaitable[float]]) -> None:
        woken = self._woken[which]
        woken.clear()
        pause = LOOK
        if interval:
            try:
                pause = await work(interval)
                await self._report()
            except StorageError as error:
                log.error("watch.unwritten", upstream=self.registry, error=str(error), retry_seconds=_TROUBLE)
                self._courses.pop(which, None)  # what is kept is where it goes on
                pause = _TROUBLE
        with suppress(TimeoutError):
            async with asyncio.timeout(min(LOOK, max(SOONEST, pause))):
                await woken.wait()

    async def _pins(self, interval: float) -> float:
        if self._health.away:
            return await self._try()
        self._tried = None
        mono = self._tools.mono()
        for failed in [failed for failed in self._again.values() if failed.at <= mono][:PAGE]:
            if (wait := await self._room()) > 0:
                return wait
            del self._again[failed.repository, failed.tag]
            await self._check(failed.repository, failed.tag, failed.times)
        return await self._round(Round.PINS, interval)

    async def _tags(self, interval: float) -> float:
        if self._health.away:
            return LOOK
        tools = self._tools
        for repository in await tools.store.soon(self.registry, tools.clock() - timedelta(seconds=REST), PAGE):
            if (wait := await self._room()) > 0:
                return wait
            await self._list(repository)
        return await self._round(Round.TAGS, interval)

    async def _try(self) -> float:
        """Ask about one tag whether the upstream is back. Seconds until there is something to do again.

        Each time about another one, and not first about the one that said nothing last: there may be some of which nothing can
        be heard whatever the upstream does.
        """
        wait = max(self._next_try - self._tools.mono(), self._pace.wait(self._tools.mono(), self._allowance()))
        if wait > 0:
            return wait
        self._pace.spent(self._tools.mono())
        start = (await self._course(Round.PINS)).hand.position if self._tried is None else self._tried
        turns = await self._tools.store.due(self.registry, Round.PINS, start, PHASES, 2)
        for turn in sorted(turns, key=lambda turn: (turn.repository, turn.tag) == self._unanswered)[:1]:
            self._tried = (start + turn.ahead) % PHASES
            await self._check(turn.repository, turn.tag, 0)
        self._next_try = self._tools.mono() + self._health.pause()
        return 0.0

    async def _round(self, which: Round, interval: float) -> float:
        """Let the hand go as far as it may. Seconds until there is something to do again."""
        tools, settings = self._tools, self._settings
        turn = turn_of(interval, settings.jitter)
        course = await self._course(which)
        reach = course.reach(tools.clock(), tools.mono(), turn)
        position = course.hand.position
        turns = await tools.store.due(self.registry, which, position, reach, PAGE)
        if which is Round.PINS:
            await self._reckon(course, turns, turn)
        if not turns:
            course.passed(reach, tools.mono(), turn)
            if which is Round.PINS and self._seen:  # of those that were asked again
                seen, self._seen = self._seen, {}
                await tools.store.turned(self.registry, which, course.hand, seen, {})
            ahead = await tools.store.next(self.registry, which, course.hand.position)
            pace = CATCH_UP if course.late(tools.clock(), turn) > 1 else 1.0
            # Something new may have its turn before what is there now.
            return turn / 8 if ahead is None else min(turn / 8, turn * ahead / PHASES / pace)
        looked = tools.mono()
        standing = await self._standing(turns) if which is Round.PINS else {}
        places: dict[str, int] = {}
        room = asyncio.Semaphore(settings.concurrency if which is Round.PINS else 1)
        passed, wait = 0, 0.0
        async with asyncio.TaskGroup() as group:
            for each in turns:
                repeated = which is Round.PINS and (each.repository, each.tag) in self._again
                if not repeated and not seen_lately(each.at, tools.clock(), interval, settings.jitter):
                    await room.acquire()
                    wait = await self._room()
                    if wait > 0 or self._health.away or settings is not self._settings or self._trouble is not None:
                        break
                    fresh = tools.mono() - looked < FRESH
                    group.create_task(self._visit(each, standing.get(each.name) if fresh else None, room))
                    places[each.name] = moved((position + each.ahead) % PHASES, settings.jitter)
                passed = each.ahead
            else:
                passed = passed if len(turns) == PAGE else reach
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
        course.passed(passed, tools.mono(), turn)
        seen, self._seen = (self._seen, {}) if which is Round.PINS else ({}, self._seen)
        await tools.store.turned(self.registry, which, course.hand, seen, places)
        return wait if len(turns) == PAGE else max(wait, min(GATHER, turn * PART))

    async def _standing(self, turns: Sequence[Turn]) -> dict[str, Standing]:
        """What a check need not look up by itself, of all that have their turn at once."""
        questions = {turn.name: self._tools.gate.rule(turn.repository).fingerprint for turn in turns}
        found = await self._tools.verdicts.standing(questions, self._tools.clock())
        return {name: Standing(pin, questions[name]) for name, pin in found.items()}

    async def _visit(self, turn: Turn, standing: Standing | None, room: asyncio.Semaphore) -> None:
        try:
            if turn.tag:
                await self._check(turn.repository, turn.tag, 0, standing)
            else:
                await self._list(turn.repository)
        except StorageError as error:
            self._trouble = error
        finally:
            room.release()

    async def _course(self, which: Round) -> Course:
        course = self._courses.get(which)
        if course is None:
            tools = self._tools
            hand = await tools.store.hand(self.registry, which)
            if hand is None:
                hand = Hand(0, tools.clock())
                await tools.store.turned(self.registry, which, hand, {}, {})
            course = self._courses[which] = Course(hand, tools.mono())
        return course

    # -- one request ----------------------------------------------------------------------------------------------------

    def _allowance(self) -> Allowance:
        return self._tools.upstreams.allowance(self.registry)

    async def _room(self) -> float:
        """Wait for the next request, and count it: 0. Where that is long, nothing is counted, and the seconds are answered."""
        while (wait := self._pace.wait(self._tools.mono(), self._allowance())) > 0:
            self._tell_pace()
            if wait > _PATIENCE:
                return wait
            await self._tools.sleep(wait)
        self._tell_pace()
        self._pace.spent(self._tools.mono())
        return 0.0

    async def _check(self, repository: Repository, tag: str, times: int, standing: Standing | None = None) -> None:
        checked = await self._tools.gate.check(repository, tag, standing)
        self._counts["checks", checked.result.value] += 1
        if checked.told and checked.pin is not None:
            self._seen[checked.name] = Seen(checked.pin.digest, self._tools.clock())
        if checked.asked:  # else nothing is known of the upstream
            self._heard(checked.result, checked.message, told=checked.told)
        if checked.result is Result.UNREACHABLE and (times < TIMES or self._health.away):
            log.debug("watch.unreachable", image=checked.name, error=checked.message)
            self._unanswered = repository, tag
            at = self._tools.mono() + AGAIN * 2**times
            self._again[repository, tag] = _Failed(repository, tag, min(times + 1, TIMES), at)
            if len(self._again) > MOST:
                del self._again[next(iter(self._again))]  # it has its turn as all others

    async def _list(self, repository: Repository) -> None:
        settings = self._settings
        lately = max(settings.interval, settings.tags_interval)
        listing = await self._tools.lists.read(repository, settings.tags, lately)
        self._counts["lists", listing.result.value] += 1
        if listing.requests > 1:
            self._pace.spent(self._tools.mono(), listing.requests - 1)
        self._heard(listing.result, listing.error, told=listing.requests > 0)

    def _heard(self, result: Result, error: str, *, told: bool) -> None:
        """What an answer, or none, says of the upstream."""
        now = self._tools.clock()
        if result in UNTOLD:
            self._health.failed(now, error, outage=result is Result.UNREACHABLE)
            if result is Result.MISBEHAVED:
                self._misbehaved_at, self._misbehaved = now, self._misbehaved or error
        elif told:
            self._health.answered()
            self._answered = True

    # -- what is told ---------------------------------------------------------------------------------------------------

    async def _reckon(self, course: Course, turns: Sequence[Turn], turn: float) -> None:
        """How many wait, and whether it is too many."""
        late = course.late(self._tools.clock(), turn)
        self.due = len(turns)
        if len(turns) == PAGE or late > 2 * STRIDE:  # there are more than those who have their turn now
            reach = round(PHASES * late / turn)
            self.due = await self._tools.store.count(self.registry, Round.PINS, course.hand.position, reach)
        if late < 0.98 * turn:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._tools.mono()  # after a pause it is, too, and makes up for it
        elif not self._behind and self._health.since is None and self._tools.mono() - self._behind_since > turn / 4:
            self._behind = True
            told = "fewer checks are made than `watch.interval` wants: raise it, or the rate, if the upstream allows"
            log.warning("watch.behind", upstream=self.registry, due=self.due, reason=told)
        if late < turn / 2:
            self._behind = False

    def _tell_pace(self) -> None:
        slow = self._pace.slow
        if slow is not None and self._slow is None:
            allowance = self._allowance()
            log.warning("watch.slowed", upstream=self.registry, reason=slow.value, remaining=allowance.remaining)
        elif slow is None and self._slow is not None:
            log.info("watch.at_full_rate", upstream=self.registry)
        self._slow = slow

    async def _report(self) -> None:
        """Open and close the events about this upstream."""
        async with self._reporting:
            await self._report_now()

    async def _report_now(self) -> None:
        tools, now = self._tools, self._tools.clock()
        health, open_and_close = self._health, tools.events
        if self._answered and health.since is None and not self._clear:
            if await open_and_close.close(self.registry, {EventType.UPSTREAM_UNREACHABLE}, now):
                log.info("upstream.reachable", upstream=self.registry)
            self._clear = True
        if health.silent(now, self._settings.unreachable_after):
            since = health.since or now
            message = f"{self.registry} has answered no question about a tag since {since:%Y-%m-%d %H:%M} UTC: {health.error}"
            await self._open(Event(EventType.UPSTREAM_UNREACHABLE, self.registry, None, message, now))
            health.told = True
            self._clear = False
        if self._misbehaved and not self._misbehaviour_told:
            message = f"{self.registry} breaks promises of the protocol: {self._misbehaved}"
            await self._open(Event(EventType.UPSTREAM_MISBEHAVING, self.registry, None, message, now))
            self._misbehaviour_told = True
        elif self._misbehaved_at is not None and self._all_seen_since(self._misbehaved_at, now):
            await open_and_close.close(self.registry, {EventType.UPSTREAM_MISBEHAVING}, now)
            self._misbehaved_at, self._misbehaved, self._misbehaviour_told = None, "", False

    def _all_seen_since(self, then: datetime, now: datetime) -> bool:
        """Whether every pin had its turn since ``then``: not where the hand is late, as nothing is asked (an outage, a limit)."""
        interval, course = self._settings.interval, self._courses.get(Round.PINS)
        if not interval or course is None or (now - then).total_seconds() <= 1.5 * interval:
            return False
        return course.late(now, turn_of(interval, self._settings.jitter)) < interval / 2

    async def _open(self, event: Event) -> None:
        if await self._tools.events.record(event):
            self._tools.metrics.happened(event.type.value)
            log.warning(event.type.value, upstream=event.subject, message=event.message)

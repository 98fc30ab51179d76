"""One upstream: all its pins are judged again within an interval, and at once those whom a change of rules or trust concerns."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import structlog

from proxy.services.gate import Gate
from proxy.services.revision import Clock
from proxy.services.verifying.leave import Leave
from proxy.services.verifying.pins import PinVerifier, Result
from proxy.services.watching.course import CATCH_UP, Course, seen_lately, turn_of
from proxy.services.weighing import Manner
from proxy.settings import Verification
from storage.errors import StorageError
from storage.reference import Repository
from storage.verdicts import Lacking, VerdictStore
from storage.watching import PHASES, Hand, Round, Seen, WatchStore

log = structlog.get_logger("tagstone.verification")

#: How many pins are read at once.
PAGE, SWEEP_PAGE = 50, 1000
#: Longest and shortest time between two looks at whose turn it is, in seconds.
LOOK, SOONEST = 15.0, 0.05
#: After those whose turn it was so much of a turn passes before the next look, and no more than :data:`LOOK`: looking, and
#: writing down who was judged, costs about as much for one as for a page.
PART = 1 / 1000
#: Who was judged so short a part of the interval ago is passed over.
JITTER = 0.1
#: What could not be told is judged again after so many seconds, twice as many the next time, so many times; and so many of it are
#: remembered.
AGAIN, TIMES, MOST = 300.0, 3, 1000
#: Seconds between two looks for pins whose verdict has ended by itself. Between two pages of such a look, so many times as long
#: as the page took, and so many seconds at most: pulls, which are judged by themselves, must not feel it.
SWEEP, BREATH, LONGEST = 3600.0, 40.0, 5.0
#: Seconds between two looks at how old the oldest verdict is: all pins of the registry are gone through for that.
AGE = 60.0
#: Seconds to wait where the database does not answer.
_TROUBLE = 5.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What all lanes work with."""

    gate: Gate
    verifier: PinVerifier
    verdicts: VerdictStore
    rounds: WatchStore
    clock: Clock
    mono: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class _Untold:
    """A pin of which nothing could be told, to be judged again."""

    repository: Repository
    tag: str
    times: int
    at: float


class Lane:
    """The work for one registry. ``counts``: result → how often, kept by whoever outlives the lane."""

    def __init__(self, registry: str, tools: Tools, settings: Verification, leave: Leave, counts: Counter[str]) -> None:
        self.registry = registry
        self.oldest: datetime | None = None  #: when that pin was judged that was so least lately
        self._tools = tools
        self._settings = settings
        self._leave = leave
        self._counts = counts
        self._age_due = float("-inf")
        self._course: Course | None = None
        self._again: deque[_Untold] = deque(maxlen=MOST)
        self._seen: dict[str, Seen] = {}  # who was judged: not written yet
        self._woken = asyncio.Event()
        self._changed = asyncio.Event()
        self._changed.set()  # what changed while nobody had the duty is not known

    def adopt(self, settings: Verification) -> None:
        """Go by these settings from now on."""
        self._settings = settings
        self._woken.set()
        self._changed.set()

    def changed(self) -> None:
        """Rules, trust or blocks are others: see whom that concerns."""
        self._changed.set()

    # -- the round ------------------------------------------------------------------------------------------------------

    async def turns(self) -> None:
        """Judge the pins whose turn it is, then wait until there are more."""
        self._woken.clear()
        pause = LOOK
        try:
            pause = await self._go_on()
        except StorageError as error:
            log.error("verification.unable", upstream=self.registry, error=str(error), retry_seconds=_TROUBLE)
            self._course = None  # what is kept is where it goes on
            pause = _TROUBLE
        with suppress(TimeoutError):
            async with asyncio.timeout(min(LOOK, max(SOONEST, pause))):
                await self._woken.wait()

    async def _go_on(self) -> float:
        """Seconds until there is something to do again."""
        tools, settings = self._tools, self._settings
        if not settings.interval:
            return LOOK
        mono = tools.mono()
        if mono >= self._age_due:
            self.oldest, self._age_due = await tools.rounds.oldest(self.registry), mono + AGE
        due = [each for each in self._again if each.at <= mono][:PAGE]
        for each in due:
            self._again.remove(each)
        await self._all([(each.repository, each.tag, each.times) for each in due], Manner(leave=self._leave))
        return await self._round(settings.interval)

    async def _round(self, interval: float) -> float:
        tools, settings = self._tools, self._settings
        turn = turn_of(interval, JITTER)
        course = self._course = self._course or await self._begin()
        reach = course.reach(tools.clock(), tools.mono(), turn)
        turns = await tools.rounds.due(self.registry, Round.VERDICTS, course.hand.position, reach, PAGE)
        waiting = [each for each in turns if not seen_lately(each.at, tools.clock(), interval, JITTER)]
        await self._all([(each.repository, each.tag, 0) for each in waiting], Manner(leave=self._leave))
        course.passed(turns[-1].ahead if len(turns) == PAGE else reach, tools.mono(), turn)
        seen, self._seen = self._seen, {}
        if turns or seen:
            await tools.rounds.turned(self.registry, Round.VERDICTS, course.hand, seen, {})
        if len(turns) == PAGE or settings is not self._settings:
            return 0.0
        if turns:
            return turn * PART
        ahead = await tools.rounds.next(self.registry, Round.VERDICTS, course.hand.position)
        pace = CATCH_UP if course.late(tools.clock(), turn) > 1 else 1.0
        return turn / 8 if ahead is None else min(turn / 8, turn * ahead / PHASES / pace)

    async def _begin(self) -> Course:
        tools = self._tools
        hand = await tools.rounds.hand(self.registry, Round.VERDICTS)
        if hand is None:
            hand = Hand(0, tools.clock())
            await tools.rounds.turned(self.registry, Round.VERDICTS, hand, {}, {})
        return Course(hand, tools.mono())

    # -- changes --------------------------------------------------------------------------------------------------------

    async def changes(self) -> None:
        """Judge the pins that no verdict speaks for under today's rules, then wait until these change, or verdicts have ended."""
        self._changed.clear()
        pause = SWEEP
        try:
            if self._settings.interval:
                await self._sweep()
        except StorageError as error:
            log.error("verification.unable", upstream=self.registry, error=str(error), retry_seconds=_TROUBLE)
            pause = _TROUBLE
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._changed.wait()

    async def _sweep(self) -> None:
        """By the evidence that was kept, where that suffices: a change of the rules is no reason to ask for everything again."""
        tools, manner = self._tools, Manner(kept_first=True, leave=self._leave)
        after: str | None = None
        began = tools.mono()
        while (found := await self._lacking(after)) is not None:
            took = tools.mono() - began
            for start in range(0, len(found.tags), PAGE):
                await self._all([(*tag, 0) for tag in found.tags[start : start + PAGE]], manner)
                if self._changed.is_set():
                    return  # they are others again: from the beginning
            after = found.upto
            await asyncio.sleep(min(LONGEST, BREATH * took))
            began = tools.mono()

    async def _lacking(self, after: str | None) -> Lacking | None:
        def question(repository: Repository) -> str:
            return self._tools.gate.rule(repository).fingerprint

        return await self._tools.verdicts.lacking(self.registry, after, SWEEP_PAGE, question, self._tools.clock())

    # -- judging --------------------------------------------------------------------------------------------------------

    async def _all(self, pins: Sequence[tuple[Repository, str, int]], manner: Manner) -> None:
        """Judge these, a few at a time. Raises StorageError."""
        waiting = iter(pins)

        async def some() -> None:
            for repository, tag, times in waiting:
                await self._one(repository, tag, times, manner)

        work = [asyncio.create_task(some()) for _ in range(min(self._settings.concurrency, len(pins)))]
        try:
            for done in asyncio.as_completed(work):
                await done
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _one(self, repository: Repository, tag: str, times: int, manner: Manner) -> None:
        verified = await self._tools.verifier.verify(repository, tag, manner)
        self._counts[verified.result.value] += 1
        if verified.result is not Result.UNKNOWN:
            if not manner.kept_first and verified.pin is not None:
                self._seen[verified.name] = Seen(verified.pin.digest, self._tools.clock())
            return
        log.debug("verification.untold", image=verified.name, reasons=list(verified.reasons))
        if times < TIMES:
            self._again.append(_Untold(repository, tag, times + 1, self._tools.mono() + AGAIN * 2**times))

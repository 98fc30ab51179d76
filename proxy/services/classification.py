"""Classification: what changed between a pinned image and the one that its tag was overwritten with, told once and kept.

Asked for on demand (``tagstone pins diff``, alerts) and in the background, as soon as an overwrite is noted. What could not be
asked for is told as such and asked for again: an outage is never a change that does not matter.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from proxy.policy.changes import Change, Kind, change_or_none, classify, details_of, document_of, not_known_yet
from proxy.services.flights import Flights
from proxy.services.revision import Clock, Revision
from proxy.services.snapshots import Snapshots
from proxy.verify.asking import all_of
from storage.classifications import SETTLED, TYPES, ClassificationStore, Classified, Unclassified
from storage.digest import Digest
from storage.errors import StorageError
from storage.records import Event, EventType, Severity
from storage.reference import Repository

log = structlog.get_logger("tagstone.classification")

#: Seconds that one comparison may take.
TIMEOUT = 30.0
#: What may mend by itself: people push an image, and sign it a minute later. It is looked at again for so long.
MENDING = frozenset({Kind.SIGNATURE_LOST, Kind.SIGNER_CHANGED, Kind.PROVENANCE_LOST})
MENDS_WITHIN = timedelta(hours=1)
#: How long such a finding is taken from what is kept before somebody who asks gets a fresh one.
KEPT = timedelta(minutes=5)
#: The first pause before a pair is compared again, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=15), timedelta(hours=1)
_PAGE = 48
#: Pairs that are compared side by side: an upstream that is slow holds up few others, and none has to bear many at once.
_AT_A_TIME = 4
#: Seconds between two looks at the events when nobody says that there is news.
_POLL = 5.0

_Pair = tuple[Repository, Digest, Digest]


class Classifier:
    """Tells how two digests of a repository differ. With ``record=False`` nothing is kept."""

    def __init__(
        self, store: ClassificationStore, snapshots: Snapshots, revision: Revision, clock: Clock, *, record: bool = True
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._revision = revision
        self._clock = clock
        self._record = record
        self._flights: Flights[tuple[int, _Pair], Change] = Flights()

    def adopt(self, revision: Revision) -> None:
        """Judge who signed by this policy from now on."""
        self._revision = revision

    async def close(self) -> None:
        """End the comparisons under way."""
        await self._flights.close()

    def now(self) -> datetime:
        """The time by which it goes."""
        return self._clock()

    async def known(self, repository: Repository, before: Digest, after: Digest) -> Change | None:
        """What was told of a pair before; None when it never was. Raises StorageError."""
        kept = await self._store.get(repository, before, after)
        return None if kept is None else change_or_none(kept.document)

    async def of(self, repository: Repository, before: Digest, after: Digest) -> Change:
        """How ``after`` differs from ``before``: as it is kept, else compared now (within :data:`TIMEOUT` seconds).

        What could not be had yet is said in :attr:`Change.unknown`. Raises StorageError.
        """
        kept = await self._store.get(repository, before, after)
        if kept is not None and (change := change_or_none(kept.document)) is not None:
            fresh = timedelta(0) <= self._clock() - kept.at < KEPT
            if change.settled and (fresh or not MENDING & set(change.kinds)):
                return change
        return await self.again(repository, before, after)

    async def again(self, repository: Repository, before: Digest, after: Digest) -> Change:
        """The same, compared now whatever is kept."""
        pair = (repository, before, after)
        return await self._flights.run((self._revision.number, pair), lambda: self._compare(pair))

    async def enrich(self, event: Event) -> Event:
        """The event with what changed, where it is about an overwritten tag. Raises StorageError."""
        if event.type not in TYPES or event.digest is None:
            return event
        pinned = await self._store.pinned(event.subject, event.digest)
        if pinned is None:  # it moved on meanwhile
            return event
        severity, details = self.told(await self.of(*pinned, event.digest), event.type, event.at)
        return replace(event, severity=severity or event.severity, details={**event.details, **details})

    def told(self, change: Change, kind: EventType, since: datetime) -> tuple[Severity | None, dict[str, Any]]:
        """What the event of this type says that was opened at ``since``: its severity (None: as it is) and details.

        What nobody knows yet says nothing of how much it matters. What may mend is not settled before it had the time to. What
        is about to rotate by rule is no more than good to know, unless it is critical.
        """
        mending = bool(MENDING & set(change.kinds)) and self._clock() - since < MENDS_WITHIN
        severity = None if change.kinds == (Kind.NOT_KNOWN_YET,) else change.severity
        if kind is EventType.TAG_ROTATION_PENDING and severity is not Severity.CRITICAL:
            severity = None
        return severity, {**details_of(change), SETTLED: change.settled and not mending}

    async def _compare(self, pair: _Pair) -> Change:
        now = self._clock()
        change = await self._compared(pair, now)
        if not change.settled and (kept := await self.known(*pair)) is not None and kept.settled:
            return kept  # an outage takes nothing back that was told
        if self._record:
            await self._store.put(*pair, Classified(document_of(change), now))
        return change

    async def _compared(self, pair: _Pair, now: datetime) -> Change:
        repository, before, after = pair
        try:
            async with asyncio.timeout(TIMEOUT):
                one, other, unknown = await self._snapshots.of(self._revision, repository, before, after, now)
        except TimeoutError:
            return not_known_yet(before, after, (f"comparing took longer than {TIMEOUT:g} s; the upstream is slow",))
        if one is None or other is None:
            return not_known_yet(before, after, unknown)
        return await asyncio.to_thread(classify, one, other, unknown)


@dataclass(slots=True)
class _Try:
    """When a pair is looked at again."""

    at: float  #: on the loop's clock
    pause: timedelta


class Classifying:
    """Lets the open events about overwritten tags say what changed; the step of a duty (:mod:`proxy.services.duty`)."""

    def __init__(self, classifier: Classifier, store: ClassificationStore) -> None:
        self._classifier = classifier
        self._store = store
        self._tries: dict[int, _Try] = {}
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Something may have been overwritten: look at once."""
        self._news.set()

    async def step(self) -> None:
        """Look once, then wait for news."""
        self._news.clear()
        try:
            waiting = await self._store.unclassified(_PAGE * 20)
            numbers = {each.number for each in waiting}
            self._tries = {number: tried for number, tried in self._tries.items() if number in numbers}
            now = asyncio.get_running_loop().time()
            due = [each for each in waiting if each.number not in self._tries or self._tries[each.number].at <= now]
            for start in range(0, min(len(due), _PAGE), _AT_A_TIME):
                await all_of([self._tell(each) for each in due[start : min(start + _AT_A_TIME, _PAGE)]])
        except StorageError as error:
            log.error("classification.database", error=str(error))
            await asyncio.sleep(_POLL)
            return
        if len(due) > _PAGE:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_POLL):
                await self._news.wait()

    async def _tell(self, waiting: Unclassified) -> None:
        """Compare one pair and let its event say what came of it. Raises StorageError."""
        classifier, again = self._classifier, waiting.number in self._tries
        ask = classifier.again if again else classifier.of
        change = await ask(waiting.repository, waiting.before, waiting.after)
        severity, details = classifier.told(change, waiting.type, waiting.at)
        settled = details[SETTLED]
        if await self._store.tell(waiting.number, severity, details, classifier.now()) and settled:
            log.warning(
                "overwrite.classified",
                image=str(waiting.repository),
                before=str(waiting.before),
                after=str(waiting.after),
                change=change.summary,
            )
        if not settled:
            tried = self._tries.get(waiting.number)
            pause = FIRST_PAUSE if tried is None else min(2 * tried.pause, LONGEST_PAUSE)
            self._tries[waiting.number] = _Try(asyncio.get_running_loop().time() + pause.total_seconds(), pause)

"""Pull records, gathered in memory and written in batches, so that no pull waits for the database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import time

import structlog

from proxy.services.answers import ServedManifest
from proxy.services.background import forever
from proxy.services.duty import Duty
from proxy.services.metrics import Gauge
from proxy.services.revision import Clock
from proxy.settings import PullRecords
from storage.errors import StorageError
from storage.leases import Leases
from storage.pulls import PullStore
from storage.records import PullRecord
from storage.reference import Repository

log = structlog.get_logger("tagstone.recorder")

#: Seconds between two writes.
INTERVAL = 5.0
#: So many different records are written at once, however surplus.
BATCH = 2_000
#: So many are kept while the database cannot be written; what comes after that is lost, and counted.
MOST = 20_000
#: So many user agents of one client are told apart between two writes; what comes after that is one: others.
MOST_AGENTS = 16
OTHER_AGENTS = "(others)"
#: Seconds between two rounds of forgetting.
PRUNING = 3600.0
_MAX_AGENT = 200
_MAX_ADDRESS = 64

_Key = tuple[ServedManifest, str, str | None, str]


class _Entry:
    """Counts of one key. Not frozen: the one value here that grows."""

    __slots__ = ("began", "counts", "last", "repository", "tag")

    def __init__(self, repository: Repository, tag: str | None) -> None:
        self.repository = repository
        self.tag = tag
        self.began = self.last = time()
        self.counts = [0, 0]  #: fetched, resolved


class Recorder:
    """Takes note of what was handed out."""

    def __init__(self, store: PullStore, leases: Leases, settings: PullRecords, clock: Clock) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._entries: dict[_Key, _Entry] = {}
        self._agents: dict[tuple[str, str | None], set[str]] = {}  #: of each client among the entries
        self._waiting: list[PullRecord] = []
        self._lost = 0
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._flushing: asyncio.Task[bool] | None = None
        self._pruning = Duty("pull-records", self._prune, leases, clock)

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(forever("recorder", self._write), name="recorder")
        await self._pruning.start()

    async def close(self) -> None:
        """Write what is left, and end."""
        await self._pruning.close()
        if self._task is None:
            return
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        if self._flushing is not None:
            await asyncio.wait((self._flushing,))
        await self._flush()

    def adopt(self, settings: PullRecords) -> None:
        """Go by these from now on."""
        self._settings = settings

    def note(
        self,
        served: ServedManifest,
        repository: Repository,
        tag: str | None,
        principal: str,
        address: str | None,
        agent: str,
        *,
        resolved: bool,
    ) -> None:
        """A manifest was handed out, or (``resolved``) its digest alone. ``served`` belongs to one repository and tag only."""
        if not self._settings.record:
            return
        if len(agent) > _MAX_AGENT:
            agent = agent[:_MAX_AGENT]
        key = (served, principal, address, agent)
        entry = self._entries.get(key)
        if entry is None:
            key = (served, principal, address, self._bounded(principal, address, agent))
            entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= BATCH:
                self._full.set()
                if len(self._entries) >= MOST:
                    self._lost += 1
                    return
            entry = self._entries[key] = _Entry(repository, tag)
        else:
            entry.last = time()
        entry.counts[resolved] += 1

    def _bounded(self, principal: str, address: str | None, agent: str) -> str:
        """The user agent, unless its client has named too many: each of them is a row, and a client may make up any number."""
        known = self._agents.setdefault((principal, address), set())
        if agent not in known and len(known) >= MOST_AGENTS:
            return OTHER_AGENTS
        known.add(agent)
        return agent

    def reading(self) -> Gauge:
        """How many records were lost, because the database could not be written for too long."""
        help_text = "Pull records that were lost because the database could not be written."
        return Gauge("pull_records_lost", help_text, (), (((), float(self._lost)),))

    async def _write(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL):
                await self._full.wait()
        self._full.clear()
        # A write goes on when its caller is cancelled: whoever closes must wait for it, or it would be written twice.
        self._flushing = asyncio.create_task(self._flush(), name="recorder-flush")
        if not await asyncio.shield(self._flushing):
            await asyncio.sleep(INTERVAL)

    async def _flush(self) -> bool:
        """Write everything; False where that is not possible now."""
        entries, self._entries = self._entries, {}
        self._agents = {}
        self._waiting += _records(entries)
        self._lost += max(0, len(self._waiting) - MOST)
        del self._waiting[MOST:]
        while batch := self._waiting[:BATCH]:
            try:
                await self._store.add(batch)
            except StorageError as error:
                log.error("pulls.unwritten", waiting=len(self._waiting), lost=self._lost, error=str(error))
                return False
            del self._waiting[: len(batch)]
        return True

    async def _prune(self) -> None:
        settings = self._settings
        try:
            aged, surplus = await self._store.prune(self._clock() - timedelta(seconds=settings.keep), settings.most)
        except StorageError as error:
            log.error("pulls.unpruned", error=str(error))
        else:
            log.debug("pulls.pruned", records=aged)
            if surplus:
                log.warning("pulls.too_many", forgotten=surplus, reason=f"more than pulls.most ({settings.most}) were made")
        await asyncio.sleep(PRUNING)


def _records(entries: Mapping[_Key, _Entry]) -> list[PullRecord]:
    return [
        PullRecord(
            repository=entry.repository,
            tag=entry.tag,
            digest=served.descriptor.digest,
            principal=principal,
            address=(address or "")[:_MAX_ADDRESS],
            agent=agent.encode("utf-8", "backslashreplace").decode(),  # bytes that are no text came as surrogates
            first_at=datetime.fromtimestamp(entry.began, UTC),
            last_at=datetime.fromtimestamp(max(entry.began, entry.last), UTC),
            fetched=entry.counts[0],
            resolved=entry.counts[1],
        )
        for (served, principal, address, agent), entry in entries.items()
    ]

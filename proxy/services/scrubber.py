"""The scrubber: hashes everything stored again, in rounds, and mends what it, or anybody else, found damaged.

A seal tells that a file was not touched; only hashing tells that the disk still gives back what was written. What does not hash
to its name is quarantined by the store at once, and fetched again by digest from wherever it is known to be. Then the event ends,
as does the one about a blob that an upstream sent wrongly, when it has arrived as it should.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import structlog

from proxy.errors import UpstreamError
from proxy.services.ingest import Ingest
from proxy.services.metrics import Gauge
from proxy.services.revision import Clock
from proxy.settings import Scrub
from proxy.upstream.client import Upstreams
from storage.blobs import BlobStore
from storage.catalog import Catalog
from storage.digest import Digest
from storage.errors import DigestMismatch, MalformedName, StorageError
from storage.events import EventStore
from storage.progress import Progress, ProgressStore
from storage.records import Descriptor, EventType, Kind
from storage.reference import Repository

log = structlog.get_logger("tagstone.scrub")

#: Blobs between two notes of how far a round has come.
PAGE = 200
#: Seconds between two looks at whether there is something to do.
PAUSE = 60.0
#: Seconds until what could not be fetched again is tried again.
RETRY = 600.0
#: Repositories that are asked for one damaged blob, and seconds that each may take.
_PLACES = 8
_PATIENCE = 3600.0
_NAME = "scrub"


class Scrubber:
    """Built once; :meth:`step` is what a duty repeats."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        events: EventStore,
        rounds: ProgressStore,
        upstreams: Upstreams,
        ingest: Ingest,
        settings: Scrub,
        clock: Clock,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._events = events
        self._rounds = rounds
        self._upstreams = upstreams
        self._ingest = ingest
        self._settings = settings
        self._clock = clock
        self._bytes = 0
        self._blobs_read = 0
        self._tried: dict[Digest, float] = {}  #: when what is damaged was last tried to be mended
        self._awake = asyncio.Event()

    def adopt(self, settings: Scrub) -> None:
        """Go by these from now on."""
        self._settings = settings
        self._awake.set()

    async def step(self) -> None:
        """Mend what is damaged, and hash the next blobs if a round is due; else wait for a while."""
        try:
            await self._mend()
            busy = await self._go_on()
        except StorageError as error:
            log.error("scrub.unable", error=str(error), retry_seconds=PAUSE)
            busy = False
        if not busy:
            self._awake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE):
                    await self._awake.wait()

    def readings(self) -> tuple[Gauge, ...]:
        """What was done since this worker started."""
        return (
            Gauge("scrubbed_bytes", "Bytes that this worker hashed again.", (), (((), float(self._bytes)),)),
            Gauge("scrubbed_blobs", "Blobs that this worker hashed again.", (), (((), float(self._blobs_read)),)),
        )

    # -- rounds ---------------------------------------------------------------------------------------------------------

    async def _go_on(self) -> bool:
        """Hash the next blobs of the round; whether there was something to do."""
        now, every = self._clock(), self._settings.interval
        if not every:
            return False
        known = await self._rounds.get(_NAME)
        if (
            known is None
            or known.began_at > now
            or (known.ended_at is not None and now - known.began_at >= timedelta(seconds=every))
        ):
            known = Progress(_NAME, "", now)
            log.info("scrub.begun")
        elif known.ended_at is not None:
            return False
        page = await self._blobs.digests(_digest(known.position), PAGE)
        began = asyncio.get_running_loop().time()
        for digest in page:
            self._bytes += await self._blobs.scrub(digest, self._settings.rate)
            self._blobs_read += 1
            known = replace(known, position=str(digest), done=known.done + 1)
            if asyncio.get_running_loop().time() - began > PAUSE:
                break  # there may be something to mend, and how far it came is to be noted
        if not page:
            known = replace(known, ended_at=self._clock())
            log.info("scrub.ended", blobs=known.done, seconds=round((self._clock() - known.began_at).total_seconds()))
        await self._rounds.put(known)
        return True

    # -- mending --------------------------------------------------------------------------------------------------------

    async def _mend(self) -> None:
        """Fetch again what was found damaged, by whomever."""
        loop = asyncio.get_running_loop()
        for event in await self._events.open_of(EventType.BLOB_TAMPERED):
            if event.digest is not None and await self._is_here(event.digest):
                await self._events.close(event.subject, (EventType.BLOB_TAMPERED,), self._clock(), event.digest)
                log.info("blob.arrived", repository=event.subject, digest=str(event.digest))
        damages = await self._events.open_of(EventType.BLOB_DAMAGED)
        damaged = {event.digest: event.subject for event in damages if event.digest is not None}
        self._tried = {digest: at for digest, at in self._tried.items() if digest in damaged}
        for digest, subject in damaged.items():
            if loop.time() - self._tried.get(digest, float("-inf")) < RETRY:
                continue
            self._tried[digest] = loop.time()
            if await self._whole_again(digest):
                await self._events.close(subject, (EventType.BLOB_DAMAGED,), self._clock())
                log.info("blob.mended", digest=str(digest))

    async def _whole_again(self, digest: Digest) -> bool:
        """Whether the blob is there, if need be from an upstream again."""
        if await self._is_here(digest):  # whoever wanted it has fetched it meanwhile
            return True
        reasons: list[str] = []
        for repository, descriptor, kind in await self._catalog.places(digest, _PLACES):
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._fetch(repository, descriptor, kind)
            except (UpstreamError, DigestMismatch) as error:
                reasons.append(f"{repository}: {error}")
            except TimeoutError:
                reasons.append(f"{repository}: not within {_PATIENCE:g} s")
            else:
                return True
        reason = "; ".join(reasons) or "no repository is known that has it"
        log.warning("blob.unmended", digest=str(digest), reason=reason, retry_seconds=RETRY)
        return False

    async def _is_here(self, digest: Digest) -> bool:
        stored = await self._blobs.open(digest)
        if stored is not None:
            stored.close()
        return stored is not None

    async def _fetch(self, repository: Repository, descriptor: Descriptor, kind: Kind) -> None:
        if kind is Kind.MANIFEST:
            fetched = await self._upstreams.manifest(repository, descriptor.digest)
            await self._blobs.put(descriptor.digest, fetched.body)
            return
        async with await self._ingest.open(repository, descriptor) as source:
            await source.ready()
            arrived = 0
            while arrived < source.size:
                arrived = await source.available(arrived)


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text) if text else None
    except MalformedName:
        return None  # of another version: the round begins anew

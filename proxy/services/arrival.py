"""One blob on its way in: fetched once, hashed while it arrives, handed out as it grows.

The steps, for as long as the blob is not whole:

1. Ask the store for the right to write it. Whoever has that right looks once more whether the blob is stored by now.
2. Without the right, read along in the file of the one who has it. When that one lets go: stored, or begin again at 1.
3. With the right, fetch from the upstream, resuming where a broken connection (or a writer before) stopped.
4. Check size and digest. Until then the last bytes are held back, so that no client can have the whole of a wrong blob.
5. Hand out the rest, and store. If storing fails, those who wait still get bytes that were verified.

Clients are not on this path: they wait for :meth:`Arrival.available` and read the file themselves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import structlog

from proxy.errors import UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.services.download import BlobOpener, Download, Pace
from storage.blobs import BlobStore, Spool
from storage.errors import BlobStoreUnavailable, DigestMismatch, StorageError
from storage.records import Descriptor
from storage.reference import Repository

log = structlog.get_logger("tagstone.ingest")


class Arrival:
    """The arrival of one blob; :meth:`run` is the work, the rest is for those who wait for it."""

    def __init__(
        self,
        store: BlobStore,
        upstream: BlobOpener,
        descriptor: Descriptor,
        pace: Pace,
        slots: Callable[[str], asyncio.Semaphore],
    ) -> None:
        self.descriptor = descriptor
        self.verified = False  #: size and digest are right: everything may be handed out
        self.failure: UpstreamError | StorageError | None = None
        self.tampered: tuple[Repository, ...] = ()  #: whose bytes, put together, do not hash to the digest
        self._store = store
        self._upstream = upstream
        self._pace = pace
        self._slots = slots
        self._repositories: dict[Repository, UpstreamError | None] = {}
        self._contributors: list[Repository] = []
        self._written = 0
        self._begun = False
        self._over = False
        self._exposed = False
        self._readers = 0
        self._fd: int | None = None
        self._progress = asyncio.Event()

    # -- for those who wait ---------------------------------------------------------------------------------------------

    def join(self, repository: Repository) -> None:
        """One more reader, whose repository is asked too if those before it do not have the blob."""
        self._repositories.setdefault(repository, None)
        self._readers += 1

    def leave(self) -> None:
        """One reader less. The arrival goes on without any."""
        self._readers -= 1
        self._tidy()

    def fileno(self) -> int:
        """Descriptor of the file that the blob grows in, the same one from the first call on. Not before :meth:`ready`."""
        if self._fd is None:
            raise ValueError(f"{self.descriptor.digest} has no file yet")
        self._exposed = True
        return self._fd

    async def available(self, repository: Repository, offset: int) -> int:
        """Wait until more than ``offset`` bytes, or all, may be handed out; how many. Raises what stopped the arrival."""
        await self._until(repository, lambda: self.verified or self._releasable() > offset)
        released = self._releasable()
        self._exposed = self._exposed or released > 0
        return released

    async def ready(self, repository: Repository) -> None:
        """Wait until the upstream has answered well; for a blob no larger than the hold-back, until it is verified."""
        streams = self.descriptor.size > self._pace.holdback
        await self._until(repository, lambda: self.verified or (streams and (self._begun or self._releasable() > 0)))

    async def _until(self, repository: Repository, enough: Callable[[], bool]) -> None:
        while True:
            if self.failure is not None:
                raise self._reason(repository).with_traceback(None)  # one error for many: each gets its own traceback
            if enough():
                return
            await self._progress.wait()

    def _reason(self, repository: Repository) -> UpstreamError | StorageError:
        """Why the arrival failed: where no repository could give the blob, what this one said."""
        assert self.failure is not None
        none_could = any(error is self.failure for error in self._repositories.values())
        return (self._repositories.get(repository) if none_could else None) or self.failure

    def _releasable(self) -> int:
        size = self.descriptor.size
        return size if self.verified else max(0, min(self._written, size - self._pace.holdback))

    # -- the work -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring the blob in, or set :attr:`failure`. Raises nothing but CancelledError, and then, too, waiters are told."""
        try:
            await self._arrive()
        except (UpstreamError, StorageError) as error:
            self.failure = error
        except asyncio.CancelledError:
            self.failure = UpstreamUnavailable("Tagstone is shutting down")
            raise
        except Exception:
            log.exception("blob.failed", digest=str(self.descriptor.digest))
            self.failure = StorageError(f"fetching {self.descriptor.digest} failed for an unforeseen reason")
        finally:
            if self.verified:
                self.failure = None  # what went wrong afterwards is not the readers' loss
            self._over = True
            self._moved()
            self._tidy()

    async def _arrive(self) -> None:
        stalled_since = asyncio.get_running_loop().time()
        while not self.verified:
            before = self._written
            spool = await self._store.spool(self.descriptor.digest, self.descriptor.size)
            if spool is not None:
                try:
                    await self._write(spool)
                finally:
                    await self._give_back(spool)
                continue
            await self._read_along()
            now = asyncio.get_running_loop().time()
            if self._written > before:
                stalled_since = now
            elif now - stalled_since > self._pace.stall:
                raise self._stalled()

    async def _write(self, spool: Spool) -> None:
        if await self._stored():
            return
        if spool.written == spool.size and not self._exposed:
            # A writer before us had all of it. If that is wrong, no upstream is to blame, and no reader may see it.
            try:
                await spool.verify()
            except DigestMismatch:
                await spool.reset()
        self._continue_in(spool.fileno(), spool.written)
        await self._fetch(spool)
        try:
            await spool.verify()
        except DigestMismatch as mismatch:
            self.tampered = tuple(self._contributors)
            blamed = " and ".join(map(str, self.tampered))
            raise UpstreamMisbehaved(f"{blamed} sent a wrong blob: {mismatch}" if blamed else str(mismatch)) from mismatch
        self._complete()
        try:
            await spool.commit()
        except StorageError as error:
            log.error("blob.unstored", digest=str(self.descriptor.digest), error=str(error))

    async def _give_back(self, spool: Spool) -> None:
        try:
            await spool.discard()
        except StorageError as error:  # the outcome is told already; what stays behind is hashed again before any use
            log.warning("spool.left", digest=str(self.descriptor.digest), error=str(error))

    async def _fetch(self, spool: Spool) -> None:
        """Fill the spool from the first repository that can. Raises :class:`UpstreamError`, :class:`StorageError`."""
        while spool.written < spool.size:
            repository = next((name for name, error in self._repositories.items() if error is None), None)
            if repository is None:
                raise next(error for error in reversed(self._repositories.values()) if error is not None)
            before = spool.written
            download = Download(
                self._upstream, repository, self.descriptor, spool, self._pace, begun=self._answered, grown=self._grown
            )
            try:
                async with self._slots(repository.registry):
                    await download.run()
            except UpstreamError as error:
                if isinstance(error, UpstreamMisbehaved) and spool.written > before:
                    raise  # its bytes are among those that another repository's would have to follow
                self._repositories[repository] = error
            finally:
                if spool.written > before:
                    self._contributors.append(repository)

    async def _read_along(self) -> None:
        """Hand out what another process writes, until it lets go."""
        follower = await self._store.follow(self.descriptor.digest, self.descriptor.size)
        if follower is not None:
            try:
                clock = asyncio.get_running_loop().time
                moved_at = clock()
                while (written := await follower.written()) is not None:
                    if self._fd is None or written > self._written:
                        self._continue_in(follower.fileno(), written)
                        moved_at = clock()
                    elif clock() - moved_at > self._pace.stall:
                        raise self._stalled()
                    await asyncio.sleep(self._pace.poll)
            finally:
                follower.close()
        if not await self._stored():
            await asyncio.sleep(self._pace.poll)

    async def _stored(self) -> bool:
        """Whether the blob is in the store; then all of it is handed out from there."""
        stored = await self._store.open(self.descriptor.digest)
        if stored is None:
            return False
        try:
            check_size(self.descriptor, stored.size)
            self._continue_in(stored.fileno(), stored.size)
            self._complete()
        finally:
            stored.close()
        return True

    # -- what has changed -----------------------------------------------------------------------------------------------

    def _continue_in(self, fd: int, written: int) -> None:
        """From now on the blob grows in the file behind ``fd``, which has ``written`` bytes.

        Once readers know the file it stays the same one: bytes of one attempt are never followed by bytes of another.
        """
        try:
            if self._fd is None or not self._exposed:
                duplicate = os.dup(fd)
                if self._fd is not None:
                    os.close(self._fd)
                self._fd = duplicate
                self._written = 0
            elif not os.path.samestat(os.fstat(fd), os.fstat(self._fd)) or written < self._releasable():
                raise BlobStoreUnavailable(f"the process that fetched {self.descriptor.digest} gave up; ask again")
        except OSError as error:
            raise BlobStoreUnavailable(f"cannot keep {self.descriptor.digest} open: {error.strerror}") from error
        self._grown(written)

    def _answered(self) -> None:
        self._begun = True
        self._moved()

    def _grown(self, written: int) -> None:
        self._written = max(self._written, written)
        self._moved()

    def _complete(self) -> None:
        self.verified = True
        self._moved()

    def _moved(self) -> None:
        """Wake everybody who waits, to look again."""
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    def _tidy(self) -> None:
        if self._over and self._readers == 0 and self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _stalled(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(
            f"another process holds {self.descriptor.digest} and has made no progress for {self._pace.stall:.0f} s"
        )


def check_size(descriptor: Descriptor, size: int) -> None:
    """Raise UpstreamMisbehaved unless the blob is as large as the manifest says."""
    if size != descriptor.size:
        raise UpstreamMisbehaved(f"the manifest says that {descriptor.digest} has {descriptor.size} bytes, but it has {size}")

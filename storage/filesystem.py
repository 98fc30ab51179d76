"""Blobs as files below one folder (:class:`storage.blobs.BlobStore`).

::

    root/blobs/<algorithm>/<first 2 hex>/<hex>    whole, verified, mode 0400
    root/seals/<algorithm>/<first 2 hex>/<hex>    what the blob's file looked like when it was hashed
    root/spool/<algorithm>-<hex>                  arriving, locked by its writer
    root/quarantine/<UTC time>-<algorithm>-<hex>  was a blob, and was found damaged or foreign

Any number of processes may share the root. Nothing in it is followed that is not an ordinary file; whatever stands under a
blob's name and is not that blob is moved to the quarantine and reported.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import structlog

from storage.digest import HEX_LENGTHS, Digest
from storage.errors import BlobStoreUnavailable, DigestMismatch, MalformedName
from storage.files import READ, Files, Tree, is_plain, refusals, same_file
from storage.seals import Seal, SealBook
from storage.spools import FileFollower, FileSpool, Place, put, recover, spool_name
from storage.workers import Workers

log = structlog.get_logger("tagstone.blobs")

_NOT_PLAIN = "its file is a link or something else that is not an ordinary file"
#: A blob is looked at again after each check; one that changes during every one of them is not served.
_LOOKS = 3


class StoredFile:
    """A whole, verified blob, open for reading (:class:`storage.blobs.StoredBlob`)."""

    def __init__(self, digest: Digest, size: int, fd: int, files: Files, workers: Workers) -> None:
        self.digest = digest
        self.size = size
        self._fd: int | None = fd
        self._files = files
        self._workers = workers

    def fileno(self) -> int:
        """Descriptor of the blob's file, until :meth:`close`."""
        if self._fd is None:
            raise ValueError(f"{self.digest} is closed")
        return self._fd

    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """At most ``length`` bytes from ``offset``; all that follow when None. Raises BlobStoreUnavailable."""
        rest = max(0, self.size - offset)
        wanted = rest if length is None else min(length, rest)
        return await self._workers.quick(lambda: self._read(offset, wanted))

    def _read(self, offset: int, length: int) -> bytes:
        with refusals("read", Path(self.digest.hex)):
            return self._files.read_all(self.fileno(), offset, length)

    def close(self) -> None:
        """Give the file back; not while a read is under way."""
        if self._fd is not None:
            self._files.close(self._fd)
            self._fd = None


class _Unsealed:
    """Something stands under the blob's name, and nobody can say yet whether it is the blob."""


class _Pace:
    """Slows a thread down to ``rate`` bytes a second, or until ``stopping`` is set."""

    def __init__(self, rate: float, stopping: Event) -> None:
        self.bytes = 0
        self._rate = rate
        self._stopping = stopping
        self._began = time.monotonic()

    def __call__(self, count: int) -> None:
        self.bytes += count
        ahead = self.bytes / self._rate - (time.monotonic() - self._began)
        if ahead > 0:
            self._stopping.wait(ahead)


class FilesystemBlobStore:
    """Keeps blobs below ``root``, which is made when first needed. One per process; :meth:`close` ends its threads.

    ``on_damage`` hears, on the event loop, of every digest whose file was quarantined, and what was wrong with it.
    ``files`` are the system calls: :class:`storage.files.OwnedFiles`, or those of a test.
    """

    def __init__(self, root: Path, *, on_damage: Callable[[Digest, str], None] | None = None, files: Files | None = None) -> None:
        self._tree = Tree(root, files or Files())
        self._seals = SealBook(self._tree)
        self._workers = Workers()
        self._place = Place(self._tree, self._seals, self._workers)
        self._on_damage = on_damage
        self._checks: dict[Digest, asyncio.Task[None]] = {}

    async def open(self, digest: Digest) -> StoredFile | None:
        """The blob behind its seal, else hashed again first; None when absent or damaged. Raises BlobStoreUnavailable."""
        for _ in range(_LOOKS):
            found = await self._workers.quick(lambda: self._look(digest), undo=_close)
            if not isinstance(found, _Unsealed):
                return found
            await self._check(digest)
        raise BlobStoreUnavailable(f"{digest} changes while it is being looked at")

    async def read(self, digest: Digest, limit: int) -> bytes | None:
        """A small blob whole, hashed on these bytes; None when absent, damaged or larger. Raises BlobStoreUnavailable."""
        data, damage = await self._workers.quick(lambda: self._read(digest, limit))
        if damage is not None:
            self._report(digest, damage)
        return data

    async def put(self, digest: Digest, data: bytes) -> None:
        """Store a small blob whole. Raises DigestMismatch, BlobStoreUnavailable."""
        damage = await self._workers.slow(lambda: self._put(digest, data))
        if damage is not None:
            self._report(digest, damage)

    async def spool(self, digest: Digest, size: int) -> FileSpool | None:
        """The right to write, with what an earlier writer left behind hashed; None while somebody holds it.

        Whether the blob is stored by now is worth asking only after this: before, another writer may just be committing.
        """
        return await self._workers.slow(lambda: FileSpool.claim(self._place, digest, size), undo=_abandon)

    async def follow(self, digest: Digest, size: int) -> FileFollower | None:
        """Look at the spool of another writer; None when there is none. Raises BlobStoreUnavailable."""
        return await self._workers.quick(lambda: self._follow(digest, size), undo=_close)

    async def recover(self) -> int:
        """Remove the spools that nobody holds; how many. Raises BlobStoreUnavailable."""
        return await self._workers.slow(self._recover)

    async def digests(self, after: Digest | None, limit: int) -> list[Digest]:
        """At most ``limit`` stored digests behind ``after``, in the order of their text. Raises BlobStoreUnavailable."""
        return await self._workers.slow(lambda: self._digests(after, limit))

    async def scrub(self, digest: Digest, rate: float) -> int:
        """Hash a blob again as the disk has it now, whatever its seal says; how many bytes were read (0: it is not there).

        What does not hash to its name is quarantined and reported like anything else that is found damaged. ``rate``: bytes a
        second, at most. Raises BlobStoreUnavailable.
        """
        pace = _Pace(rate, self._workers.stopping)
        damage = await self._workers.patient(lambda: self._rehash(digest, pace))
        if damage is not None:
            self._report(digest, damage)
        return pace.bytes

    def quarantine_dir(self) -> Path | None:
        """Where damaged files went."""
        return self._tree.path("quarantine")

    async def close(self) -> None:
        """Break off checks under way and end the threads. Open blobs stay readable by their descriptors."""
        self._workers.stopping.set()
        await asyncio.gather(*self._checks.values(), return_exceptions=True)
        await asyncio.to_thread(self._workers.close)

    # -- in worker threads ----------------------------------------------------------------------------------------------

    def _path(self, digest: Digest) -> Path:
        return self._tree.path("blobs", digest.algorithm, digest.hex[:2], digest.hex)

    def _reach(self, digest: Digest) -> int | None:
        """Descriptor of what stands under the blob's name; None when nothing does. Raises :class:`OSError`: see :meth:`_open`."""
        return self._open(digest.hex, "blobs", digest.algorithm, digest.hex[:2])

    def _open(self, name: str, *folders: str) -> int | None:
        """Descriptor of an ordinary file; None when there is none.

        Raises :class:`OSError` where the system refuses, with ``ELOOP`` for anything that is not an ordinary file.
        """
        files = self._tree.files
        try:
            with self._tree.folder(*folders) as shelf:
                try:
                    fd = files.open(name, READ, shelf)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # a socket
                        raise OSError(errno.ELOOP, _NOT_PLAIN) from error
                    raise
        except FileNotFoundError:
            return None
        try:
            if not is_plain(files.status(fd)):
                raise OSError(errno.ELOOP, _NOT_PLAIN)
        except BaseException:
            files.close(fd)
            raise
        return fd

    def _look(self, digest: Digest) -> StoredFile | _Unsealed | None:
        files = self._tree.files
        with refusals("open", self._path(digest)):
            try:
                fd = self._reach(digest)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    return _Unsealed()
                raise
            if fd is None:
                return None
            try:
                seal = Seal.of(files.status(fd))
                if self._seals.holds(digest, seal):
                    return StoredFile(digest, seal.size, fd, files, self._workers)
            except BaseException:
                files.close(fd)
                raise
            files.close(fd)
        return _Unsealed()

    def _digests(self, after: Digest | None, limit: int) -> list[Digest]:
        found: list[Digest] = []
        for algorithm in sorted(HEX_LENGTHS):
            if after is not None and algorithm < after.algorithm:
                continue
            last = after.hex if after is not None and algorithm == after.algorithm else ""
            for shelf in (name for name in self._names("blobs", algorithm) if name >= last[:2]):
                found += [digest for digest in self._shelved(algorithm, shelf) if digest.hex > last]
                if len(found) >= limit:
                    return found[:limit]
        return found

    def _shelved(self, algorithm: str, shelf: str) -> Iterator[Digest]:
        for name in self._names("blobs", algorithm, shelf, foreign=(NotADirectoryError,)):
            with suppress(MalformedName):  # what has no digest for a name is no blob: nobody ever asks for it
                yield Digest.parse(f"{algorithm}:{name}")

    def _names(self, *folders: str, foreign: tuple[type[OSError], ...] = ()) -> list[str]:
        """What is in a folder, sorted; nothing where there is no such folder, or something ``foreign`` in its place."""
        with refusals("list", self._tree.path(*folders)):
            try:
                with self._tree.folder(*folders) as folder:
                    return sorted(self._tree.files.names(folder))
            except FileNotFoundError:
                return []
            except foreign:
                return []

    def _rehash(self, digest: Digest, pace: _Pace | None = None) -> str | None:
        """Hash what stands under the blob's name; seal it if it is the blob, else quarantine it and say what was wrong.

        With ``pace`` what is on the disk counts, not what the system remembers of it.
        """
        files = self._tree.files
        with refusals("read", self._path(digest)):
            try:
                fd = self._reach(digest)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                return self._quarantine(digest, None, _NOT_PLAIN)
            if fd is None:
                return None
            try:
                before = files.status(fd)
                hasher = digest.hasher()
                if pace is None:
                    files.hash(fd, hasher, self._workers.stopping)
                else:
                    files.uncache(fd)
                    files.hash(fd, hasher, self._workers.stopping, pace)
                if Seal.of(before) != Seal.of(files.status(fd)):
                    return None  # somebody wrote to it meanwhile: look again
                actual = hasher.hexdigest()
                if actual != digest.hex:
                    return self._quarantine(digest, before, f"its bytes hash to {digest.algorithm}:{actual}")
                if not self._seals.holds(digest, Seal.of(before)):
                    self._seals.write(digest, Seal.of(before))
                return None
            finally:
                files.close(fd)

    def _read(self, digest: Digest, limit: int) -> tuple[bytes | None, str | None]:
        """The bytes, or what was wrong with them, or neither."""
        files = self._tree.files
        with refusals("read", self._path(digest)):
            try:
                fd = self._reach(digest)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                return None, self._quarantine(digest, None, _NOT_PLAIN)
            if fd is None:
                return None, None
            try:
                status = files.status(fd)
                if status.st_size > limit:
                    return None, None
                data = files.read_all(fd, 0, status.st_size)
                if digest.matches(data):
                    return data, None
                return None, self._quarantine(digest, status, f"its bytes hash to {Digest.of(data, digest.algorithm)}")
            finally:
                files.close(fd)

    def _quarantine(self, digest: Digest, status: os.stat_result | None, reason: str) -> str | None:
        """Move what was seen to be wrong out of the way; None when it is no longer there. Raises :class:`OSError`."""
        files = self._tree.files
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{digest.algorithm}-{digest.hex}"
        try:
            with (
                self._tree.folder("blobs", digest.algorithm, digest.hex[:2]) as shelf,
                self._tree.folder("quarantine", create=True) as quarantine,
            ):
                entry = files.entry(digest.hex, shelf)
                if is_plain(entry) if status is None else not same_file(entry, status):
                    return None  # another worker was faster, and perhaps a good copy is here by now
                files.rename(digest.hex, shelf, name, quarantine)
        except FileNotFoundError:
            return None
        self._seals.forget(digest)
        return reason

    def _put(self, digest: Digest, data: bytes) -> str | None:
        """Store; what was wrong with the file that was there before, if something was."""
        actual = Digest.of(data, digest.algorithm)
        if actual != digest:
            raise DigestMismatch(str(digest), str(actual))
        damage = None
        found = self._look(digest)
        if isinstance(found, _Unsealed):
            damage = self._rehash(digest)
            found = self._look(digest)
        if isinstance(found, StoredFile):
            found.close()
            return damage
        with refusals("write", self._path(digest)):
            put(self._place, digest, data)
        return damage

    def _follow(self, digest: Digest, size: int) -> FileFollower | None:
        name = spool_name(digest)
        with refusals("follow", self._tree.path("spool", name)):
            fd = self._open(name, "spool")
        return None if fd is None else FileFollower(self._tree, size, fd)

    def _recover(self) -> int:
        with refusals("clean", self._tree.path("spool")):
            return recover(self._tree)

    # -- on the event loop ----------------------------------------------------------------------------------------------

    async def _check(self, digest: Digest) -> None:
        """:meth:`_rehash` once for all who wait for it; one of them leaving does not stop it."""
        task = self._checks.get(digest)
        if task is None:
            task = self._checks[digest] = asyncio.create_task(self._hash_again(digest))
            task.add_done_callback(lambda done: self._checked(digest, done))
        await asyncio.shield(task)

    def _checked(self, digest: Digest, task: asyncio.Task[None]) -> None:
        del self._checks[digest]
        if not task.cancelled():
            task.exception()  # told to those who waited; they may all have left

    async def _hash_again(self, digest: Digest) -> None:
        damage = await self._workers.slow(lambda: self._rehash(digest))
        if damage is not None:
            self._report(digest, damage)

    def _report(self, digest: Digest, damage: str) -> None:
        log.error("blob.quarantined", digest=str(digest), reason=damage)
        if self._on_damage is not None:
            self._on_damage(digest, damage)


def _close(found: StoredFile | FileFollower | _Unsealed | None) -> None:
    if isinstance(found, StoredFile | FileFollower):
        found.close()


def _abandon(spool: FileSpool | None) -> None:
    if spool is not None:
        spool.abandon()

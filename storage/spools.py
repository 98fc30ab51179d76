"""Spools: files on their way to becoming blobs, each with one writer at a time among all processes that share the store.

The right to write is the advisory lock on the spool file itself: it ends with the process, however that ends. What the
lock says counts only while the locked file is still the one behind the name, so every claim looks again after locking.

Bytes of one spool file are only ever appended. Who reads along (:class:`FileFollower`, or a client of this process) may
therefore rely on what it has read, and a writer that starts again (:meth:`FileSpool.reset`) does so in a new file.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from storage.blobs import Buffer
from storage.digest import Digest, Hasher
from storage.errors import BlobStoreUnavailable, DigestMismatch
from storage.files import WRITE, Tree, is_plain, refusals, same_file
from storage.seals import Seal, SealBook
from storage.workers import Workers

_FOLDER = "spool"
_COMMITTED_MODE = 0o400
#: Each round of a claim is lost to somebody else's commit or removal at the very moment; nobody loses this often.
_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Place:
    """What spools need of the store that they belong to."""

    tree: Tree
    seals: SealBook
    workers: Workers


def spool_name(digest: Digest) -> str:
    """The name under which the bytes of ``digest`` arrive."""
    return f"{digest.algorithm}-{digest.hex}"


def claim(tree: Tree, name: str) -> int | None:
    """Open or create a spool file and lock it; None while somebody else holds it. Raises :class:`OSError`."""
    files = tree.files
    with tree.folder(_FOLDER, create=True) as folder:
        for _ in range(_ROUNDS):
            fd = files.open(name, WRITE, folder)
            try:
                if not is_plain(files.status(fd)):
                    raise OSError(errno.EINVAL, "not a regular file")
                if not files.lock(fd):
                    files.close(fd)
                    return None
                try:
                    if same_file(files.status(fd), files.entry(name, folder)):
                        return fd
                except FileNotFoundError:
                    pass
            except BaseException:
                files.close(fd)
                raise
            files.close(fd)  # committed or removed between opening and locking
    raise OSError(errno.EBUSY, "it keeps changing hands")


def _claim_new(tree: Tree, kind: str) -> tuple[str, int]:
    """:func:`claim` a file under a name that nobody else thinks of; name and descriptor."""
    while True:
        name = f"{kind}-{secrets.token_hex(8)}"
        fd = claim(tree, name)
        if fd is not None:
            return name, fd


def release(tree: Tree, name: str, fd: int) -> None:
    """Remove the claimed file if it still has its spool name, then end the claim, also when removing fails."""
    files = tree.files
    try:
        with tree.folder(_FOLDER) as folder:
            try:
                if same_file(files.status(fd), files.entry(name, folder)):
                    files.remove(name, folder)
            except FileNotFoundError:
                pass  # committed, or an operator was here
    finally:
        let_go(tree, fd)


def let_go(tree: Tree, fd: int) -> None:
    """End a claim, whatever name the file has now."""
    tree.files.unlock(fd)  # said aloud, because readers may hold duplicates of the descriptor
    tree.files.close(fd)


def install(place: Place, name: str, fd: int, digest: Digest, hashed: os.stat_result | None) -> None:
    """Make the claimed file the blob: its bytes hashed to ``digest`` when it looked like ``hashed``. Raises :class:`OSError`.

    Bytes on the disk, then the name, then the name on the disk, then the seal: a crash between any two leaves either
    no blob or a whole one, at worst without its seal. The mode changes last because a spool that cannot be opened for
    writing could not be claimed.
    """
    files = place.tree.files
    files.sync(fd)
    with (
        place.tree.folder(_FOLDER) as spool,
        place.tree.folder("blobs", digest.algorithm, digest.hex[:2], create=True) as shelf,
    ):
        files.rename(name, spool, digest.hex, shelf)
        files.sync(shelf)
    files.protect(fd, _COMMITTED_MODE)
    sealed = files.status(fd)
    # Where somebody else wrote to it since it was hashed there is no seal: it is hashed again before it is served.
    if hashed is not None and _as_written(hashed, sealed):
        place.seals.write(digest, Seal.of(sealed))


def _as_written(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether nobody wrote between two looks at one file. (Renaming and chmod move the change time, but not this one.)"""
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def put(place: Place, digest: Digest, data: bytes) -> None:
    """Store bytes known to hash to ``digest``, beside whoever may be writing the same digest. Raises :class:`OSError`."""
    name, fd = _claim_new(place.tree, "put")
    try:
        place.tree.files.write_all(fd, data, 0)
        install(place, name, fd, digest, place.tree.files.status(fd))
    except BaseException:
        release(place.tree, name, fd)
        raise
    let_go(place.tree, fd)


def recover(tree: Tree) -> int:
    """Remove what nobody holds from the spool folder; how many files. Raises :class:`OSError`."""
    files = tree.files
    removed = 0
    with tree.folder(_FOLDER, create=True) as folder:
        for name in files.names(folder):
            try:
                fd = files.open(name, WRITE & ~os.O_CREAT, folder)
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                continue  # not ours
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                files.remove(name, folder)  # a link: not followed, not kept
                removed += 1
                continue
            try:
                if files.lock(fd) and same_file(files.status(fd), files.entry(name, folder)):
                    files.remove(name, folder)
                    removed += 1
            except FileNotFoundError:
                pass  # its writer ended it just now
            finally:
                files.close(fd)
    return removed


class FileSpool:
    """The right to write one blob (:class:`storage.blobs.Spool`).

    A thread that was started runs to its end even when its caller is cancelled; the mutex lets the next step wait for it.
    After an append that failed nothing more can be appended: what a failed write left in the file is not known.
    """

    def __init__(
        self, place: Place, digest: Digest, size: int, fd: int, hasher: Hasher, written: int, hashed: os.stat_result
    ) -> None:
        self.digest = digest
        self.size = size
        self.written = written
        self._place = place
        self._name = spool_name(digest)
        self._path = place.tree.path(_FOLDER, self._name)
        self._fd = fd
        self._hasher = hasher
        #: What the file looked like when the bytes so far were hashed; None once somebody else has written to it.
        self._hashed: os.stat_result | None = hashed
        self._mutex = threading.Lock()
        self._verified = False
        self._broken = False
        self._released = False

    @classmethod
    def claim(cls, place: Place, digest: Digest, size: int) -> FileSpool | None:
        """Take the right to write, with the bytes that a writer before may have left. Runs in a worker thread."""
        tree = place.tree
        name = spool_name(digest)
        with refusals("write", tree.path(_FOLDER, name)):
            fd = claim(tree, name)
            if fd is None:
                return None
            try:
                if tree.files.status(fd).st_size > size:
                    fd = _replace(tree, name, fd)
                hasher = digest.hasher()
                hashed = tree.files.status(fd)
                written = tree.files.hash(fd, hasher, place.workers.stopping)
            except BaseException:
                let_go(tree, fd)
                raise
        return cls(place, digest, size, fd, hasher, written, hashed)

    def fileno(self) -> int:
        """Descriptor of the growing file; :meth:`reset` changes it, :meth:`commit` and :meth:`discard` close it."""
        return self._fd

    async def append(self, take: Callable[[], Sequence[Buffer]], appended: Callable[[int], None]) -> None:
        """Write and hash what ``take`` gives until it gives nothing; both are called in the thread that writes.

        Raises DigestMismatch above :attr:`size`, BlobStoreUnavailable where the system refuses.
        """
        await self._place.workers.steady(lambda: self._append_all(take, appended))

    def _append_all(self, take: Callable[[], Sequence[Buffer]], appended: Callable[[int], None]) -> None:
        while data := take():
            before = self.written
            self._append(data)
            appended(self.written - before)

    def _append(self, data: Sequence[Buffer]) -> None:
        with self._mutex, refusals("write", self._path):
            self._usable()
            length = sum(memoryview(each).nbytes for each in data)
            if self.written + length > self.size:
                raise DigestMismatch(str(self.digest), f"something else, for there are more than {self.size} bytes")
            files = self._place.tree.files
            self._broken = True
            if self._hashed is not None and not _as_written(self._hashed, files.status(self._fd)):
                self._hashed = None
            position = self.written
            for each in data:
                files.write_all(self._fd, each, position)
                self._hasher.update(each)
                position += memoryview(each).nbytes
            if self._hashed is not None:
                self._hashed = files.status(self._fd)
            self._broken = False
            self._verified = False
            self.written += length

    async def verify(self) -> None:
        """Check size and digest of what was appended. Raises :class:`DigestMismatch`."""
        self._usable()
        if self.written != self.size:
            raise DigestMismatch(str(self.digest), f"something else, for there are {self.written} of {self.size} bytes")
        actual = self._hasher.hexdigest()
        if actual != self.digest.hex:
            raise DigestMismatch(str(self.digest), f"{self.digest.algorithm}:{actual}")
        self._verified = True

    async def commit(self) -> None:
        """Make the spool the blob, and let the right to write go. Raises BlobStoreUnavailable; :meth:`discard` then."""
        await self._place.workers.slow(self._commit)

    def _commit(self) -> None:
        with self._mutex, refusals("store", self._path):
            self._usable()
            if not self._verified:
                raise RuntimeError("a spool is verified before it is committed")
            install(self._place, self._name, self._fd, self.digest, self._hashed)
            self._released = True
            let_go(self._place.tree, self._fd)

    async def reset(self) -> None:
        """Start again at zero, in a new file: whoever reads the old one keeps it as it was."""
        await self._place.workers.quick(self._reset)

    def _reset(self) -> None:
        with self._mutex, refusals("write", self._path):
            if self._released:
                raise BlobStoreUnavailable(f"the spool of {self.digest} was given back")
            self._fd = _replace(self._place.tree, self._name, self._fd)
            self._hasher = self.digest.hasher()
            self._hashed = self._place.tree.files.status(self._fd)
            self.written = 0
            self._broken = self._verified = False

    async def discard(self) -> None:
        """Remove the bytes and let the right to write go. Raises BlobStoreUnavailable where only the removal failed."""
        await self._place.workers.quick(self.abandon)

    def abandon(self) -> None:
        """:meth:`discard`, in the calling thread."""
        with self._mutex, refusals("remove", self._path):
            self._release()

    def _release(self) -> None:
        if not self._released:
            self._released = True
            release(self._place.tree, self._name, self._fd)

    def _usable(self) -> None:
        if self._released:
            raise BlobStoreUnavailable(f"the spool of {self.digest} was given back")
        if self._broken:
            raise BlobStoreUnavailable(f"the spool of {self.digest} failed before and takes no more bytes")


def _replace(tree: Tree, name: str, fd: int) -> int:
    """Put a new, empty, locked file in the place of a claimed one, so that the name is never without a lock. The new one."""
    fresh_name, fresh = _claim_new(tree, "new")
    try:
        with tree.folder(_FOLDER) as folder:
            tree.files.rename(fresh_name, folder, name, folder)
    except BaseException:
        release(tree, fresh_name, fresh)
        raise
    let_go(tree, fd)
    return fresh


class FileFollower:
    """A look at a spool that somebody else writes (:class:`storage.blobs.Follower`). Owns ``fd``."""

    def __init__(self, tree: Tree, size: int, fd: int) -> None:
        self.size = size
        self._files = tree.files
        self._path = tree.path(_FOLDER)
        self._fd: int | None = fd

    def fileno(self) -> int:
        """Descriptor of the growing file, until :meth:`close`."""
        if self._fd is None:
            raise ValueError("the follower is closed")
        return self._fd

    async def written(self) -> int | None:
        """Bytes so far; None once the writer has let go.

        Not in a thread: both calls look at an open file's state in memory and wait for nothing.
        """
        fd = self.fileno()
        with refusals("follow a spool in", self._path):
            if self._files.lock(fd, shared=True):
                self._files.unlock(fd)
                return None
            return min(self._files.status(fd).st_size, self.size)

    def close(self) -> None:
        """Stop looking."""
        if self._fd is not None:
            self._files.close(self._fd)
            self._fd = None

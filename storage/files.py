"""Files and folders as the blob store touches them: every system call in one place, and paths that cannot be led astray.

:class:`Files` is the seam at which tests make the Nth call fail or end the process. :class:`Tree` reaches folders below a
root one component at a time, relative to the folder before, never through a symbolic link.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from storage.blobs import Buffer
from storage.digest import Hasher
from storage.errors import BlobStoreUnavailable

#: For files inside the store: a link is not followed, a pipe does not block, a child process inherits nothing.
_GUARD = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
READ = os.O_RDONLY | _GUARD
WRITE = os.O_RDWR | os.O_CREAT | _GUARD
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HASH_PIECE = 1 << 20


class Files:
    """One method per system call, each raising :class:`OSError` as the system gives it."""

    def open(self, name: str | Path, flags: int, folder: int | None = None) -> int:
        """Open ``name`` in the folder behind the descriptor ``folder``; what is created is for its owner alone."""
        return os.open(name, flags, 0o600, dir_fd=folder)

    def close(self, fd: int) -> None:
        """Give a descriptor back."""
        os.close(fd)

    def status(self, fd: int) -> os.stat_result:
        """What the system knows of an open file."""
        return os.fstat(fd)

    def entry(self, name: str, folder: int) -> os.stat_result:
        """What the system knows of a name, without following it."""
        return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def names(self, folder: int) -> list[str]:
        """The names in a folder."""
        return os.listdir(folder)

    def read_into(self, fd: int, buffer: bytearray | memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset``; how many bytes, 0 at the end of the file."""
        return os.preadv(fd, [buffer], offset)

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """Write at ``offset``; how many bytes, which may be fewer than were given."""
        return os.pwrite(fd, data, offset)

    def uncache(self, fd: int) -> None:
        """Let the next reading of a file come from the disk, as far as the system heeds that."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self, fd: int) -> None:
        """Return when a file's bytes, or a folder's names, are on the disk."""
        os.fsync(fd)

    def protect(self, fd: int, mode: int) -> None:
        """Set the permissions of an open file."""
        os.fchmod(fd, mode)

    def make_folder(self, name: str, folder: int) -> None:
        """Make a folder for its owner alone."""
        os.mkdir(name, 0o700, dir_fd=folder)

    def rename(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        """Move a name, replacing what has the other name."""
        os.rename(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)

    def remove(self, name: str, folder: int) -> None:
        """Remove a name that is no folder."""
        os.unlink(name, dir_fd=folder)

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        """Take the advisory lock of an open file without waiting; False while somebody else holds it."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        """Let the advisory lock go, also where duplicates of the descriptor stay open."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    # -- what follows is made of the calls above ------------------------------------------------------------------------

    def write_all(self, fd: int, data: Buffer, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        rest = memoryview(data).cast("B")
        while rest:
            count = self.write(fd, rest, offset)
            rest, offset = rest[count:], offset + count

    def read_all(self, fd: int, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer only at the end of the file."""
        buffer = bytearray(length)
        view = memoryview(buffer)
        filled = 0
        while filled < length:
            count = self.read_into(fd, view[filled:], offset + filled)
            if count == 0:
                break
            filled += count
        return bytes(view[:filled])

    def hash(self, fd: int, hasher: Hasher, stop: Event, read: Callable[[int], None] = lambda _: None) -> int:
        """Feed a whole file to ``hasher``; how many bytes there were. Raises BlobStoreUnavailable once ``stop`` is set.

        ``read`` hears after each piece how many bytes it had, and may take its time.
        """
        view = memoryview(bytearray(_HASH_PIECE))
        offset = 0
        while count := self.read_into(fd, view, offset):
            if stop.is_set():
                raise BlobStoreUnavailable("the blob store is closing")
            hasher.update(view[:count])
            offset += count
            read(count)
        return offset


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose the files of a store are: user and group, by number."""

    user: int
    group: int

    def take(self, fd: int) -> None:
        """Own the open file or folder, where it is root's: what root makes, the store's server could not read. Raises OSError.

        A file that has another name besides stays whose it is: somebody may have put it there for root to give away.
        """
        found = os.fstat(fd)
        if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
            os.fchown(fd, self.user, self.group)


def owner_of(*paths: Path) -> Owner | None:
    """The owner of the first of ``paths`` that is there. None where this process is not root's, or root is the owner."""
    if os.geteuid() != 0:
        return None
    for path in paths:
        with suppress(FileNotFoundError):
            found = path.stat()
            return Owner(found.st_uid, found.st_gid) if found.st_uid else None
    return None


class OwnedFiles(Files):
    """As root, on a store of somebody else's: what is made there is its ``owner``'s."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    def open(self, name: str | Path, flags: int, folder: int | None = None) -> int:
        """See :class:`Files`."""
        fd = super().open(name, flags, folder)
        if flags & os.O_CREAT:
            self._take(fd)
        return fd

    def make_folder(self, name: str, folder: int) -> None:
        """See :class:`Files`."""
        super().make_folder(name, folder)
        fd = super().open(name, _FOLDER | os.O_NOFOLLOW, folder)
        self._take(fd)
        self.close(fd)

    def _take(self, fd: int) -> None:
        try:
            self._owner.take(fd)
        except OSError:
            self.close(fd)
            raise


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two looks saw one inode."""
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def is_plain(status: os.stat_result) -> bool:
    """Whether this is an ordinary file: no link, folder, pipe, socket or device."""
    return stat.S_ISREG(status.st_mode)


@contextmanager
def refusals(verb: str, path: Path) -> Iterator[None]:
    """Turn the system's refusal into :class:`BlobStoreUnavailable`: ``cannot <verb> <path>: <the system's reason>``."""
    try:
        yield
    except OSError as error:
        raise BlobStoreUnavailable(f"cannot {verb} {path}: {error.strerror or error}") from error


class Tree:
    """The folders below one root. The root itself may be reached as the operator likes; below it nothing is followed."""

    def __init__(self, root: Path, files: Files) -> None:
        self.root = root
        self.files = files

    def path(self, *parts: str) -> Path:
        """How a person finds it: for messages, never for access."""
        return self.root.joinpath(*parts)

    @contextmanager
    def folder(self, *parts: str, create: bool = False) -> Iterator[int]:
        """A descriptor of the folder ``parts`` below the root, for as long as the block runs.

        With ``create`` missing folders are made, and are on the disk before anything is put into them. Raises
        :class:`OSError`: a link on the way is ``ENOTDIR`` or ``ELOOP``.
        """
        if create:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = self.files.open(self.root, _FOLDER)
        try:
            for part in parts:
                inner = self._enter(part, fd, create=create)
                self.files.close(fd)
                fd = inner
            yield fd
        finally:
            self.files.close(fd)

    def _enter(self, name: str, folder: int, *, create: bool) -> int:
        try:
            return self.files.open(name, _FOLDER | os.O_NOFOLLOW, folder)
        except FileNotFoundError:
            if not create:
                raise
        with suppress(FileExistsError):  # another worker was faster; it may not have synced yet, so that is done here too
            self.files.make_folder(name, folder)
        self.files.sync(folder)
        return self.files.open(name, _FOLDER | os.O_NOFOLLOW, folder)

"""Files of a running container as they are reached from outside: by descriptors, never through a symbolic link.

Whoever runs in the container may change it meanwhile, and means ill. So a name is opened once, without following it and without
waking a device (``O_PATH``), and what is told of it is told of that descriptor.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.drift.model import Facts, Kind
from proxy.drift.names import absolute
from proxy.errors import Unexaminable

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PIECE = 1 << 20
_LOOKS = 3
_MAX_LINKS = 40
#: What a name that is not there (any more) answers.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESRCH})
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}


@dataclass(frozen=True, slots=True)
class IdMap:
    """Which numbers users or groups have within a user namespace (user_namespaces(7)); none: the same as outside."""

    ranges: tuple[tuple[int, int, int], ...] = ()  #: first within, first outside, how many

    @classmethod
    def parse(cls, text: str) -> IdMap:
        """Read ``/proc/PID/uid_map``."""
        rows = [line.split() for line in text.splitlines()]
        return cls(tuple((int(inside), int(outside), int(count)) for inside, outside, count in rows))

    def inside(self, number: int) -> int:
        """What ``number`` is called within; those that have no name there keep their own."""
        for inside, outside, count in self.ranges:
            if outside <= number < outside + count:
                return inside + number - outside
        return number


@dataclass(frozen=True, slots=True)
class Owners:
    """The users and groups of a user namespace."""

    users: IdMap = IdMap()
    groups: IdMap = IdMap()

    @classmethod
    def of_process(cls, process: Path) -> Owners:
        """Those of the namespace of ``/proc/PID``. Raises OSError, ValueError."""
        return cls(*(IdMap.parse((process / name).read_text()) for name in ("uid_map", "gid_map")))


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content: ``sha256`` None where it is too long to be hashed; ``changing``: it never held still."""

    sha256: bytes | None
    head: bytes  #: its first bytes
    size: int
    changing: bool = False


class Disk:
    """A directory tree: everything below a descriptor of its root. Close it when done, or use it as a context manager."""

    def __init__(self, root: int, owners: Owners) -> None:
        self.root = root
        self.owners = owners
        self.mount = mount_of(root)

    @classmethod
    @contextmanager
    def open(cls, path: Path, owners: Owners | None = None) -> Iterator[Disk]:
        """The tree at ``path``, which itself may be a link (``/proc/PID/root`` is one). Raises :class:`Unexaminable`.

        Without ``owners`` they are taken from the process, where the path is such a link, and are as outside elsewhere.
        """
        try:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Unexaminable(f"{path} cannot be opened: {error.strerror or error}") from error
        try:
            yield cls(fd, _owners_of(path) if owners is None else owners)
        finally:
            os.close(fd)

    def facts(self, fd: int, status: os.stat_result) -> Facts:
        """What is known of what is open, but for its content. Raises OSError."""
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), Kind.SOCKET)
        return Facts(
            kind,
            stat.S_IMODE(status.st_mode),
            self.owners.users.inside(status.st_uid),
            self.owners.groups.inside(status.st_gid),
            status.st_size if kind is Kind.FILE else 0,
            target=os.fsencode(os.readlink("", dir_fd=fd)) if kind is Kind.SYMLINK else b"",
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in {Kind.CHARACTER, Kind.BLOCK} else (0, 0),
            capability=_capability(fd) if kind is Kind.FILE else None,
        )

    def resolve(self, path: bytes) -> tuple[bytes, int] | None:
        """What a path means to a process whose root this is: its path without links, and a descriptor for the caller to close.

        None where there is nothing, or too many links are on the way.
        """
        todo = path.split(b"/")[::-1]
        here: list[tuple[bytes, int]] = []
        links = 0
        try:
            while todo:
                name = todo.pop()
                if name in {b"", b"."}:
                    continue
                if name == b"..":
                    if here:
                        os.close(here.pop()[1])
                    continue
                fd = reach(name, here[-1][1] if here else self.root)
                if fd is None:
                    return None
                if stat.S_ISLNK(os.fstat(fd).st_mode):
                    try:
                        target = os.fsencode(os.readlink("", dir_fd=fd))
                    finally:
                        os.close(fd)
                    links += 1
                    if links > _MAX_LINKS:
                        return None
                    if target.startswith(b"/"):
                        _close_all(here)
                    todo += target.split(b"/")[::-1]
                    continue
                here.append((name, fd))
            if not here:
                return None
            found = b"/".join(name for name, _ in here), os.dup(here[-1][1])
        finally:
            _close_all(here)
        return found


def _close_all(here: list[tuple[bytes, int]]) -> None:
    while here:
        os.close(here.pop()[1])


def _owners_of(path: Path) -> Owners:
    try:
        if path.name == "root" and path.parent.parent == Path("/proc"):
            return Owners.of_process(path.parent)
    except (OSError, ValueError) as error:
        raise Unexaminable(f"the user namespace of {path.parent} cannot be read: {error}") from error
    return Owners()


def reach(name: bytes, folder: int) -> int | None:
    """A descriptor of what has a name, whatever it is, for nothing but looking at it; None where it is gone. Raises OSError."""
    try:
        return os.open(name, _PATH, dir_fd=folder)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def names_in(fd: int) -> Iterator[bytes]:
    """The names in a directory, as they come. Raises OSError."""
    listing = os.open(".", _DIRECTORY, dir_fd=fd)
    try:
        with os.scandir(listing) as entries:
            for entry in entries:
                yield os.fsencode(entry.name)
    finally:
        os.close(listing)


def mount_of(fd: int) -> int:
    """The number of the mount that a descriptor was opened through (proc(5), "fdinfo"). Raises OSError."""
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(info, 4096)
    finally:
        os.close(info)
    start = text.index(b"mnt_id:") + 7
    return int(text[start : text.index(b"\n", start)])


def readable(fd: int) -> int:
    """A descriptor for reading the very file that another one was opened for. Raises OSError."""
    return os.open(f"/proc/self/fd/{fd}", _FILE)


def read_content(fd: int, most: int, stop: Callable[[], bool]) -> Content:
    """Hash a file; one that changes while it is read is read again. More than ``most`` bytes are not hashed. Raises OSError.

    What is appended while it is read counts as a change; so a file that grows for ever is not read for ever.
    """
    head = b""
    for _ in range(_LOOKS):
        before = os.fstat(fd)
        if before.st_size > most:
            return Content(None, os.pread(fd, 4, 0), before.st_size)
        # One byte more than there should be: so the end of the file is seen, or that it grows.
        view = memoryview(bytearray(min(_PIECE, before.st_size + 1)))
        hasher = hashlib.sha256()
        offset = 0
        while offset <= before.st_size and (count := os.preadv(fd, [view], offset)):
            if stop():
                raise Unexaminable("it was broken off")
            if offset == 0:
                head = bytes(view[: min(4, count)])
            hasher.update(view[:count])
            offset += count
        after = os.fstat(fd)
        if _still(before) == _still(after) and offset == before.st_size:
            return Content(hasher.digest(), head, offset)
    return Content(None, head, os.fstat(fd).st_size, changing=True)


def _still(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _capability(fd: int) -> bytes | None:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", "security.capability")
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP}:
            return None
        raise


def where(path: bytes, error: OSError) -> str:
    """Why something at a path could not be read, in words."""
    return f"{absolute(path)}: {error.strerror or error}"

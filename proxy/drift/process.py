"""One process, through the kernel's own links to what it is made of (proc(5))."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proxy.drift.disk import Disk, Owners
from proxy.drift.group import PROC
from proxy.drift.names import shown

_MAX_MAPS = 64 << 20
_MAX_ARGUMENTS = 1 << 16


@dataclass(frozen=True, slots=True)
class Mapping:
    """An executable part of its memory. ``text`` is the kernel's word for what is mapped, ``inode`` 0 where no file is."""

    start: int
    end: int
    device: bytes
    inode: int
    text: bytes


class Process:
    """A process behind a descriptor of its folder in /proc: another one that gets its number is not mistaken for it."""

    def __init__(self, pid: int, fd: int, root: Disk) -> None:
        self.pid = pid
        self.fd = fd
        self.root = root
        self.name = shown(self._read("comm", 64).rstrip(b"\n"))
        self._prefix = self.link("root").rstrip(b"/")

    def link(self, name: str) -> bytes:
        """Where one of its links leads, in the kernel's words. Raises OSError."""
        return os.fsencode(os.readlink(name, dir_fd=self.fd))

    def within(self, path: bytes) -> bytes:
        """A path as the process sees it: one whose root is a folder of ours is told with that folder's path."""
        return path[len(self._prefix) :] if self._prefix and path.startswith(self._prefix + b"/") else path

    def has(self, text: bytes, status: os.stat_result) -> bool:
        """Whether this very file has this very path: somebody may call a file ``x (deleted)``."""
        found = self.root.resolve(self.within(text))
        if found is None:
            return False
        try:
            there = os.fstat(found[1])
        finally:
            os.close(found[1])
        return (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino)

    def executable(self) -> Iterator[Mapping]:
        """Its executable mappings (proc(5), "maps"). Raises OSError."""
        # A name may hold anything but a newline, which the kernel writes as \012: a carriage return ends no line.
        for line in self._read("maps", _MAX_MAPS, whole=True).split(b"\n"):
            fields = line.split(b" ", 5)
            if len(fields) < 5 or b"x" not in fields[1]:
                continue
            start, end = (int(each, 16) for each in fields[0].split(b"-"))
            text = fields[5].lstrip(b" ") if len(fields) > 5 else b""
            yield Mapping(start, end, fields[3], int(fields[4]), text.replace(b"\\012", b"\n"))

    def first_argument(self) -> bytes | None:
        """The first of its arguments that is no option; None where there is none, or code comes instead of a file."""
        arguments = self._read("cmdline", _MAX_ARGUMENTS).split(b"\0")[:-1]
        if arguments and posixpath.basename(arguments[0]) == b"busybox":
            arguments = arguments[1:]  # which of its programs it is
        for argument in arguments[1:]:
            if argument in {b"-c", b"-e", b"-m"}:
                return None
            if not argument.startswith(b"-"):
                return argument
        return None

    def _read(self, name: str, most: int, *, whole: bool = False) -> bytes:
        """The first ``most`` bytes; where all of them are needed, more than that are an OSError."""
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            read = bytearray()
            while len(read) < most and (piece := os.read(fd, min(most - len(read), 1 << 20))):
                read += piece
            if whole and len(read) >= most:
                raise OSError(errno.EFBIG, f"its {name} have more than {most >> 20} MiB")
            return bytes(read)
        finally:
            os.close(fd)


@contextmanager
def opened(pid: int, thread: int) -> Iterator[Process]:
    """Look at a process by one of its threads. Raises OSError, as where there is no such process (any more)."""
    fd = os.open(PROC / str(thread), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        root = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            yield Process(pid, fd, Disk(root, Owners()))
        finally:
            os.close(root)
    finally:
        os.close(fd)

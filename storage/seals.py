"""Seals: what a blob's file looked like when its bytes were last known to hash to its name.

A seal is size, inode, modification and change time. Whatever alters a file's bytes through the file system alters its seal,
for the change time follows the kernel's clock and cannot be set; so a file that still matches its seal needs no second hash
before it is served. Damage below the file system (a bit that flips on the disk) shows only when the bytes are hashed again.

Seals are kept beside the blobs, one small file each, and the latest in memory. Losing one costs a hash, never a byte.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import astuple, dataclass

import structlog

from storage.digest import Digest
from storage.files import READ, WRITE, Tree

log = structlog.get_logger("tagstone.blobs")

_VERSION = "1"
_LONGEST = 128  #: bytes; a sidecar is read no further than this


@dataclass(frozen=True, slots=True)
class Seal:
    """What must still be true of a file for its bytes to be those that were hashed. Times in nanoseconds."""

    size: int
    inode: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Seal:
        """The seal that an open file would get now."""
        return cls(status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def parse(cls, text: bytes) -> Seal | None:
        """Read a sidecar; None for anything but a whole one."""
        words = text.split(b" ")
        if not text.endswith(b"\n") or len(words) != 5 or words[0] != _VERSION.encode():
            return None
        try:
            return cls(*(int(word) for word in words[1:]))
        except ValueError:
            return None

    def __bytes__(self) -> bytes:
        return f"{_VERSION} {' '.join(map(str, astuple(self)))}\n".encode()


class SealBook:
    """All seals of one store. Its methods touch the disk and are called from worker threads."""

    def __init__(self, tree: Tree, remembered: int = 4096) -> None:
        self._tree = tree
        self._remembered = remembered
        self._latest: OrderedDict[Digest, Seal] = OrderedDict()
        self._mutex = threading.Lock()

    def holds(self, digest: Digest, seal: Seal) -> bool:
        """Whether the file that looks like ``seal`` now is the one that was sealed."""
        with self._mutex:
            if self._latest.get(digest) == seal:
                self._latest.move_to_end(digest)
                return True
        # Another worker may have sealed a newer file since: the sidecar has the last word.
        if self._read(digest) != seal:
            return False
        self._remember(digest, seal)
        return True

    def write(self, digest: Digest, seal: Seal) -> None:
        """Seal a file whose bytes were hashed. Where the sidecar cannot be written, the seal is known to this process only."""
        self._remember(digest, seal)
        try:
            self._store(digest, seal)
        except OSError as error:
            log.warning("seal.unwritten", digest=str(digest), error=str(error))

    def forget(self, digest: Digest) -> None:
        """The file is gone."""
        with self._mutex:
            self._latest.pop(digest, None)
        try:
            with self._tree.folder("seals", digest.algorithm, digest.hex[:2]) as folder:
                self._tree.files.remove(digest.hex, folder)
        except FileNotFoundError:
            pass
        except OSError as error:  # harmless: a seal that is left behind matches no other file
            log.warning("seal.left", digest=str(digest), error=str(error))

    def _remember(self, digest: Digest, seal: Seal) -> None:
        with self._mutex:
            self._latest[digest] = seal
            self._latest.move_to_end(digest)
            while len(self._latest) > self._remembered:
                self._latest.popitem(last=False)

    def _read(self, digest: Digest) -> Seal | None:
        files = self._tree.files
        try:
            with self._tree.folder("seals", digest.algorithm, digest.hex[:2]) as folder:
                fd = files.open(digest.hex, READ, folder)
        except OSError:
            return None  # missing, unreadable or foreign: the blob is hashed instead
        try:
            return Seal.parse(files.read_all(fd, 0, _LONGEST))
        except OSError:
            return None
        finally:
            files.close(fd)

    def _store(self, digest: Digest, seal: Seal) -> None:
        files = self._tree.files
        name = f"seal-{secrets.token_hex(8)}"
        with (
            self._tree.folder("spool", create=True) as spool,
            self._tree.folder("seals", digest.algorithm, digest.hex[:2], create=True) as shelf,
        ):
            fd = files.open(name, WRITE | os.O_EXCL, spool)
            try:
                files.write_all(fd, bytes(seal), 0)
                files.rename(name, spool, digest.hex, shelf)
            except OSError:
                with suppress(OSError):  # the first failure is the one to tell
                    files.remove(name, spool)
                raise
            finally:
                files.close(fd)

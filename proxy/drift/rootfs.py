"""A walk over a root filesystem, held against a file list. Small files are hashed on the way, large ones in threads beside it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType

from proxy.drift.compare import (
    IMPLIED,
    Aspect,
    Change,
    Executable,
    Finding,
    Report,
    differences,
    executable_kind,
    root_differences,
)
from proxy.drift.disk import Content, Disk, mount_of, names_in, reach, read_content, readable, where
from proxy.drift.ignores import DEFAULTS, MADE_FOR_A_MOUNT, Ignore
from proxy.drift.model import Facts, Kind
from proxy.drift.names import MAX_DEPTH, absolute
from proxy.drift.tree import FileList, Node
from proxy.errors import Unexaminable

#: Files up to this size are hashed at once: handing them over would cost more.
_SMALL = 1 << 16
_IN_FLIGHT = 32
_THREADS = 4
#: What is mounted below these is no file system with files.
_NEVER_CROSSED = frozenset({b"dev", b"proc", b"sys"})
_FOR_MOUNTS = Ignore("**", MADE_FOR_A_MOUNT)


@dataclass(frozen=True, slots=True)
class Options:
    """What is looked at, and how much of it."""

    ignores: tuple[Ignore, ...] = DEFAULTS
    owners: bool = True  #: whether owners are compared
    cross: bool = False  #: whether other file systems mounted below the root are walked
    entries: int = 2_000_000
    findings: int = 100_000
    hashed: int = 4 << 30  #: a file with more bytes is only hashed where it should have that many


class Examination:
    """One look at one root filesystem. :meth:`run` once; :meth:`stop` from anywhere breaks it off."""

    def __init__(self, disk: Disk, files: FileList, options: Options, progress: Callable[[int], None] | None = None) -> None:
        self._disk = disk
        self._files = files
        self._options = options
        self._operators = tuple(ignore for ignore in options.ignores if ignore.only is None)
        self._progress = progress or (lambda _: None)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_IN_FLIGHT)
        self._findings: list[Finding] = []
        self._executables: list[Executable] = []
        self._mounts: list[bytes] = []
        self._ignored: Counter[Ignore] = Counter()
        self._unread: list[str] = []
        self._pending: list[Future[None]] = []
        self._entries = 0
        self._hashed = 0
        self._truncated = False

    def stop(self) -> None:
        """Break the walk off: :meth:`run` raises :class:`Unexaminable`."""
        self._stopped.set()

    def run(self) -> Report:
        """Walk. Raises :class:`Unexaminable` where the root itself cannot be looked at."""
        try:
            status = os.fstat(self._disk.root)
            root = self._disk.facts(self._disk.root, status)
        except OSError as error:
            raise Unexaminable(where(b"", error)) from error
        node = self._files.root
        if aspects := root_differences(node, root, self._options.owners):
            self._tell(Finding(b"", Change.CHANGED, _expected(node), root, aspects))
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="drift") as self._pool:
            try:
                self._directory(self._disk.root, b"", node, 0)
            except BaseException:
                self._stopped.set()
                raise
        for future in self._pending:
            future.result()
        if self._stopped.is_set():
            raise Unexaminable("it was broken off")
        return Report(
            tuple(sorted(self._findings, key=lambda finding: finding.path)),
            tuple(sorted(self._executables, key=lambda executable: executable.path)),
            tuple(sorted(self._mounts)),
            MappingProxyType(dict(self._ignored)),
            tuple(self._unread),
            self._entries,
            self._hashed,
            self._truncated,
        )

    # -- the walk -------------------------------------------------------------------------------------------------------

    def _directory(self, fd: int, path: bytes, node: Node | None, depth: int) -> bool:
        """Look at everything in a directory; whether nothing but mounts is in it."""
        if depth > MAX_DEPTH:
            self._unread.append(f"{absolute(path)}: more than {MAX_DEPTH} folders deep")
            return False
        room = self._options.entries - self._entries
        try:
            names = sorted(islice(names_in(fd), room + 1))
        except OSError as error:
            self._unread.append(where(path, error))
            return False
        if len(names) > room:
            self._unread.append(f"{absolute(path)}: more than {self._options.entries} entries; the rest was not looked at")
            return False
        self._entries += len(names)
        self._progress(self._entries)
        seen: set[bytes] = set()
        mounts_only = bool(names)
        for name in names:
            if self._stopped.is_set():
                raise Unexaminable("it was broken off")
            below = path + b"/" + name if path else name
            expected = None if node is None else node.children.get(name)
            try:
                child = reach(name, fd)
                if child is None:
                    continue  # it went away: what has no name is not there
                seen.add(name)
                try:
                    mounts_only = self._entry(child, below, expected, depth) and mounts_only
                finally:
                    os.close(child)
            except OSError as error:
                seen.add(name)
                self._unread.append(where(below, error))
                mounts_only = False
        for name, gone in node.children.items() if node is not None else ():
            if name not in seen:
                self._missing(path + b"/" + name if path else name, gone)
        return mounts_only

    def _entry(self, fd: int, path: bytes, node: Node | None, depth: int) -> bool:
        """Look at one entry, and below it; whether it is a mount, or holds nothing but mounts."""
        if mount_of(fd) != self._disk.mount and not (self._options.cross and path.split(b"/", 1)[0] not in _NEVER_CROSSED):
            self._mounts.append(path)
            return True
        if self._left_out(path):
            return False
        actual = self._disk.facts(fd, os.fstat(fd))
        aspects = () if node is None else differences(node, actual, self._options.owners)
        if actual.kind is Kind.FILE:
            self._file(fd, path, actual, node, aspects)
            return False
        mounts_only = False
        if actual.kind is Kind.DIRECTORY:
            same = node if node is not None and Aspect.TYPE not in aspects else None
            mounts_only = self._directory(fd, path, same, depth + 1)
        if node is None:
            if mounts_only:
                self._ignored[_FOR_MOUNTS] += 1
                return True
            self._tell(Finding(path, Change.ADDED, None, actual))
        elif aspects:
            self._tell(Finding(path, Change.CHANGED, _expected(node), actual, aspects))
        return False

    def _missing(self, path: bytes, node: Node) -> None:
        if self._left_out(path):
            return
        self._tell(Finding(path, Change.MISSING, _expected(node), None))
        for name, child in node.children.items():
            self._missing(path + b"/" + name, child)

    def _left_out(self, path: bytes) -> bool:
        """Whether the operator does not want to hear of a path and what is below it."""
        if self._operators:
            text = absolute(path)
            for ignore in self._operators:
                if ignore.covers(text):
                    with self._lock:
                        self._ignored[ignore] += 1
                    return True
        return False

    # -- contents -------------------------------------------------------------------------------------------------------

    def _file(self, fd: int, path: bytes, actual: Facts, node: Node | None, aspects: tuple[Aspect, ...]) -> None:
        opened = readable(fd)
        if actual.size <= _SMALL:
            self._content(opened, path, actual, node, aspects)
            return
        self._slots.acquire()
        try:
            self._pending.append(self._pool.submit(self._beside, opened, path, actual, node, aspects))
        except BaseException:
            os.close(opened)
            self._slots.release()
            raise

    def _beside(self, opened: int, path: bytes, actual: Facts, node: Node | None, aspects: tuple[Aspect, ...]) -> None:
        """In a thread."""
        try:
            self._content(opened, path, actual, node, aspects)
        except OSError as error:
            self._unread.append(where(path, error))
        finally:
            self._slots.release()

    def _content(self, opened: int, path: bytes, actual: Facts, node: Node | None, aspects: tuple[Aspect, ...]) -> None:
        """Read a file, close it, and tell what is different."""
        expected = None if node is None else _expected(node)
        is_file = expected is not None and expected.kind is Kind.FILE
        most = max(self._options.hashed, expected.size if expected is not None else 0)
        try:
            content = read_content(opened, most, self._stopped.is_set)
        finally:
            os.close(opened)
        with self._lock:
            self._hashed += content.size if content.sha256 is not None else 0
        actual = replace(actual, size=content.size, sha256=content.sha256)
        foreign = expected is None or not is_file or content.sha256 is None or content.sha256 != expected.sha256
        if foreign and is_file:
            aspects = (Aspect.CONTENT, *aspects)
        if expected is not None and not aspects:
            return
        kind = executable_kind(actual, content) if foreign else None
        change = Change.ADDED if expected is None else Change.CHANGED
        finding = Finding(path, change, expected, actual, aspects, kind is not None, self._noted(content, foreign=foreign))
        unknown = content.sha256 is None or content.sha256 not in self._files.contents
        if self._tell(finding) and kind is not None and unknown:
            with self._lock:
                self._executables.append(Executable(path, content.sha256, actual.mode, kind))

    def _noted(self, content: Content, *, foreign: bool) -> str:
        if content.changing:
            return "it changes while it is read"
        if content.sha256 is None:
            return f"{content.size} bytes are too many to be hashed"
        known = self._files.contents.get(content.sha256) if foreign else None
        return "" if known is None else f"a layer has this content as {absolute(known)}"

    def _tell(self, finding: Finding) -> bool:
        """Keep a finding; False where a default leaves it out."""
        text = absolute(finding.path)
        for ignore in self._options.ignores:
            if (
                ignore.only is not None
                and ignore.covers(text)
                and ignore.leaves_out(finding.expected, finding.actual, executable=finding.executable)
            ):
                with self._lock:
                    self._ignored[ignore] += 1
                return False
        with self._lock:
            if len(self._findings) >= self._options.findings:
                self._truncated = True
            else:
                self._findings.append(finding)
        return True


def _expected(node: Node) -> Facts:
    return IMPLIED if node.inode is None else node.inode.facts

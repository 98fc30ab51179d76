"""What executes in a container, held against the file list of its image: programs, libraries, memory, scripts.

Every file is looked at through the kernel's own link to it (``/proc/PID/exe``, ``/proc/PID/map_files``): what a process executes,
not what has the same path by now. Processes come and go meanwhile; one that went is noted, and is no error.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.drift.disk import GONE, mount_of, read_content, readable
from proxy.drift.group import PROC, identity, living
from proxy.drift.model import Kind
from proxy.drift.names import absolute, shown
from proxy.drift.process import Mapping, Process, opened
from proxy.drift.tree import FileList
from proxy.errors import Unexaminable
from proxy.policy.patterns import Pattern

_DELETED = b" (deleted)"
#: The kernel's own, which no file is behind.
_KERNELS = frozenset({b"[vdso]", b"[vsyscall]", b"[vectors]", b"[sigpage]", b"[uprobes]"})
#: Shared memory without a name of its own, as the kernel calls it: no file that is there has this text.
_NAMELESS = re.compile(rb"(?:/dev/zero|/SYSV[0-9a-f]{8}|/anon_hugepage|/\[aio\]) \(deleted\)|anon_inode:.*", re.DOTALL)
_MAX_HASHED = 4 << 30
_INTERPRETERS = re.compile(
    r"(?:ba|da|a|z|k|mk|fi)?sh|busybox|python[0-9.]*|pypy[0-9.]*|perl[0-9.]*|ruby[0-9.]*|node|nodejs|deno|bun|php[0-9.]*|lua[0-9.]*|tclsh[0-9.]*|awk"
)
#: What runtimes mount into containers as their first process.
_INITS = {
    b"sbin/docker-init": "docker's own init, mounted",
    b"dev/init": "docker's own init, mounted",
    b"run/podman-init": "podman's own init, mounted",
    b"catatonit": "podman's own init, mounted",
}


class Role(StrEnum):
    """How a process comes to execute something."""

    PROGRAM = "program"
    MAPPING = "mapping"  #: a library, or whatever else is mapped to be executed
    SCRIPT = "script"  #: the file that an interpreter was started with


class Wrong(StrEnum):
    """What is wrong with it."""

    DELETED = "deleted"  #: it has no name any more
    MEMORY = "memory only"  #: memfd_create(2): it never had one
    SHARED_MEMORY = "shared memory"  #: a file below /dev/shm
    ANONYMOUS = "anonymous"  #: memory that no file is behind
    MOUNTED = "mounted"  #: it is on a mount, not of the image
    UNKNOWN = "unknown"  #: no layer has this path
    CHANGED = "changed"  #: a layer has this path with another content


@dataclass(frozen=True, slots=True)
class Execution:
    """One thing that a process executes and that the image does not account for."""

    pid: int
    name: str
    role: Role
    path: str
    wrong: Wrong
    sha256: str | None = None
    note: str = field(default="", compare=False)

    @property
    def row(self) -> tuple[str, str, str]:
        """What is wrong, where, and the rest, for people."""
        where = f"{self.path} ({self.role.value})" if self.path else self.role.value
        return self.wrong.value, f"{self.pid} {self.name}", f"{where}{f': {self.note}' if self.note else ''}"

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        return {
            "pid": self.pid,
            "name": self.name,
            "role": self.role.value,
            "path": self.path,
            "wrong": self.wrong.value,
            "sha256": self.sha256,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Running:
    """A process that was looked at."""

    pid: int
    name: str
    program: str

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        return {"pid": self.pid, "name": self.name, "program": self.program}


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """What was found, process by process."""

    findings: tuple[Execution, ...]
    processes: tuple[Running, ...]
    gone: tuple[int, ...]  #: ended while they were looked at, or have ended and wait for their parents
    unread: tuple[str, ...]
    hashed: int = 0


class Inspection:
    """One look at some processes. :meth:`run` once; :meth:`stop` from anywhere breaks it off."""

    def __init__(
        self, pids: Sequence[int], files: FileList, anonymous: Sequence[str] = (), progress: Callable[[int], None] | None = None
    ) -> None:
        self._pids = pids
        self._files = files
        self._anonymous = tuple(Pattern.compile(text) for text in anonymous)
        self._progress = progress or (lambda _: None)
        self._stopped = False
        #: Through which mounts the files of roots are opened: a process may have a mount namespace of its own, copied later.
        self._mounts: set[int] = set()
        self._hashes: dict[tuple[int, int, int, int, int], bytes | None] = {}
        self._findings: list[Execution] = []
        self._running: list[Running] = []
        self._gone: list[int] = []
        self._unread: list[str] = []
        self._hashed = 0

    def stop(self) -> None:
        """Break it off: :meth:`run` raises :class:`Unexaminable`."""
        self._stopped = True

    def run(self) -> ProcessReport:
        """Look at all of them. Raises :class:`Unexaminable` when it was broken off."""
        for number, pid in enumerate(self._pids):
            if self._stopped:
                raise Unexaminable("it was broken off")
            self._progress(number)
            try:
                thread = living(pid)
                if thread is None:
                    self._gone.append(pid)
                    continue
                with opened(pid, thread) as process:
                    self._mounts.add(process.root.mount)
                    self._process(process)
            except OSError as error:
                if error.errno in GONE:
                    self._gone.append(pid)
                else:
                    self._unread.append(f"process {pid}: {error.strerror or error}")
        findings = dict.fromkeys(self._findings)
        return ProcessReport(tuple(findings), tuple(self._running), tuple(self._gone), tuple(self._unread), self._hashed)

    def _process(self, process: Process) -> None:
        program = process.link("exe")
        exe = os.open("exe", os.O_PATH | os.O_CLOEXEC, dir_fd=process.fd)
        try:
            where = process.within(program)
            self._running.append(Running(process.pid, process.name, _text(where)))
            if self._begins(process, exe):
                return
            self._file(process, exe, program, Role.PROGRAM)
            known = _key(os.fstat(exe))
        finally:
            os.close(exe)
        self._mappings(process, known, _text(where))
        self._script(process, where)

    def _begins(self, process: Process, exe: int) -> bool:
        """Whether this is the runtime, which is about to start something in the container (``docker exec``, a probe).

        For some milliseconds it runs there from a mount or from memory of its own: a copy of its parent's program, and the
        parent is outside. Nobody in the container has such a parent, but who runs what the runtime runs.
        """
        status = os.fstat(exe)
        own = identity(process.pid)
        if not stat.S_ISREG(status.st_mode) or mount_of(exe) in self._mounts or own is None or own.parent in self._pids:
            return False
        try:
            other = os.open(PROC / str(own.parent) / "exe", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return False  # the parent has ended, or may not be looked at: then it is judged as anything else
        try:
            sha256 = self._sha256(process, exe, status, b"exe")
            return sha256 is not None and sha256 == self._sha256(process, other, os.fstat(other), b"the program of its parent")
        finally:
            os.close(other)

    # -- files ----------------------------------------------------------------------------------------------------------

    def _file(self, process: Process, fd: int, text: bytes, role: Role) -> None:
        """Judge an open file that is executed; ``text`` is the kernel's word for its path."""
        status = os.fstat(fd)
        bare = text.removesuffix(_DELETED)
        if bare.startswith(b"/memfd:"):
            program = _text(process.within(process.link("exe")))
            if role is Role.PROGRAM or not self._may_compile(program):
                self._tell(process, role, Wrong.MEMORY, shown(bare), self._sha256(process, fd, status, bare))
            return
        deleted = text.endswith(_DELETED) and not process.has(text, status)
        where = process.within(bare if deleted else text)
        if not stat.S_ISREG(status.st_mode):
            self._tell(process, role, Wrong.UNKNOWN, _text(where), None, "it is no file")
            return
        sha256 = self._sha256(process, fd, status, where)
        known = None if sha256 is None else self._files.contents.get(sha256)
        note = "" if known is None else f"a layer has this content as {absolute(known)}"
        if deleted:
            self._tell(process, role, Wrong.DELETED, _text(where), sha256, note)
        elif mount_of(fd) not in self._mounts:
            path = where.lstrip(b"/")
            if path.startswith(b"dev/shm/"):
                self._tell(process, role, Wrong.SHARED_MEMORY, _text(where), sha256, note)
            elif not (role is Role.PROGRAM and path in _INITS):
                self._tell(process, role, Wrong.MOUNTED, _text(where), sha256, note)
        else:
            self._held_against(process, role, where, sha256, note)

    def _held_against(self, process: Process, role: Role, where: bytes, sha256: bytes | None, note: str) -> None:
        """Judge by the path and the content."""
        node = self._files.find(where.lstrip(b"/"))
        expected = None if node is None or node.inode is None else node.inode.facts
        if expected is None or expected.kind is not Kind.FILE:
            self._tell(process, role, Wrong.UNKNOWN, _text(where), sha256, note)
        elif sha256 is None:
            self._unread.append(f"process {process.pid}: {_text(where)} could not be hashed")
        elif sha256 != expected.sha256:
            self._tell(process, role, Wrong.CHANGED, _text(where), sha256, note)

    def _sha256(self, process: Process, fd: int, status: os.stat_result, where: bytes) -> bytes | None:
        """The content's hash, computed once for each file; None where it cannot be read, which is noted."""
        key = _key(status)
        if key not in self._hashes:
            content = None
            try:
                opened = readable(fd)
                try:
                    content = read_content(opened, _MAX_HASHED, lambda: self._stopped)
                finally:
                    os.close(opened)
            except OSError as error:
                self._unread.append(f"process {process.pid}: {_text(where)}: {error.strerror or error}")
            self._hashes[key] = None if content is None else content.sha256
            self._hashed += 0 if content is None or content.sha256 is None else content.size
        return self._hashes[key]

    # -- memory ---------------------------------------------------------------------------------------------------------

    def _mappings(self, process: Process, program: tuple[int, int, int, int, int], where: str) -> None:
        nameless = count = 0
        seen: set[object] = {program}
        for mapping in process.executable():
            if mapping.text in _KERNELS:
                continue
            if mapping.inode == 0 or _NAMELESS.fullmatch(mapping.text):
                nameless += mapping.end - mapping.start
                count += 1
                continue
            if (mapping.device, mapping.inode, mapping.text) in seen:
                continue
            seen.add((mapping.device, mapping.inode, mapping.text))
            opened = self._mapped(process, mapping)
            if opened is None:
                continue
            fd, text = opened
            try:
                if _key(os.fstat(fd)) not in seen:
                    seen.add(_key(os.fstat(fd)))
                    self._file(process, fd, text, Role.MAPPING)
            finally:
                os.close(fd)
        if count and not self._may_compile(where):
            note = f"{nameless} bytes in {count} places: a compiler at run time, or injected code"
            self._tell(process, Role.MAPPING, Wrong.ANONYMOUS, "", None, note)

    def _may_compile(self, program: str) -> bool:
        """Whether the operator says that a program compiles at run time."""
        return any(pattern.matches(program) for pattern in self._anonymous)

    def _mapped(self, process: Process, mapping: Mapping) -> tuple[int, bytes] | None:
        """A descriptor of what is mapped, and the kernel's word for it; None where it is gone, or cannot be had (noted)."""
        name = f"map_files/{mapping.start:x}-{mapping.end:x}"
        try:
            text = process.link(name)
            return os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=process.fd), text
        except OSError as error:
            if error.errno in GONE:
                return None  # unmapped meanwhile
            if error.errno not in {errno.EPERM, errno.EACCES}:
                raise
        # Only who has CAP_SYS_ADMIN may follow these links. By its path the file may be another one by now: the inode tells.
        if mapping.text.endswith(_DELETED):
            self._tell(process, Role.MAPPING, Wrong.DELETED, _text(process.within(mapping.text.removesuffix(_DELETED))), None)
            return None
        found = process.root.resolve(process.within(mapping.text))
        if found is not None:
            if os.fstat(found[1]).st_ino == mapping.inode:
                return found[1], mapping.text
            os.close(found[1])
        self._unread.append(f"process {process.pid}: {_text(mapping.text)}: only root can tell what is mapped")
        return None

    # -- scripts --------------------------------------------------------------------------------------------------------

    def _script(self, process: Process, program: bytes) -> None:
        """Judge what an interpreter was started with, where that is a file of the root's own."""
        if not _INTERPRETERS.fullmatch(posixpath.basename(os.fsdecode(program))):
            return
        argument = process.first_argument()
        if argument is None:
            return
        here = process.within(process.link("cwd"))
        found = process.root.resolve(posixpath.join(here, argument))
        if found is None:
            return
        path, fd = found
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and mount_of(fd) in self._mounts:
                sha256 = self._sha256(process, fd, status, path)
                self._held_against(process, Role.SCRIPT, path, sha256, "")
        finally:
            os.close(fd)

    def _tell(self, process: Process, role: Role, wrong: Wrong, path: str, sha256: bytes | None, note: str = "") -> None:
        digest = None if sha256 is None else sha256.hex()
        self._findings.append(Execution(process.pid, process.name, role, path, wrong, digest, note))


def _key(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _text(path: bytes) -> str:
    return absolute(path.lstrip(b"/"))

"""Rendered files, put onto a file system: looked at as a whole first, then each replaced atomically, what was there kept.

Nothing is written before every file is known to fit; when writing fails in the middle, what was replaced is put back.
"""

from __future__ import annotations

import difflib
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from proxy.clients.merging import CannotMerge, merge
from proxy.clients.model import File, Owner, Rendering

#: Longest file of somebody else's that is read.
_LONGEST = 4 << 20
_READABLE = 0o644


class CannotInstall(Exception):
    """Nothing was written. ``problems`` says of each file what to change, and where."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Change:
    """One file before and after."""

    path: Path
    old: bytes | None  #: None: there is none
    new: bytes

    @property
    def needed(self) -> bool:
        """Whether anything changes."""
        return self.old != self.new

    def diff(self) -> str:
        """Unified; empty where nothing changes."""
        before = "" if self.old is None else self.old.decode("utf-8", errors="replace")
        lines = difflib.unified_diff(
            before.splitlines(keepends=True),
            self.new.decode().splitlines(keepends=True),
            "/dev/null" if self.old is None else str(self.path),
            str(self.path),
        )
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Installed:
    """One file that was written, and where the one before is kept."""

    path: Path
    backup: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What an installation would do."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    def diff(self) -> str:
        """All changes, unified."""
        return "".join(change.diff() for change in self.changes)


def prepare(rendering: Rendering, root: Path) -> Plan:
    """Look at what is below ``root``, the folder that stands for ``/``. Raises :class:`CannotInstall`."""
    root = root.resolve()
    changes: list[Change] = []
    warnings: list[str] = []
    problems: list[str] = []
    for file in rendering.files:
        path = _below(root, file.path)
        try:
            if not path.is_relative_to(root):
                raise CannotMerge(f"a symbolic link leads out of {root}, to {path}")
            old = _read(path)
            content, told = _merged(file, old)
        except CannotMerge as error:
            problems.append(f"{root / _relative(file.path)}: {error}")
            continue
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
            continue
        changes.append(Change(path, old, content.encode()))
        warnings += told
    if problems:
        raise CannotInstall(tuple(problems))
    return Plan(tuple(changes), tuple(warnings))


def apply(plan: Plan, now: datetime | None = None) -> tuple[Installed, ...]:
    """Write what changes. Raises OSError after putting back what was replaced already."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    done: list[Installed] = []
    undo: list[Callable[[], None]] = []
    try:
        for change in plan.changes:
            if change.needed:
                change.path.parent.mkdir(parents=True, exist_ok=True)
                backup = None if change.old is None else _keep(change.path, change.old, stamp)
                undo.append(_undoing(change, backup))
                _replace(change.path, change.new)
                done.append(Installed(change.path, backup))
    except OSError:
        for step in reversed(undo):
            step()
        raise
    return tuple(done)


def _relative(path: PurePosixPath) -> str:
    return str(path).lstrip("/")


def _below(root: Path, path: PurePosixPath) -> Path:
    return (root / _relative(path)).resolve()


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as opened:
            content = opened.read(_LONGEST + 1)
    except FileNotFoundError:
        return None
    if len(content) > _LONGEST:
        raise CannotMerge(f"it has more than {_LONGEST} bytes, which no such file has")
    return content


def _merged(file: File, old: bytes | None) -> tuple[str, tuple[str, ...]]:
    if old is None or file.owner is Owner.TAGSTONE:
        return file.content, ()
    try:
        text = old.decode()
    except UnicodeDecodeError:
        raise CannotMerge("it is not UTF-8 text") from None
    return merge(file, text)


def _keep(path: Path, content: bytes, stamp: str) -> Path:
    """A copy beside the file, under a name that is free and that no client reads."""
    number = 0
    while True:
        backup = path.with_name(f"{path.name}.{stamp}{f'-{number}' if number else ''}.bak")
        try:
            handle = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
        except FileExistsError:
            number += 1
            continue
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        _like(path, backup)
        return backup


def _undoing(change: Change, backup: Path | None) -> Callable[[], None]:
    def undo() -> None:
        if backup is not None:
            backup.replace(change.path)
        else:
            change.path.unlink(missing_ok=True)

    return undo


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        _like(path, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _like(model: Path, path: Path) -> None:
    """The owner and mode of the file that is there, or what everybody may read."""
    try:
        there = model.stat()
    except FileNotFoundError:
        path.chmod(_READABLE)
        return
    mine = path.stat()
    if (there.st_uid, there.st_gid) != (mine.st_uid, mine.st_gid):
        os.chown(path, there.st_uid, there.st_gid)
    path.chmod(stat.S_IMODE(there.st_mode))

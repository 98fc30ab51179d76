"""Which processes belong to a container: those in its namespaces, in its control group, and all that they started."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.drift.disk import GONE
from proxy.errors import Unexaminable

PROC = Path("/proc")
#: How runtimes name containers.
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells where a process belongs."""

    pid: int
    parent: int
    pid_namespace: str
    mount_namespace: str
    cgroups: Mapping[str, str]  #: hierarchy → path, as this process sees them


def living(pid: int) -> int | None:
    """A thread of a process by which the process can be looked at; None where it has ended.

    The first thread may have ended while others go on: then it looks like a process that has ended. Raises OSError.
    """
    try:
        threads = sorted(int(entry.name) for entry in (PROC / str(pid) / "task").iterdir())
        for thread in [pid, *threads]:
            try:
                (PROC / str(thread) / "exe").readlink()
            except OSError as error:
                if error.errno not in GONE:
                    raise
            else:
                return thread
    except OSError as error:
        if error.errno not in GONE:
            raise
    return None


@contextmanager
def held(pid: int) -> Iterator[Callable[[], None]]:
    """Hold on to a process: what is given raises :class:`Unexaminable` once it has ended, whoever has its number then.

    Raises :class:`Unexaminable` where there is none.
    """
    try:
        folder = os.open(PROC / str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Unexaminable(f"there is no process {pid}") from error

    def alive() -> None:
        try:
            os.stat("stat", dir_fd=folder)
        except OSError as error:
            raise Unexaminable(f"process {pid} has ended") from error

    try:
        yield alive
    finally:
        os.close(folder)


def identity(pid: int) -> Identity | None:
    """Read it; None where there is no such process (any more). Raises OSError where it may not be read."""
    try:
        here = PROC / str(living(pid) or pid)
        # The name in it may hold anything, parentheses and newlines, too.
        parent = int((here / "stat").read_bytes().rpartition(b")")[2].split()[1])
        pid_namespace, mount_namespace = (str((here / "ns" / name).readlink()) for name in ("pid", "mnt"))
        # Whoever may make control groups may call them anything, but for newlines.
        lines = [line.split(":", 2) for line in os.fsdecode((here / "cgroup").read_bytes()).split("\n")]
    except OSError as error:
        if error.errno in GONE:
            return None
        raise
    cgroups = {fields[1]: fields[2] for fields in lines if len(fields) == 3}
    return Identity(pid, parent, pid_namespace, mount_namespace, cgroups)


def pids() -> list[int]:
    """All processes that there are now."""
    return sorted(int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def group(pid: int, everyone: Iterable[Identity], own: Identity) -> tuple[int, ...]:
    """The processes that belong to the container of ``pid``, this one among them. Raises :class:`Unexaminable`.

    Where it is in namespaces other than ``own``: those in both of its namespaces, and those in its control group or below.
    Then everything that descends from any of these. Of a process that is in no container: itself and its descendants.
    """
    known = {each.pid: each for each in everyone}
    target = known.get(pid)
    if target is None:
        raise Unexaminable(f"there is no process {pid}")
    chosen = {pid}
    apart = target.mount_namespace != own.mount_namespace
    hierarchy, path = max(target.cgroups.items(), key=lambda item: len(item[1]), default=("", "/"))
    for each in known.values():
        if not apart:
            break
        together = each.pid_namespace == target.pid_namespace != own.pid_namespace
        its_path = each.cgroups.get(hierarchy, "")
        below = path != "/" and (its_path == path or its_path.startswith(path + "/"))
        if below or (together and each.mount_namespace == target.mount_namespace):
            chosen.add(each.pid)
    children: dict[int, list[int]] = {}
    for each in known.values():
        children.setdefault(each.parent, []).append(each.pid)
    todo = list(chosen)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in chosen:
                chosen.add(child)
                todo.append(child)
    return tuple(sorted(chosen))


def everyone() -> list[Identity]:
    """All processes that may be read; those of others are passed over where the system hides them."""
    found = []
    for pid in pids():
        try:
            each = identity(pid)
        except PermissionError:
            continue  # whose namespaces may not be read cannot be put into a group; root may read all
        if each is not None:
            found.append(each)
    return found


def container_of(process: Identity) -> str | None:
    """The container's ID, where the names of its control groups hold one."""
    for path in process.cgroups.values():
        if found := _ID.findall(path):
            return str(found[-1])
    return None


def first_of(container: str, processes: Iterable[Identity]) -> int | None:
    """The first process whose control groups are named after a container; ``container`` has at least 12 characters of its ID."""
    named = [each for each in processes if any(container in path for path in each.cgroups.values())]
    return min((each.pid for each in named), default=None)

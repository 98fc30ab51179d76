"""Which files differ between two images: the file list of one against that of the other. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from proxy.drift.model import Facts, Kind
from proxy.drift.names import absolute, shown
from proxy.drift.tree import FileList, Node

_RUN_AS_OWNER = 0o6000


class Mark(StrEnum):
    """What became of a path."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class FileChange:
    """One path that differs, in printable words: what it is, or what of it changed."""

    mark: Mark
    path: str
    what: str
    before: Facts | None
    after: Facts | None

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        sides = {"before": self.before, "after": self.after}
        return {"change": self.mark, "path": self.path, "what": self.what} | {
            name: None if facts is None else facts.told() for name, facts in sides.items()
        }


def between(before: FileList, after: FileList) -> Iterator[FileChange]:
    """All that differs, by path. Directories that no entry describes count where the other side has something else."""
    old, new = dict(before), dict(after)
    for path in sorted(old.keys() | new.keys()):
        left, right = old.get(path), new.get(path)
        if left is None:
            assert right is not None
            yield FileChange(Mark.ADDED, absolute(path), _what(right), None, _facts(right))
        elif right is None:
            yield FileChange(Mark.REMOVED, absolute(path), _what(left), _facts(left), None)
        elif what := "; ".join(_differing(left, right)):
            yield FileChange(Mark.CHANGED, absolute(path), what, _facts(left), _facts(right))


def _facts(node: Node) -> Facts | None:
    return None if node.inode is None else node.inode.facts


def _what(node: Node) -> str:
    facts = _facts(node)
    if facts is None:
        return "directory"
    parts = [facts.kind.value, f"{facts.mode:04o}", f"{facts.uid}:{facts.gid}"]
    match facts.kind:
        case Kind.FILE:
            parts += [f"{facts.size} bytes", _sha(facts)]
        case Kind.SYMLINK:
            parts.append(f"to {shown(facts.target)}")
        case Kind.CHARACTER | Kind.BLOCK:
            parts.append("{}:{}".format(*facts.device))
        case _:
            pass
    if facts.mode & _RUN_AS_OWNER and facts.kind is Kind.FILE:
        parts.append("runs as its owner or group")
    if facts.capability is not None:
        parts.append("has capabilities")
    return " ".join(parts)


def _differing(left: Node, right: Node) -> Iterator[str]:
    old, new = _facts(left), _facts(right)
    if old is None or new is None:
        # A directory that no entry describes is as the runtime likes it.
        if left.is_directory is not right.is_directory:
            yield f"was {_what(left)}, is {_what(right)}"
        return
    if old.kind is not new.kind:
        yield f"was {_what(left)}, is {_what(right)}"
        return
    if old.sha256 != new.sha256 or old.size != new.size:
        yield f"content: {old.size} bytes {_sha(old)} before, {new.size} bytes {_sha(new)} now"
    if old.target != new.target:
        yield f"target: {shown(old.target)} before, {shown(new.target)} now"
    if old.device != new.device:
        yield "device: {}:{} before, {}:{} now".format(*old.device, *new.device)
    if old.mode != new.mode and old.kind is not Kind.SYMLINK:
        more = ", which runs as its owner or group" if new.mode & ~old.mode & _RUN_AS_OWNER and new.kind is Kind.FILE else ""
        yield f"mode: {old.mode:04o} before, {new.mode:04o} now{more}"
    if (old.uid, old.gid) != (new.uid, new.gid):
        yield f"owner: {old.uid}:{old.gid} before, {new.uid}:{new.gid} now"
    if old.capability != new.capability:
        yield "capabilities"


def _sha(facts: Facts) -> str:
    return "" if facts.sha256 is None else f"sha256:{facts.sha256.hex()[:12]}"

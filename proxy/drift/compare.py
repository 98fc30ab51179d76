"""A root filesystem held against the file list of its image: what was added, changed, or is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from proxy.drift.disk import Content
from proxy.drift.ignores import Ignore
from proxy.drift.model import Facts, Kind
from proxy.drift.names import absolute, shown
from proxy.drift.tree import Node

#: Modes of directories that no entry describes, as runtimes make them, and of the root itself.
_IMPLIED_MODES = frozenset({0o755, 0o700, 0o600})
_ROOT_MODES = frozenset({0o755, 0o555, 0o711, 0o700})


class Change(StrEnum):
    """What became of a path."""

    ADDED = "added"
    CHANGED = "changed"
    MISSING = "missing"


class Aspect(StrEnum):
    """In what a path changed."""

    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    TYPE = "type"
    TARGET = "target"  #: of a symbolic link
    DEVICE = "device"
    CAPABILITY = "capability"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference."""

    path: bytes
    change: Change
    expected: Facts | None
    actual: Facts | None
    aspects: tuple[Aspect, ...] = ()
    #: Its mode, or its first bytes (ELF, ``#!``) say that it can be executed; only told of what was added or has another content.
    executable: bool = False
    note: str = ""  #: what else is to be known, for people

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        return {
            "path": absolute(self.path),
            "change": self.change.value,
            "aspects": [aspect.value for aspect in self.aspects],
            "expected": None if self.expected is None else self.expected.told(),
            "actual": None if self.actual is None else self.actual.told(),
            "executable": self.executable,
            "note": self.note,
        }

    @property
    def row(self) -> tuple[str, str, str]:
        """What became of it, where, and how: for people."""
        return self.change.value, absolute(self.path), self.in_words

    @property
    def in_words(self) -> str:
        """What is different, for people."""
        if self.change is not Change.CHANGED or self.expected is None or self.actual is None:
            facts = self.actual or self.expected
            what = "" if facts is None else facts.kind.value
            return f"{'executable ' if self.executable and what == Kind.FILE else ''}{what}{_more(self.note)}"
        told = [_difference(aspect, self.expected, self.actual) for aspect in self.aspects]
        return "; ".join(told) + _more(self.note)


def _more(note: str) -> str:
    return f" ({note})" if note else ""


def _difference(aspect: Aspect, expected: Facts, actual: Facts) -> str:
    match aspect:
        case Aspect.MODE:
            return f"mode {expected.mode:04o} → {actual.mode:04o}"
        case Aspect.OWNER:
            return f"owner {expected.uid}:{expected.gid} → {actual.uid}:{actual.gid}"
        case Aspect.TYPE:
            return f"{expected.kind.value} → {actual.kind.value}"
        case Aspect.TARGET:
            return f"target {shown(expected.target)} → {shown(actual.target)}"
        case Aspect.DEVICE:
            return "device {}:{} → {}:{}".format(*expected.device, *actual.device)
        case Aspect.CAPABILITY:
            return f"capability {_hex(expected.capability)} → {_hex(actual.capability)}"
        case Aspect.CONTENT:
            return f"content ({expected.size} → {actual.size} bytes)"


def _hex(value: bytes | None) -> str:
    return "none" if value is None else value.hex()


@dataclass(frozen=True, slots=True)
class Executable:
    """A file that can be executed, with a content that no layer holds. ``sbom``: the attestation whose SBOM lists that."""

    path: bytes
    sha256: bytes | None
    mode: int
    kind: str  #: ``ELF``, ``script``, or ``by mode``
    sbom: str | None = None

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        digest = None if self.sha256 is None else self.sha256.hex()
        return {"path": absolute(self.path), "sha256": digest, "mode": f"{self.mode:04o}", "kind": self.kind, "sbom": self.sbom}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, in the order of the paths."""

    findings: tuple[Finding, ...]
    executables: tuple[Executable, ...]
    mounts: tuple[bytes, ...]  #: mount points, below which nothing was looked at
    ignored: Mapping[Ignore, int] = field(default_factory=lambda: MappingProxyType({}))
    #: What could not be looked at, in words.
    unread: tuple[str, ...] = ()
    entries: int = 0
    hashed: int = 0  #: bytes
    truncated: bool = False  #: there are more findings than are kept

    @property
    def clean(self) -> bool:
        """Whether nothing differs in what could be looked at."""
        return not self.findings


def differences(node: Node, actual: Facts, owners_told: bool = True) -> tuple[Aspect, ...]:
    """In what something differs from what its layers say, but for the content. ``owners_told`` False: owners are not compared."""
    if node.inode is None:
        if actual.kind is not Kind.DIRECTORY:
            return (Aspect.TYPE,)
        told = [] if actual.mode in _IMPLIED_MODES else [Aspect.MODE]
        if owners_told and (actual.uid, actual.gid) != (0, 0):
            told.append(Aspect.OWNER)
        return tuple(told)
    expected = node.inode.facts
    if expected.kind is not actual.kind:
        return (Aspect.TYPE,)
    aspects: list[Aspect] = []
    if expected.kind is Kind.SYMLINK and expected.target != actual.target:
        aspects.append(Aspect.TARGET)
    if expected.kind in {Kind.CHARACTER, Kind.BLOCK} and expected.device != actual.device:
        aspects.append(Aspect.DEVICE)
    modes = {*node.inode.modes, *(_IMPLIED_MODES if node.remade else ())}
    if expected.kind is not Kind.SYMLINK and actual.mode not in modes:
        aspects.append(Aspect.MODE)
    owners = {(expected.uid, expected.gid), *([(0, 0)] if node.remade else [])}
    if owners_told and (actual.uid, actual.gid) not in owners:
        aspects.append(Aspect.OWNER)
    if expected.kind is Kind.FILE and _rights(expected.capability) != _rights(actual.capability):
        aspects.append(Aspect.CAPABILITY)
    return tuple(aspects)


def root_differences(root: Node, actual: Facts, owners_told: bool = True) -> tuple[Aspect, ...]:
    """The same of the root itself, which runtimes make: what an entry says of it, or what is harmless."""
    modes = {*_ROOT_MODES, *(root.inode.modes if root.inode is not None else ())}
    owners = {(0, 0), *([(root.inode.facts.uid, root.inode.facts.gid)] if root.inode is not None else [])}
    told = [] if actual.mode in modes else [Aspect.MODE]
    if owners_told and (actual.uid, actual.gid) not in owners:
        told.append(Aspect.OWNER)
    return tuple(told)


#: What is expected of a directory that no entry describes.
IMPLIED = Facts(Kind.DIRECTORY, 0o755, 0, 0)


def _rights(capability: bytes | None) -> bytes | None:
    """The sets of ``struct vfs_cap_data`` (capabilities(7)): version 3 only adds for whose namespace it is."""
    if capability is None or len(capability) < 20:
        return capability
    return capability[0:1] + capability[4:20]


def executable_kind(actual: Facts, content: Content) -> str | None:
    """Why a file can be executed; None where it cannot."""
    if content.head.startswith(b"\x7fELF"):
        return "ELF"
    if content.head.startswith(b"#!"):
        return "script"
    return "by mode" if actual.mode & 0o111 else None

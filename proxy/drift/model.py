"""What stands at a path: in a layer, in a root filesystem. And how much of it is read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.drift.names import shown


class Kind(StrEnum):
    """The types of files."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHARACTER = "character device"
    BLOCK = "block device"
    FIFO = "fifo"
    SOCKET = "socket"  #: no archive holds one


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of an image is read. Sizes in bytes; all are for the image as a whole, but the ratio."""

    unpacked: int = 64 << 30  #: what its layers unpack to, holes of sparse files included
    entries: int = 1_000_000  #: folders that no entry describes included
    names: int = 256 << 20  #: the paths of all entries, and what links lead to
    #: Unpacked for each packed byte, once more than ``free`` bytes are unpacked. DEFLATE itself cannot reach it.
    ratio: int = 1100
    free: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one file, of whatever type. ``mode`` holds the permissions with setuid, setgid and sticky."""

    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int = 0  #: of a file
    sha256: bytes | None = None  #: of a file's content, 32 bytes; None: it was not read
    target: bytes = b""  #: of a symbolic link
    device: tuple[int, int] = (0, 0)  #: major and minor of a device
    capability: bytes | None = None  #: the extended attribute ``security.capability``

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        values: dict[str, object] = {"type": self.kind.value, "mode": f"{self.mode:04o}", "uid": self.uid, "gid": self.gid}
        if self.kind is Kind.FILE:
            values["size"] = self.size
            values["sha256"] = None if self.sha256 is None else self.sha256.hex()
        if self.kind is Kind.SYMLINK:
            values["target"] = shown(self.target)
        if self.kind in {Kind.CHARACTER, Kind.BLOCK}:
            values["device"] = "{}:{}".format(*self.device)
        if self.capability is not None:
            values["capability"] = self.capability.hex()
        return values

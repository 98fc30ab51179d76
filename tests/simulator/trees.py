"""Trees of files: as entries of layers, as archives, and unpacked by the real ``tar``."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tools import need

ROOT = os.geteuid() == 0
#: ``cap_net_bind_service=ep``, as ``struct vfs_cap_data`` (version 2) has it.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@dataclass(frozen=True)
class Put:
    """One entry of a layer. ``kind`` is tarfile's."""

    path: str
    kind: bytes = tarfile.REGTYPE
    content: bytes = b""
    mode: int = 0o644
    uid: int = os.getuid()
    gid: int = os.getgid()
    link: str = ""
    device: tuple[int, int] = (0, 0)
    capability: bytes | None = None

    def info(self) -> tarfile.TarInfo:
        """As tarfile has it."""
        info = tarfile.TarInfo(self.path)
        info.type, info.mode, info.uid, info.gid, info.linkname = self.kind, self.mode, self.uid, self.gid, self.link
        info.devmajor, info.devminor = self.device
        info.size = len(self.content) if self.kind == tarfile.REGTYPE else 0
        if self.capability is not None:
            info.pax_headers = {"SCHILY.xattr.security.capability": self.capability.decode("utf-8", "surrogateescape")}
        return info


def file(path: str, content: bytes = b"", mode: int = 0o644, **more: object) -> Put:
    """A file."""
    return Put(path, content=content, mode=mode, **more)  # type: ignore[arg-type]  # the fields of Put


def folder(path: str, mode: int = 0o755) -> Put:
    """A directory."""
    return Put(path, tarfile.DIRTYPE, mode=mode)


def symlink(path: str, target: str) -> Put:
    """A symbolic link."""
    return Put(path, tarfile.SYMTYPE, mode=0o777, link=target)


def hardlink(path: str, target: str, mode: int = 0o644) -> Put:
    """Another name of a file."""
    return Put(path, tarfile.LNKTYPE, mode=mode, link=target)


def archive(entries: Iterable[Put], form: int = tarfile.PAX_FORMAT, records: Mapping[str, str] | None = None) -> bytes:
    """A tar archive; ``records`` are added to the pax headers of all entries."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=form) as tar:
        for entry in entries:
            info = entry.info()
            info.pax_headers = {**info.pax_headers, **(records or {})}
            tar.addfile(info, io.BytesIO(entry.content))
    return plain.getvalue()


def unpack(root: Path, *layers: Sequence[Put]) -> None:
    """Unpack layers one over the other: deletions by hand, as the specification of layers says, the rest by ``tar``."""
    for entries in layers:
        for entry in entries:
            path = root / entry.path
            if not path.name.startswith(".wh.") or not is_folder(root, path.parent):
                continue  # what stands below a link is not below the directory that takes its place
            if path.name == ".wh..wh..opq":
                for child in path.parent.iterdir():
                    remove(child)
            else:
                remove(path.parent / path.name.removeprefix(".wh."))
        kept = [entry for entry in entries if not Path(entry.path).name.startswith(".wh.")]
        for entry in kept:
            path = root / entry.path
            folder_over_folder = entry.kind == tarfile.DIRTYPE and path.is_dir() and not path.is_symlink()
            if not folder_over_folder:
                remove(path)
        command = [need("tar"), "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=security.*", "-C", str(root)]
        if kept:
            subprocess.run(command, input=archive(kept), check=True, capture_output=True)


def is_folder(root: Path, path: Path) -> bool:
    """Whether there is a directory at a path below ``root``, and no link on the way to it."""
    above = [each for each in path.parents if each.is_relative_to(root) and each != root]
    return path.is_dir() and not any(each.is_symlink() for each in (path, *above))


def remove(path: Path) -> None:
    """Remove whatever stands there, if anything does."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()

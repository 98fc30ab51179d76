"""Layers read, and roots compared with them, in one call each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proxy.drift.compare import Report
from proxy.drift.disk import Disk
from proxy.drift.model import Bounds
from proxy.drift.rootfs import Examination, Options
from proxy.drift.tar import Member, members
from proxy.drift.tree import FileList, assemble
from proxy.drift.unpacking import Budget, Plain, unpacked
from tests.simulator.trees import Put, archive


def read(data: bytes, bounds: Bounds | None = None, piece: int = 700) -> list[Member]:
    """The entries of a (packed) archive, which comes in pieces of an awkward size."""
    budget = Budget(bounds or Bounds())
    pieces = iter([data[start : start + piece] for start in range(0, len(data), piece)])
    return list(members(Plain(unpacked(pieces, budget)), budget))


def file_list(*layers: Sequence[Put] | bytes, follow: bool = False) -> FileList:
    """The file list of layers."""
    archives = [each if isinstance(each, bytes) else archive(each) for each in layers]
    return assemble([read(each) for each in archives], follow=follow)


def look(root: Path, files: FileList, options: Options | None = None) -> Report:
    """Compare."""
    with Disk.open(root) as disk:
        return Examination(disk, files, options or Options(ignores=())).run()


def changes(report: Report) -> dict[str, str]:
    """What was found: path → what became of it, with the aspects."""
    return {
        finding.path.decode("utf-8", "surrogateescape"): " ".join([finding.change.value, *map(str, finding.aspects)])
        for finding in report.findings
    }

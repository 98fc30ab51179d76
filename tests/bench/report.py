"""The lines of the table, what they must reach, how they are printed and saved."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on Tagstone's value, or on its ratio to a peer's."""

    bound: float
    at_least: bool
    against: str | None = None  #: ``docker-registry`` or ``nginx``: then the bound is on the ratio

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.bound:g}" + (f" × {self.against}" if self.against else "")


@dataclass(frozen=True, slots=True)
class Line:
    """One measure: Tagstone's value, the peers', the targets."""

    name: str
    unit: str
    tagstone: float | None
    peers: dict[str, float]
    targets: tuple[Target, ...] = ()

    def ratio(self, peer: str) -> float | None:
        """Tagstone's value by the peer's; above 1 is more, whatever more means for this unit."""
        value = self.peers.get(peer)
        return None if self.tagstone is None or not value else self.tagstone / value

    def met(self, target: Target) -> bool | None:
        """Whether a target is met; None when it was not measured."""
        seen = self.tagstone if target.against is None else self.ratio(target.against)
        if seen is None:
            return None
        return seen >= target.bound if target.at_least else seen <= target.bound


_PEERS = ("docker-registry", "nginx")
_VERDICTS = {True: "met", False: "NOT MET", None: "not measured"}


def table(lines: Sequence[Line]) -> str:
    """The table for people."""
    head = ["measure", "unit", "Tagstone", "docker-registry", "ratio", "nginx", "ratio", "target", ""]
    rows = [head]
    for line in lines:
        cells = [line.name, line.unit, _number(line.tagstone)]
        for peer in _PEERS:
            cells += [_number(line.peers.get(peer)), _number(line.ratio(peer))]
        first, *more = [[str(target), _VERDICTS[line.met(target)]] for target in line.targets] or [["", ""]]
        rows.append(cells + first)
        rows += [[""] * len(cells) + extra for extra in more]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    numeric = range(2, 7)
    text = [
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(file: Path, lines: Sequence[Line], options: dict[str, Any]) -> None:
    """Write everything as JSON."""
    content = {
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "options": options,
        "lines": [
            {
                "name": line.name,
                "unit": line.unit,
                "tagstone": line.tagstone,
                **line.peers,
                "ratios": {peer: line.ratio(peer) for peer in line.peers},
                "targets": [{"target": str(target), "met": line.met(target)} for target in line.targets],
            }
            for line in lines
        ],
    }
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def missed(lines: Sequence[Line]) -> int:
    """How many targets are not met."""
    return sum(line.met(target) is not True for line in lines for target in line.targets)

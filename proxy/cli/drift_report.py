"""What the commands of ``tagstone drift`` say: documents for scripts, tables for people, events for whoever is on call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from proxy.cli import common
from proxy.cli.drift_image import Approved
from storage.records import Event, EventType

if TYPE_CHECKING:
    from storage.events import EventStore

#: Of the documents; it grows when a key changes its meaning or goes away.
SCHEMA = 1
CLEAN, DRIFT, UNKNOWN = "clean", "drift", "unknown"
EXIT = {CLEAN: 0, DRIFT: common.REFUSED, UNKNOWN: common.UNKNOWN}
#: How many findings an event names, and how many a table shows.
_NAMED = 20
_SHOWN = 200


class Found(Protocol):
    """One finding of whatever kind: hashable, equal only to itself in a later look."""

    @property
    def row(self) -> tuple[str, str, str]:
        """What it is, where, and what is wrong, for people."""
        ...

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """One look at what runs. ``document`` has all keys of the command's own; ``lines`` are for people, behind the table."""

    at: datetime
    findings: Sequence[Found]
    unread: Sequence[str]
    document: dict[str, object]
    lines: Sequence[str]

    @property
    def result(self) -> str:
        """``drift`` where anything was found, else ``unknown`` where something could not be looked at, else ``clean``."""
        if self.findings:
            return DRIFT
        return UNKNOWN if self.unread else CLEAN


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at, and what it should be."""

    command: str
    approved: Approved
    container: str  #: a path, a process or a container, for people

    def __str__(self) -> str:
        return f"{self.approved.reference}@{self.container}"

    def document(self, look: Look) -> dict[str, object]:
        """One look as scripts read it."""
        return {
            "schema": SCHEMA,
            "command": self.command,
            "at": common.moment(look.at),
            "result": look.result,
            "image": self.approved.told(),
            "container": self.container,
            "findings": [finding.told() for finding in look.findings],
            **look.document,
            "unread": list(look.unread),
            "warnings": list(self.approved.warnings),
        }

    def news(self, look: Look, before: Look) -> dict[str, object]:
        """What changed since the look before, as scripts read it."""
        appeared, ended = changes(before, look)
        return {
            **self.document(look),
            "appeared": [finding.told() for finding in appeared],
            "ended": [finding.told() for finding in ended],
        }


def changes(before: Look, after: Look) -> tuple[list[Found], list[Found]]:
    """What was found now and not before, and what before and not now."""
    old, new = set(before.findings), set(after.findings)
    return [each for each in after.findings if each not in old], [each for each in before.findings if each not in new]


def show(subject: Subject, look: Look) -> None:
    """Print a look for people."""
    approved = subject.approved
    word = {CLEAN: "CLEAN", DRIFT: "DRIFT", UNKNOWN: "CANNOT TELL"}[look.result]
    print(f"{subject.container}: {word}")
    print(f"  against {approved.reference} ({approved.digest}, {approved.platform}, {len(approved.layers)} layers)")
    for warning in approved.warnings:
        print(f"  warning: {warning}")
    table(look.findings)
    for line in look.lines:
        print(f"  {line}")
    for line in look.unread[:_SHOWN]:
        print(f"  not looked at: {line}")


def table(findings: Sequence[Found]) -> None:
    """Print findings: a table on a terminal, lines elsewhere."""
    if not findings:
        return
    rows = [finding.row for finding in findings[:_SHOWN]]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=box.SIMPLE, pad_edge=False)
        for title, fold in (("finding", False), ("where", True), ("what", True)):
            shown.add_column(title, overflow="fold" if fold else "ellipsis", no_wrap=not fold)
        for row in rows:
            shown.add_row(*map(Text, row))
        Console().print(shown)
    else:
        for kind, place, what in rows:
            print(f"  {kind:<8} {place}{'  ' + what if what else ''}")
    if len(findings) > _SHOWN:
        print(f"  and {len(findings) - _SHOWN} more (--json has all)")


async def record(events: EventStore, subject: Subject, look: Look) -> None:
    """Let the event of this subject say what was found: it ends where nothing was, and is told anew where that changed."""
    named = [" ".join(part for part in finding.row if part)[:300] for finding in look.findings[:_NAMED]]
    count = len(look.findings)
    message = f"{subject.container} is not what {subject.approved.reference} was approved to be: {count} differences"
    details: dict[str, object] = {"container": subject.container, "command": subject.command, "count": count, "findings": named}
    about = [each for each in await events.open_of(EventType.RUNTIME_DRIFT) if each.subject == str(subject)]
    if look.result == DRIFT and about and dict(about[0].details) == details:
        return
    if about and look.result != UNKNOWN:  # what could not be told ends nothing
        await events.close(str(subject), (EventType.RUNTIME_DRIFT,), look.at)
    if look.result == DRIFT:
        await events.record(
            Event(EventType.RUNTIME_DRIFT, str(subject), subject.approved.digest, message, look.at, details=details)
        )

"""What ``tagstone drift`` says of workloads: documents for scripts, tables for people, events for whoever is on call."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.cli import common
from proxy.drift.standings import Finding, Status
from storage.records import Event, EventType, Severity

if TYPE_CHECKING:
    from proxy.cli.drift_workloads import Look
    from storage.events import EventStore

#: Of the documents; it grows when a key changes its meaning or goes away.
SCHEMA = 1
#: Columns where nobody looks at a terminal.
_WIDE = 500
_MAX_SUBJECT = 400
_MAX_REASON = 500
_COMMAND = "workloads"
_STYLES = {Status.APPROVED: "green", Status.BY_DIGEST: "yellow", Status.OVERWRITTEN: "yellow", Status.UNKNOWN: "magenta"}


def told(finding: Finding) -> dict[str, object]:
    """One finding as scripts read it."""
    workload = finding.workload
    return {
        "status": finding.status.value,
        "source": workload.source.value,
        "namespace": workload.namespace or None,
        "pod": workload.pod or None,
        "container": workload.container,
        "kind": workload.kind,
        "id": workload.id or None,
        "running": workload.running,
        "image": workload.image,
        "repository": None if finding.repository is None else str(finding.repository),
        "tag": finding.tag,
        "digest": None if finding.digest is None else str(finding.digest),
        "claims": [str(claim.digest) for claim in workload.claims],
        "pin": finding.pin,
        "pinned": None if finding.pinned is None else str(finding.pinned),
        "moved_at": common.moment(finding.moved_at),
        "moved_by": finding.moved_by,
        "reason": finding.reason,
    }


def document(look: Look) -> dict[str, object]:
    """One look as scripts read it."""
    return {
        **_head(look),
        "workloads": [told(finding) for finding in look.findings],
        "ignored": look.ignored,
        "ended": look.ended,
        "skipped": look.skipped,
        "trouble": list(look.trouble),
    }


def news(look: Look, appeared: Sequence[Finding], over: Sequence[Finding]) -> dict[str, object]:
    """What changed since the look before, as scripts read it."""
    return {**_head(look), "appeared": [told(each) for each in appeared], "over": [told(each) for each in over]}


def _head(look: Look) -> dict[str, object]:
    counts = Counter(finding.status for finding in look.findings)
    return {
        "schema": SCHEMA,
        "command": _COMMAND,
        "at": common.moment(look.at),
        "result": look.result,
        "counts": {status.value: counts[status] for status in Status},
    }


def changes(before: Look, after: Look) -> tuple[list[Finding], list[Finding]]:
    """What is not well and was not so before; and what was not well, and is gone or well now."""
    old = {each.workload.key: each for each in before.findings if each.status not in before.accepted}
    new = {each.workload.key: each for each in after.findings if each.status not in after.accepted}
    appeared = [each for key, each in new.items() if key not in old or _state(old[key]) != _state(each)]
    return appeared, [each for key, each in old.items() if key not in new]


def _state(finding: Finding) -> tuple[object, ...]:
    return finding.status, finding.digest, finding.pinned


def show(look: Look) -> None:
    """Print a look for people."""
    _table(look.findings)
    counts = Counter(finding.status for finding in look.findings)
    parts = [f"{counts[status]} {status.value}" for status in Status if counts[status]]
    left = [f"{number} {what}" for number, what in ((look.ignored, "ignored"), (look.ended, "not running")) if number]
    nothing = "it cannot be told what runs" if look.trouble else "nothing runs"
    print(f"{len(look.findings)} workload{'' if len(look.findings) == 1 else 's'}: {', '.join([*parts, *left]) or nothing}")
    if look.skipped:
        common.warn(f"{look.skipped} entries are neither containers nor images")
    for line in look.trouble:
        common.warn(common.plain(line))


def tell(look: Look, appeared: Sequence[Finding], over: Sequence[Finding]) -> None:
    """Print what changed."""
    print(f"{common.moment(look.at)}  {look.result}: {len(appeared)} appeared, {len(over)} over", flush=True)
    _table(appeared)
    for each in over:
        print(f"over  {common.plain(each.workload.name)}  ({each.status.value})")
    sys.stdout.flush()


def _table(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not findings:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("standing", "workload", "image", "digest", "why"):
        table.add_column(name, overflow="fold", no_wrap=name == "standing")
    for each in findings:
        workload = each.workload
        kind = "" if workload.kind == "container" else f" ({workload.kind})"
        table.add_row(
            Text(each.status.value, _STYLES.get(each.status, "red")),
            Text(common.plain(workload.name + kind)),
            Text(common.plain(workload.image) or "-"),
            Text("-" if each.digest is None else each.digest.short),
            Text(common.plain(each.reason)),
        )
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


@dataclass(slots=True)
class Recorder:
    """Keeps the events of one origin: open as long as a workload is not well, told anew when what is wrong with it changes."""

    events: EventStore
    origin: str
    _open: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    async def over(cls, events: EventStore, origin: str) -> Recorder:
        """With what an earlier process of this origin left open."""
        recorder = cls(events, origin)
        for event in await events.open_of(EventType.RUNTIME_DRIFT):
            about = event.details
            if (about.get("command"), about.get("origin")) == (_COMMAND, origin):
                recorder._open[event.subject] = (str(about.get("status")), str(event.digest))
        return recorder

    async def tell(self, look: Look) -> None:
        """Let the open events be those of this look. What cannot be told begins nothing, and ends nothing.

        Where a source could not be asked, what is not in this look may be there all the same.
        """
        drifted = {self._subject(each): each for each in look.drifted}
        untold = {self._subject(each) for each in look.findings if each.status is Status.UNKNOWN}
        there = {self._subject(each) for each in look.findings}
        for subject, known in list(self._open.items()):
            finding = drifted.get(subject)
            if subject in untold or (finding is not None and _key(finding) == known):
                continue
            if look.trouble and subject not in there:
                continue
            await self.events.close(subject, (EventType.RUNTIME_DRIFT,), look.at)
            del self._open[subject]
        for subject, finding in drifted.items():
            if subject not in self._open:
                await self.events.record(self._event(subject, finding, look))
                self._open[subject] = _key(finding)

    def _subject(self, finding: Finding) -> str:
        workload = finding.workload
        kind = "" if workload.kind == "container" else f" ({workload.kind})"
        return common.plain(f"{self.origin}: {workload.source}: {workload.name}{kind}")[:_MAX_SUBJECT]

    def _event(self, subject: str, finding: Finding, look: Look) -> Event:
        workload = finding.workload
        reason = common.plain(finding.reason)[:_MAX_REASON]
        image = common.plain(workload.image)[:_MAX_SUBJECT]
        details: dict[str, object] = {
            "command": _COMMAND,
            "origin": self.origin,
            "status": finding.status.value,
            "source": workload.source.value,
            "workload": common.plain(workload.name)[:_MAX_SUBJECT],
            "image": image,
            "reason": reason,
        }
        if finding.pin is not None:
            details |= {"pin": finding.pin, "pinned": str(finding.pinned)}
        message = f"{subject} runs {image or 'an image'}, which is {finding.status.value}: {reason}"
        mild = finding.status in {Status.BY_DIGEST, Status.OVERWRITTEN}
        severity = Severity.WARNING if mild else Severity.CRITICAL
        return Event(EventType.RUNTIME_DRIFT, subject, finding.digest, message, look.at, severity=severity, details=details)


def _key(finding: Finding) -> tuple[str, str]:
    return finding.status.value, str(finding.digest)

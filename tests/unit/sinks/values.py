"""Messages for the tests of sinks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from storage.digest import Digest
from storage.records import Event, EventType, Message, Severity

AT = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
DIGEST = Digest.of(b"moved")


def message(
    number: int = 1,
    kind: EventType = EventType.TAG_OVERWRITTEN,
    subject: str = "docker.io/library/nginx:1.27",
    *,
    resolved: bool = False,
    severity: Severity | None = None,
    words: str = "it was overwritten",
    **details: Any,
) -> Message:
    """A message about an event of this type."""
    event = Event(kind, subject, DIGEST, words, AT, severity=severity, details=details)
    at = AT + timedelta(hours=1) if resolved else AT
    if resolved:
        event = replace(event, closed_at=at)
    return Message(number, f"id-{number}", 40 + number, event, resolved, at)

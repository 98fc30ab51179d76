"""CloudEvents 1.0.2 by HTTP in structured mode ("JSON Event Format", "HTTP Protocol Binding"), signed as Standard Webhooks 1.0.0.

The event's ``id`` and ``webhook-id`` are the message's: the same at every attempt. The ``type`` is that of the event behind
``dev.tagstone.``, with ``.resolved`` behind it where the message says that a state is over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from proxy.policy.alerts import CloudEvents
from proxy.sinks.http import Poster
from proxy.sinks.model import Answer, Kind
from proxy.sinks.secrets import SecretUnreadable, read
from proxy.sinks.webhooks import headers, parse_secrets
from storage.records import ACTS, Event, Message, Severity

PREFIX = "dev.tagstone."
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
#: The extension "severity" of CloudEvents: text and number of OpenTelemetry's log data model.
_SEVERITY = {Severity.INFO: ("INFO", 9), Severity.WARNING: ("WARN", 13), Severity.CRITICAL: ("ERROR", 17)}


def envelope(message: Message, source: str) -> dict[str, Any]:
    """The whole event, ready for JSON."""
    event = message.event
    text, number = _SEVERITY[event.severity or Severity.WARNING]
    return {
        "specversion": "1.0",
        "id": message.id,
        "source": source,
        "type": f"{PREFIX}{event.type.value}{'.resolved' if message.resolved else ''}",
        "subject": event.subject,
        "time": moment(message.at),
        "datacontenttype": "application/json",
        "severitytext": text,
        "severitynumber": number,
        "data": data(message),
    }


def data(message: Message) -> dict[str, Any]:
    """What happened, the same for every type."""
    event = message.event
    over = message.resolved or event.type in ACTS
    return {
        "event": message.number,
        "type": event.type.value,
        "state": state(event, resolved=message.resolved),
        "severity": (event.severity or Severity.WARNING).value,
        "subject": event.subject,
        "digest": None if event.digest is None else str(event.digest),
        "message": event.message,
        "opened_at": moment(event.at),
        "closed_at": moment(event.closed_at) if over and event.closed_at is not None else None,
        "details": dict(event.details),
    }


def state(event: Event, *, resolved: bool) -> str:
    """``happened`` for what is over as it is told, else ``open`` or ``resolved``."""
    if event.type in ACTS:
        return "happened"
    return "resolved" if resolved else "open"


def moment(at: datetime) -> str:
    """RFC 3339, in UTC."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class CloudEventsSink:
    """Posts one event at a time. ``clock`` gives seconds since 1970, for the timestamp of each attempt."""

    batch = 1
    resend: float | None = None

    def __init__(
        self, target: CloudEvents, source: str, timeout: float, *, user_agent: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._target = target
        self._source = source
        self._clock = clock
        self._poster = Poster(target.http, timeout, user_agent=user_agent)

    async def send(self, messages: Sequence[Message]) -> Answer:
        """Post one event."""
        (message,) = messages
        body = json.dumps(envelope(message, self._source), ensure_ascii=False, separators=(",", ":")).encode()
        sent = {"Content-Type": CONTENT_TYPE, "webhook-id": message.id}
        if self._target.secret is not None:
            try:
                signers = parse_secrets(await read(self._target.secret))
            except ValueError as error:
                return Answer(Kind.FAILED, f"{self._target.secret} {error}")
            except SecretUnreadable as error:
                return Answer(Kind.FAILED, str(error))
            sent |= headers(signers, message.id, int(self._clock()), body)
        return await self._poster.post("", body, sent)

    async def remind(self, events: Sequence[Event]) -> Answer:
        """Never asked."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close connections."""
        await self._poster.close()

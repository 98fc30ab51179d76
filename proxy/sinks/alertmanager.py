"""Prometheus Alertmanager, API v2: ``POST /api/v2/alerts``.

An alert is known by its labels. One that is open is sent again and again, each time with an end that lies a few intervals ahead,
so that it ends by itself when nobody sends it any more; one that is over is sent with the end it had. What is over as it is told
(acts) has no end that Alertmanager could wait for: it stays for a while, ``hold``, from when it is sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.policy.alerts import ABOUT_IMAGES, Alertmanager
from proxy.sinks.cloudevents import moment
from proxy.sinks.http import Poster
from proxy.sinks.model import Answer
from proxy.sinks.words import details
from storage.records import ACTS, Event, Message, Severity

#: How many intervals an open alert lasts that is not sent again: as Prometheus has it.
INTERVALS = 4
#: Alerts in one request.
MOST = 100


def labels(event: Event, more: dict[str, str]) -> dict[str, str]:
    """What identifies the alert; ``more`` come from the configuration and never replace these."""
    found = {
        "alertname": "Tagstone" + "".join(part.capitalize() for part in event.type.value.split(".")),
        "severity": (event.severity or Severity.WARNING).value,
        "type": event.type.value,
        "subject": event.subject,
    }
    if event.type in ABOUT_IMAGES:
        path, _, last = event.subject.rpartition("/")
        name, _, tag = last.partition(":")
        found |= {"repository": f"{path}/{name}", "tag": tag}
    if event.digest is not None:
        found["digest"] = str(event.digest)
    return {name: value for name, value in {**more, **found}.items() if value}


def notes(event: Event) -> dict[str, str]:
    """What is told about it."""
    told = {"summary": event.message}
    if lines := details(event):
        told["description"] = "\n".join(lines)
    return told


class AlertmanagerSink:
    """Sends alerts to one Alertmanager. Of a cluster, every member is a sink of its own: they expect that."""

    batch = MOST

    def __init__(
        self, target: Alertmanager, source: str, timeout: float, *, user_agent: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._target = target
        self._source = source if source.startswith(("http://", "https://")) else None
        self._clock = clock
        self._poster = Poster(target.http, timeout, user_agent=user_agent)
        self.resend: float | None = target.resend

    async def send(self, messages: Sequence[Message]) -> Answer:
        """Post what began and what is over."""
        return await self._post([self.alert(message.event, resolved=message.resolved) for message in messages])

    async def remind(self, events: Sequence[Event]) -> Answer:
        """Post open events again."""
        return await self._post([self.alert(event, resolved=False) for event in events])

    async def close(self) -> None:
        """Close connections."""
        await self._poster.close()

    def alert(self, event: Event, *, resolved: bool) -> dict[str, Any]:
        """One alert, ready for JSON."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        if resolved:
            end = event.closed_at or now
        else:
            end = now + timedelta(seconds=self._target.hold if event.type in ACTS else INTERVALS * self._target.resend)
        found = {
            "labels": labels(event, dict(self._target.labels)),
            "annotations": notes(event),
            "startsAt": moment(event.at),
            "endsAt": moment(max(end, event.at)),  # it refuses an end before the beginning, which a clock set back would make
        }
        return found if self._source is None else found | {"generatorURL": self._source}

    async def _post(self, alerts: list[dict[str, Any]]) -> Answer:
        body = json.dumps(alerts, ensure_ascii=False, separators=(",", ":")).encode()
        return await self._poster.post("/api/v2/alerts", body, {"Content-Type": "application/json"})

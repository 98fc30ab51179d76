"""Alerts: to which sink an event goes, when an attempt is repeated, when a digest is due. Pure.

The values here are what :mod:`proxy.configuration.alerts` makes of the file; the secrets in them are never shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from proxy.policy.patterns import Pattern
from storage.records import Event, EventType, Severity, sink_subject

#: The first pause after an attempt that failed, and the longest between two attempts, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 900.0
#: So many failures in a row, and the sink is reported as failing.
FAILING_AFTER = 5
#: The longest Retry-After that is obeyed, in seconds.
LONGEST_RETRY_AFTER = 86400.0
#: Types whose subject is an image, a repository or a tag; those of others are what their documentation says.
ABOUT_IMAGES = frozenset(
    {each for each in EventType if each.value.partition(".")[0] in {"tag", "pin", "signature"}} | {EventType.BLOB_TAMPERED}
)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DIGEST = re.compile(r"(daily|weekly(?: on (?P<day>[a-z]+))?) at (?P<hour>\d{2}):(?P<minute>\d{2})", re.ASCII)


def pause(attempts: int, chance: Callable[[], float]) -> float:
    """Seconds until the next attempt after ``attempts`` that failed (from 1): doubled each time, up to a bound, with jitter.

    ``chance`` gives numbers in [0, 1). Between half and the whole of what it would be without jitter: many that failed together
    do not come back together.
    """
    whole = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(attempts - 1, 30))
    return whole * (0.5 + chance() / 2)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a sink is told: all three must let it through. No patterns: all."""

    types: tuple[Pattern, ...] = ()
    severity: Severity = Severity.INFO
    images: tuple[Pattern, ...] = ()

    def wants(self, event: Event) -> bool:
        """Whether an event passes. Image patterns hold for events about images, for the tag's whole name or its repository."""
        if (event.severity or Severity.WARNING).rank < self.severity.rank:
            return False
        if self.types and not any(pattern.matches(event.type.value) for pattern in self.types):
            return False
        if not self.images or event.type not in ABOUT_IMAGES:
            return True
        repository = event.subject.rpartition(":")[0] if ":" in event.subject.rpartition("/")[2] else event.subject
        return any(pattern.matches(event.subject) or pattern.matches(repository) for pattern in self.images)


@dataclass(frozen=True, slots=True)
class Digest:
    """Once a day, or once a week (``weekday``: 0 is Monday), at a time of day in UTC."""

    at: time
    weekday: int | None = None

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``daily at 08:00``, ``weekly at 08:00`` (on Mondays) or ``weekly on friday at 08:00``. Raises ValueError."""
        found = _DIGEST.fullmatch(" ".join(text.lower().split()))
        if found is None or int(found["hour"]) > 23 or int(found["minute"]) > 59:
            raise ValueError("write `daily at 08:00`, `weekly at 08:00` or `weekly on friday at 08:00`, in UTC")
        at = time(int(found["hour"]), int(found["minute"]))
        if found[1] == "daily":
            return cls(at)
        day = found["day"] or _DAYS[0]
        if day not in _DAYS:
            raise ValueError(f"`{day}` is no day of the week: write {', '.join(_DAYS[:-1])} or {_DAYS[-1]}")
        return cls(at, _DAYS.index(day))

    def after(self, moment: datetime) -> datetime:
        """When the next one is due: later than ``moment``, by a week at most."""
        moment = moment.astimezone(UTC)
        due = datetime.combine(moment.date(), self.at, UTC)
        while due <= moment or (self.weekday is not None and due.weekday() != self.weekday):
            due += timedelta(days=1)
        return due

    def __str__(self) -> str:
        when = f"{self.at:%H:%M}"
        return f"daily at {when}" if self.weekday is None else f"weekly on {_DAYS[self.weekday]} at {when}"


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret is: in a file or in an environment variable. It is read when it is needed, so that it can be replaced."""

    file: Path | None = None
    variable: str | None = None

    def __str__(self) -> str:
        return f"the file {self.file}" if self.file is not None else f"the environment variable {self.variable}"


@dataclass(frozen=True, slots=True)
class Http:
    """An HTTP endpoint: written in the configuration, or kept elsewhere because it is a secret itself."""

    url: str | None = field(default=None, repr=False)
    source: SecretSource | None = None
    bearer: SecretSource | None = None
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class CloudEvents:
    """CloudEvents 1.0 by HTTP, signed where there are secrets."""

    http: Http
    secret: SecretSource | None = None


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """Alertmanager's API v2. Seconds: open events are sent every ``resend``; what is over as it is told stays for ``hold``."""

    http: Http
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    resend: float = 60.0
    hold: float = 900.0


@dataclass(frozen=True, slots=True)
class Apprise:
    """Services that apprise knows, by URLs that hold their secrets."""

    urls: SecretSource


@dataclass(frozen=True, slots=True)
class SinkPolicy:
    """One sink: what it is told, and how. ``timeout`` (seconds) holds for one attempt."""

    name: str
    target: CloudEvents | Alertmanager | Apprise
    filter: Filter = Filter()
    digest: Digest | None = None
    timeout: float = 15.0

    def wants(self, event: Event) -> bool:
        """Whether it is told of an event; never of its own failures, which it could not be told."""
        return event.subject != sink_subject(self.name) and self.filter.wants(event)


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """All sinks. Seconds: ``give_up``: how long a message is tried; ``keep``: how long what became of it is kept.

    ``history``: how long events are kept after their end.
    """

    sinks: tuple[SinkPolicy, ...] = ()
    source: str = "/tagstone"
    give_up: float = 7 * 86400.0
    keep: float = 7 * 86400.0
    history: float = 365 * 86400.0

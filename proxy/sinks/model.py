"""What a sink is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from storage.records import Event, Message


class Kind(StrEnum):
    """How an attempt ended."""

    TAKEN = "taken"
    REFUSED = "refused"  #: it will never take this: trying again is no use
    FAILED = "failed"  #: it may take it later
    GONE = "gone"  #: it wants nothing any more


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of an attempt: in one line for people, without secrets; ``retry_after`` seconds where it asked for time."""

    kind: Kind
    words: str
    retry_after: float | None = None

    @property
    def taken(self) -> bool:
        """Whether it took what it was sent."""
        return self.kind is Kind.TAKEN


class Sink(Protocol):
    """One place that alerts are sent to. Sending takes no longer than its timeout, and raises nothing but ``CancelledError``."""

    #: Most messages in one attempt.
    batch: int
    #: How often open events are sent again, in seconds; None: they are not.
    resend: float | None

    async def send(self, messages: Sequence[Message]) -> Answer:
        """Send messages, oldest first: all of them or none count as taken."""
        ...

    async def remind(self, events: Sequence[Event]) -> Answer:
        """Say again that these are open. Only where ``resend`` is set."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...

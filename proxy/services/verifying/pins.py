"""One pin is judged again, and what came of it is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import structlog

from proxy.policy import signers
from proxy.policy.verdicts import Outcome, Verdict, vouching
from proxy.services import checks
from proxy.services.gate import Gate
from proxy.services.metrics import Metrics
from proxy.services.revision import Clock
from proxy.services.weighing import Manner
from storage.events import EventStore
from storage.records import Event, EventType, Pin, PinState
from storage.reference import Repository

log = structlog.get_logger("tagstone.verification")

#: How many reasons, and how many signers, an event names.
_NAMED = 10


class Result(StrEnum):
    """How a pinned digest stands."""

    PASSES = "passes"
    LOST = "lost"  #: it passes by what was kept when it was accepted: the upstream has that no more
    REFUSED = "refused"  #: it does not pass; the pin is revoked
    UNKNOWN = "unknown"  #: nobody can tell now; nothing has changed
    UNPINNED = "unpinned"


@dataclass(frozen=True, slots=True)
class Verified:
    """One pin that was judged again: as it is now, and why. ``gone``: who vouched for it, and does no more upstream."""

    repository: Repository
    tag: str
    result: Result
    pin: Pin | None = None
    reasons: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``registry/repository:tag``."""
        return f"{self.repository}:{self.tag}"


class PinVerifier:
    """Judges pins again by the gate, and tells whose evidence is gone, and when it is back."""

    def __init__(self, gate: Gate, events: EventStore, metrics: Metrics, clock: Clock) -> None:
        self._gate = gate
        self._events = events
        self._metrics = metrics
        self._clock = clock

    async def verify(self, repository: Repository, tag: str, manner: Manner) -> Verified:
        """Judge the digest of one pin again. Raises StorageError."""
        judged = await self._gate.judge(repository, tag, manner)
        if judged is None:
            return Verified(repository, tag, Result.UNPINNED)
        pin, verdict, upstream = judged.pin, judged.found.verdict, judged.found.upstream
        if verdict.outcome is Outcome.REFUSED:
            return Verified(repository, tag, Result.REFUSED, pin, verdict.reasons)
        if verdict.outcome is Outcome.UNKNOWN:
            return Verified(repository, tag, Result.UNKNOWN, pin, verdict.reasons)
        if upstream is None:
            return Verified(repository, tag, Result.PASSES, pin, verdict.reasons)
        if upstream.outcome is Outcome.ACCEPTED:
            if await self._events.close(pin.name, {EventType.SIGNATURE_LOST}, self._clock()):
                log.info("signature.found", image=pin.name, digest=str(pin.digest))
            return Verified(repository, tag, Result.PASSES, pin, verdict.reasons)
        if upstream.outcome is Outcome.UNKNOWN:
            reasons = (
                "it passes by the evidence that was kept; whether the upstream has that still cannot be told",
                *upstream.reasons,
            )
            return Verified(repository, tag, Result.UNKNOWN, pin, reasons)
        return await self._lost(pin, verdict, upstream)

    async def _lost(self, pin: Pin, verdict: Verdict, upstream: Verdict) -> Verified:
        """What was kept accepts it, what the upstream has does not. Told only while the upstream has the tag, and shows it."""
        repository, tag = pin.repository, pin.tag
        if pin.state is not PinState.DELETED:
            checked = await self._gate.check(repository, tag)
            if checked.result in checks.UNTOLD:
                return Verified(repository, tag, Result.UNKNOWN, checked.pin or pin, (checked.message,))
            if checked.pin is None or checked.pin.digest != pin.digest:
                return Verified(repository, tag, Result.UNPINNED if checked.pin is None else Result.PASSES, checked.pin)
            pin = checked.pin
        if pin.state is PinState.DELETED:
            reason = "the upstream has deleted the tag; it passes by the evidence that was kept"
            return Verified(repository, tag, Result.PASSES, pin, (reason, *verdict.reasons))
        there = vouching(upstream.evidence)
        gone = tuple(line for line in verdict.signers or () if not signers.belongs(line, there))
        who = f", by {signers.told(gone[:_NAMED])}," if gone else ""
        message = (
            f"{pin.name}: the evidence{who} by which {pin.digest} was accepted is not to be had upstream any more; "
            "it passes by what was kept, and is served on"
        )
        details = {"pinned": str(pin.digest), "gone": list(gone[:_NAMED]), "upstream_lacks": list(upstream.reasons[:_NAMED])}
        event = Event(EventType.SIGNATURE_LOST, pin.name, pin.digest, message, self._clock(), details=details)
        if await self._events.record(event):
            self._metrics.happened(event.type.value)
            log.warning(event.type.value, image=event.subject, digest=str(pin.digest), message=message)
        return Verified(repository, tag, Result.LOST, pin, upstream.reasons, gone)

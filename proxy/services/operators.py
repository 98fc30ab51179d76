"""What operators do: approve, reject, unpin, block. Each is one transaction with who and why; running servers hear at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from proxy.policy.verdicts import Outcome, Verdict
from storage.digest import Digest
from storage.records import Block, EventType, Pin, PinAction, PinChange, PinState, PinWrite
from storage.reference import Repository

if TYPE_CHECKING:  # commands that need none of these start without them
    from proxy.services.admission import Admission
    from proxy.services.revision import Clock, Revision
    from storage.catalog import Catalog
    from storage.pins import PinStore


class Result(StrEnum):
    """How an act ended."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Act:
    """The end of an operator's act: what became of it, in words, and the pin afterwards."""

    result: Result
    message: str
    reasons: tuple[str, ...] = ()
    pin: Pin | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """Who acts, and why."""

    by: str
    reason: str


class Operators:
    """Acts on one database under one revision of the policy. Raises StorageError when it cannot be written."""

    def __init__(self, pins: PinStore, catalog: Catalog, admission: Admission, revision: Revision, clock: Clock) -> None:
        self._pins = pins
        self._catalog = catalog
        self._admission = admission
        self._revision = revision
        self._clock = clock

    async def approve(self, repository: Repository, tag: str, digest: Digest | None, signed: Signed) -> Act:
        """Move a pin to ``digest`` (None: to what the upstream names now, as last seen).

        The digest must pass the image's rule: an approval does not stand for a signature.
        """
        pin = await self._pins.get(repository, tag)
        if pin is None:
            return _unpinned(repository, tag)
        chosen = digest or pin.candidate
        if chosen is None:
            return Act(Result.REFUSED, f"{pin.name} is not overwritten; name the digest to approve with --digest", pin=pin)
        if chosen == pin.digest:
            return Act(Result.DONE, f"{pin.name} is pinned to {chosen} already", pin=pin)
        rule = self._revision.rule(repository)
        verdict = await self._admission.of_candidate(self._revision, rule, repository, chosen)
        if not verdict.accepted:
            return _not_passing(pin, chosen, str(rule), verdict)
        now = self._clock()
        new = replace(
            pin,
            digest=chosen,
            state=PinState.PINNED,
            pinned_at=now,
            pinned_by=signed.by,
            reason=signed.reason,
            candidate=None,
            candidate_seen_at=None,
            rejected=None,
            version=pin.version + 1,
        )
        change = PinChange(repository, tag, PinAction.APPROVED, now, signed.by, signed.reason, pin.digest, chosen)
        closed = (EventType.TAG_OVERWRITTEN, EventType.TAG_DELETED, EventType.PIN_REVOKED)
        await self._pins.apply(PinWrite(pin, new, change, (), closed))
        return Act(Result.DONE, f"{pin.name} is pinned to {chosen} now (before: {pin.digest})", verdict.reasons, new)

    async def reject(self, repository: Repository, tag: str, digest: Digest | None, signed: Signed) -> Act:
        """Say no to what the upstream names now: the pin stays, the refusal says so, and the event is closed."""
        pin = await self._pins.get(repository, tag)
        if pin is None:
            return _unpinned(repository, tag)
        chosen = digest or pin.candidate
        if chosen is None:
            return Act(Result.REFUSED, f"{pin.name} is not overwritten; there is nothing to reject", pin=pin)
        if chosen == pin.digest:
            message = f"{pin.name} is pinned to {chosen}; to take that back: tagstone pins unpin, or tagstone block {chosen}"
            return Act(Result.REFUSED, message, pin=pin)
        new = replace(pin, rejected=chosen, version=pin.version + 1)
        change = PinChange(repository, tag, PinAction.REJECTED, self._clock(), signed.by, signed.reason, pin.digest, chosen)
        # Another digest than the one that is there now leaves the news about that one open.
        closed = (EventType.TAG_OVERWRITTEN,) if chosen == pin.candidate else ()
        await self._pins.apply(PinWrite(pin, new, change, (), closed))
        return Act(Result.DONE, f"{pin.name} stays pinned to {pin.digest}; {chosen} is rejected", pin=new)

    async def unpin(self, repository: Repository, tag: str, signed: Signed) -> Act:
        """Remove a pin: the next pull pins the tag to what verifies then. The history is kept."""
        pin = await self._pins.get(repository, tag)
        if pin is None:
            return _unpinned(repository, tag)
        change = PinChange(repository, tag, PinAction.UNPINNED, self._clock(), signed.by, signed.reason, pin.digest, None)
        closed = (EventType.TAG_OVERWRITTEN, EventType.TAG_DELETED, EventType.PIN_REVOKED)
        await self._pins.apply(PinWrite(pin, None, change, (), closed))
        return Act(Result.DONE, f"{pin.name} is no longer pinned (it was {pin.digest})")

    async def block(self, digest: Digest, signed: Signed) -> Act:
        """Refuse a digest everywhere, cached or not, with everything that is reached through it only."""
        await self._catalog.block(Block(digest, signed.reason, signed.by, self._clock()))
        return Act(Result.DONE, f"{digest} is blocked; who was handed it: tagstone pulls --digest {digest}")

    async def unblock(self, digest: Digest, signed: Signed) -> Act:
        """Take a block back."""
        if await self._catalog.unblock(digest, by=signed.by, reason=signed.reason, at=self._clock()):
            return Act(Result.DONE, f"{digest} is no longer blocked")
        return Act(Result.REFUSED, f"{digest} is not blocked")


def _unpinned(repository: Repository, tag: str) -> Act:
    return Act(Result.REFUSED, f"{repository}:{tag} is not pinned; its first accepted pull pins it")


def _not_passing(pin: Pin, digest: Digest, rule: str, verdict: Verdict) -> Act:
    if verdict.outcome is Outcome.UNKNOWN:
        message = f"whether {digest} passes {rule} cannot be told now; {pin.name} stays pinned to {pin.digest}"
        return Act(Result.UNKNOWN, message, verdict.reasons, pin)
    message = f"{digest} does not pass {rule}, and an approval does not stand for that; {pin.name} stays pinned to {pin.digest}"
    return Act(Result.REFUSED, message, verdict.reasons, pin)

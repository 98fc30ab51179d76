"""What operators do: approve, reject, unpin, block. Each is one transaction with who and why; running servers hear at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from proxy.policy import writes
from proxy.policy.rotation import person, say_yes
from proxy.policy.verdicts import Outcome, Verdict
from storage.digest import Digest
from storage.errors import PinConflict
from storage.records import Approval, Block, Pin
from storage.reference import Repository

if TYPE_CHECKING:  # commands that need none of these start without them
    from proxy.services.admission import Admission
    from proxy.services.revision import Clock, Revision
    from storage.catalog import Catalog
    from storage.pins import PinStore


#: How often an act is tried again because the server noted something about the pin at the same moment.
_RACES = 5


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
        """Say yes to ``digest`` (None: to what the upstream names now, as last seen).

        The pin moves when as many people as its rule asks for have said so; under a rule that rotates, its candidate's cooldown
        and window are waited for as well. The digest must pass the image's rule: an approval does not stand for a signature.
        """
        return await self._meaning(repository, tag, lambda pin: self._approve(pin, digest or pin.candidate, signed))

    async def _approve(self, pin: Pin, chosen: Digest | None, signed: Signed) -> Act:
        if not person(signed.by):
            return Act(Result.REFUSED, "nobody approves: say who, with --by", pin=pin)
        if chosen is None:
            return Act(Result.REFUSED, f"{pin.name} is not overwritten; name the digest to approve with --digest", pin=pin)
        if chosen == pin.digest:
            return Act(Result.DONE, f"{pin.name} is pinned to {chosen} already", pin=pin)
        rule = self._revision.rule(pin.repository)
        verdict = await self._admission.of_candidate(self._revision, rule, pin.repository, chosen)
        if not verdict.accepted:
            return _not_passing(pin, chosen, str(rule), verdict)
        now = self._clock()
        yes = say_yes(pin, rule, Approval(chosen, signed.by, signed.reason, now))
        if yes.moves:
            write = writes.approved(pin, yes, verdict.signers)
            await self._pins.apply(write)
            message = f"{pin.name} is pinned to {chosen} now (before: {pin.digest})"
            return Act(Result.DONE, message, verdict.reasons, write.new)
        told = f"{pin.name} stays pinned to {pin.digest}: {yes.why}"
        if not yes.news:
            return Act(Result.DONE, f"{signed.by} has approved {chosen} before; {told}", pin=pin)
        write = writes.approval(pin, yes)
        await self._pins.apply(write)
        return Act(Result.DONE, f"{chosen} is approved by {signed.by}; {told}", verdict.reasons, write.new)

    async def reject(self, repository: Repository, tag: str, digest: Digest | None, signed: Signed) -> Act:
        """Say no to what the upstream names now: the pin stays, the refusal says so, and the event is closed."""
        return await self._meaning(repository, tag, lambda pin: self._reject(pin, digest or pin.candidate, signed))

    async def _reject(self, pin: Pin, chosen: Digest | None, signed: Signed) -> Act:
        if chosen is None:
            return Act(Result.REFUSED, f"{pin.name} is not overwritten; there is nothing to reject", pin=pin)
        if chosen == pin.digest:
            message = f"{pin.name} is pinned to {chosen}; to take that back: tagstone pins unpin, or tagstone block {chosen}"
            return Act(Result.REFUSED, message, pin=pin)
        write = writes.rejected(pin, chosen, signed.by, signed.reason, self._clock())
        await self._pins.apply(write)
        return Act(Result.DONE, f"{pin.name} stays pinned to {pin.digest}; {chosen} is rejected", pin=write.new)

    async def unpin(self, repository: Repository, tag: str, signed: Signed) -> Act:
        """Remove a pin: the next pull pins the tag to what verifies then. The history is kept."""
        return await self._meaning(repository, tag, lambda pin: self._unpin(pin, signed))

    async def _unpin(self, pin: Pin, signed: Signed) -> Act:
        await self._pins.apply(writes.removed(pin, signed.by, signed.reason, self._clock()))
        return Act(Result.DONE, f"{pin.name} is no longer pinned (it was {pin.digest})")

    async def _meaning(self, repository: Repository, tag: str, act: Callable[[Pin], Awaitable[Act]]) -> Act:
        """Do what is meant about a pin. What the server notes about it meanwhile does not change that; another digest does.

        Raises PinConflict where the pin or its candidate became another.
        """
        pin = await self._pins.get(repository, tag)
        for left in reversed(range(_RACES)):
            if pin is None:
                return _unpinned(repository, tag)
            try:
                return await act(pin)
            except PinConflict:
                now = await self._pins.get(repository, tag)
                if not left or now is None or (now.digest, now.candidate) != (pin.digest, pin.candidate):
                    raise
                pin = now
        raise AssertionError("the last of these races returns or raises")

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

"""What becomes of a pin: each function makes one write of one thing that happened to it. Pure.

The write holds the pin as it was, as it becomes, the line of its history, the events that begin and those that end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from proxy.policy import signers
from proxy.policy.rotation import Candidacy, Hold, Progress, Yes, approvals_of, rotating, told
from proxy.policy.rules import Rule, TagRule
from proxy.policy.verdicts import Verdict
from storage.digest import Digest
from storage.records import Event, EventType, Judgement, Pin, PinAction, PinChange, PinState, PinWrite

#: The states that end when a pin is what the upstream names.
AT_REST = (
    EventType.TAG_OVERWRITTEN,
    EventType.TAG_ROTATION_PENDING,
    EventType.PIN_STALE,
    EventType.TAG_DELETED,
    EventType.PIN_REVOKED,
)
#: And those that end with the digest that it had.
MOVED = (*AT_REST, EventType.SIGNATURE_LOST)
_WAITING = (EventType.TAG_ROTATION_PENDING, EventType.PIN_STALE)


def overwrite(pin: Pin, candidate: Digest) -> str:
    """That a tag was overwritten, in one sentence."""
    return _moved(pin, candidate, f" since {pin.pinned_at:%Y-%m-%d %H:%M} UTC")


def _moved(pin: Pin, candidate: Digest, since: str = "") -> str:
    return f"{pin.name} was overwritten upstream: pinned to {pin.digest}{since}, upstream now names {candidate}"


def overwritten(pin: Pin, candidate: Digest, tags: TagRule, now: datetime, at: datetime | None) -> PinWrite:
    """The upstream names another digest than the pinned one, and than it last did. ``at``: the upstream's own time.

    Its cooldown begins by the later of the two clocks, so that it does not end early when one that was behind is set right. All
    of this is news at once where only people move the pin; a rule that rotates has the candidate judged first.
    """
    message = _moved(pin, candidate)
    new = replace(
        _without_candidate(pin),
        state=PinState.OVERWRITTEN,
        candidate=candidate,
        candidate_seen_at=now if at is None else max(now, at),
        checked_at=now,
        approvals=approvals_of(pin.approvals, candidate),
    )
    change = PinChange(pin.repository, pin.tag, PinAction.OVERWRITTEN, now, "upstream", message, pin.digest, candidate)
    is_news = tags.rotation is None or pin.rejected == candidate
    opened = (_event(EventType.TAG_OVERWRITTEN, pin, candidate, message, now),) if is_news else ()
    return PinWrite(pin, new, change, opened, (EventType.TAG_DELETED, EventType.PIN_REVOKED, *_WAITING))


def judged(after: Pin, pin: Pin, rule: Rule, tags: TagRule, judgement: Judgement, far: Progress, now: datetime) -> PinWrite:
    """Something came out about the candidate that was not known. ``after``: the pin as it is but for that."""
    candidate = after.candidate
    assert candidate is not None
    new = replace(after, judgement=judgement, version=pin.version + 1)
    reason = f"{judgement.standing}: {'; '.join(judgement.reasons)}"
    change = PinChange(pin.repository, pin.tag, PinAction.JUDGED, now, str(rule), reason, pin.digest, candidate)
    if tags.rotation is None:
        if rotating(pin.judgement) and pin.rejected != candidate:  # it was waiting for its turn until the rule became another
            return PinWrite(
                pin, new, change, (_event(EventType.TAG_OVERWRITTEN, pin, candidate, _moved(pin, candidate), now),), _WAITING
            )
        return PinWrite(pin, new, change)
    why = told(far, judgement)
    if far.hold in {Hold.REJECTED, Hold.FAILS, Hold.OTHER_SIGNER}:
        message = f"{_moved(pin, candidate)}; {why}"
        opened = (_event(EventType.TAG_OVERWRITTEN, pin, candidate, message, now, reason=why),)
        return PinWrite(pin, new, change, opened, _WAITING)
    return PinWrite(pin, new, change, _pending(pin, candidate, far, why, now), (EventType.TAG_OVERWRITTEN,))


def rotated(pin: Pin, candidacy: Candidacy, rule: Rule, tags: TagRule, far: Progress, now: datetime) -> PinWrite:
    """The pin moves to its candidate by rule."""
    assert tags.rotation is not None
    who = signers.told(candidacy.verdict.signers or ())
    parts = [f"{pin.name} was rotated from {pin.digest} to {candidacy.digest} by {rule}", f"vouched for by {who}"]
    if candidacy.held:
        parts.append("back to a digest that it had before")
    if far.approvals:
        parts.append("approved by " + " and ".join(each.by for each in far.approvals))
    reason = "; ".join(parts)
    new = replace(
        _without_candidate(pin),
        digest=candidacy.digest,
        state=PinState.PINNED,
        pinned_at=now,
        pinned_by=str(rule),
        reason=reason,
        checked_at=now,
        rejected=None,
        signers=candidacy.verdict.signers,
    )
    change = PinChange(pin.repository, pin.tag, PinAction.ROTATED, now, str(rule), reason, pin.digest, candidacy.digest)
    opened = (_event(EventType.TAG_ROTATED, pin, candidacy.digest, reason, now),)
    return PinWrite(pin, new, change, opened, MOVED)


def stale(pin: Pin, rule: Rule, far: Progress, judgement: Judgement | None, now: datetime) -> PinWrite:
    """The candidate has waited for too long."""
    candidate, seen_at = pin.candidate, pin.candidate_seen_at
    assert candidate is not None
    assert seen_at is not None
    waits = f"{candidate} waits since {seen_at:%Y-%m-%d %H:%M} UTC"
    reason = f"{pin.name} is pinned to {pin.digest} still: {waits}; {told(far, judgement)}"
    new = replace(pin, stale_at=now, version=pin.version + 1)
    change = PinChange(pin.repository, pin.tag, PinAction.STALE, now, str(rule), reason, pin.digest, candidate)
    return PinWrite(pin, new, change, (_event(EventType.PIN_STALE, pin, candidate, reason, now),))


def deleted(pin: Pin, now: datetime) -> PinWrite:
    """The upstream says that the tag is gone."""
    message = f"{pin.name} was deleted upstream; it stays pinned to {pin.digest}"
    new = replace(_without_candidate(pin), state=PinState.DELETED, checked_at=now)
    change = PinChange(pin.repository, pin.tag, PinAction.DELETED, now, "upstream", message, pin.digest, None)
    opened = (_event(EventType.TAG_DELETED, pin, pin.digest, message, now),)
    return PinWrite(pin, new, change, opened, (EventType.TAG_OVERWRITTEN, EventType.PIN_REVOKED, *_WAITING))


def revoked(pin: Pin, rule: Rule, verdict: Verdict, reasons: Sequence[str], now: datetime) -> PinWrite:
    """The pinned digest no longer passes its rule."""
    why = "; ".join(verdict.reasons)
    new = replace(pin, state=PinState.REVOKED, version=pin.version + 1)
    change = PinChange(pin.repository, pin.tag, PinAction.REVOKED, now, str(rule), why, pin.digest, pin.digest)
    opened = (_event(EventType.PIN_REVOKED, pin, pin.digest, "; ".join(reasons), now),)
    return PinWrite(pin, new, change, opened, (EventType.SIGNATURE_LOST,))


def approved(pin: Pin, yes: Yes, vouched: tuple[str, ...] | None) -> PinWrite:
    """Enough people said yes: the pin moves. The last of them is named as who moved it."""
    said, digest = yes.approval, yes.approval.digest
    new = replace(
        _without_candidate(pin),
        digest=digest,
        state=PinState.PINNED,
        pinned_at=said.at,
        pinned_by=said.by,
        reason=said.reason,
        rejected=None,
        signers=vouched,
    )
    change = PinChange(pin.repository, pin.tag, PinAction.APPROVED, said.at, said.by, said.reason, pin.digest, digest)
    people = " and ".join(each.by for each in yes.given)
    message = f"{pin.name} is pinned to {digest} now, which {people} approved (before: {pin.digest})"
    return PinWrite(pin, new, change, (_approval_event(pin, yes, message, moved=True),), MOVED)


def approval(pin: Pin, yes: Yes) -> PinWrite:
    """One person said yes, and the pin does not move by that alone."""
    said, digest = yes.approval, yes.approval.digest
    others = tuple(each for each in pin.approvals if each.digest != digest and each.digest == pin.candidate)
    lifted = None if pin.rejected == digest else pin.rejected
    new = replace(pin, approvals=(*others, *yes.given), rejected=lifted, version=pin.version + 1)
    change = PinChange(pin.repository, pin.tag, PinAction.APPROVAL, said.at, said.by, said.reason, pin.digest, digest)
    message = f"{said.by} approves {digest} for {pin.name}, which stays pinned to {pin.digest}: {yes.why}"
    opened = [_approval_event(pin, yes, message, moved=False)]
    closed: tuple[EventType, ...] = ()
    doubtful = {Hold.REJECTED, Hold.OTHER_SIGNER}
    if yes.before is not None and yes.far is not None and yes.before.hold in doubtful and yes.far.hold not in doubtful:
        closed = (EventType.TAG_OVERWRITTEN,)
        opened += _pending(pin, digest, yes.far, yes.why, said.at)
    return PinWrite(pin, new, change, tuple(opened), closed)


def rejected(pin: Pin, digest: Digest, by: str, reason: str, now: datetime) -> PinWrite:
    """An operator says no to a digest, and to who approved it."""
    approvals = tuple(each for each in pin.approvals if each.digest != digest)
    new = replace(pin, rejected=digest, approvals=approvals, version=pin.version + 1)
    change = PinChange(pin.repository, pin.tag, PinAction.REJECTED, now, by, reason, pin.digest, digest)
    # Another digest than the one that is there now leaves the news about that one open.
    closed = (EventType.TAG_OVERWRITTEN, *_WAITING) if digest == pin.candidate else ()
    message = f"{by} rejected {digest} for {pin.name}, which stays pinned to {pin.digest}: {reason or 'no reason given'}"
    return PinWrite(pin, new, change, (_event(EventType.PIN_REJECTED, pin, digest, message, now, by=by, reason=reason),), closed)


def removed(pin: Pin, by: str, reason: str, now: datetime) -> PinWrite:
    """An operator takes the pin away; what comes next is pinned anew."""
    change = PinChange(pin.repository, pin.tag, PinAction.UNPINNED, now, by, reason, pin.digest, None)
    message = f"{by} removed the pin of {pin.name} (it was {pin.digest}): {reason or 'no reason given'}"
    opened = (_event(EventType.PIN_REMOVED, pin, pin.digest, message, now, by=by, reason=reason),)
    return PinWrite(pin, None, change, opened, MOVED)


def _approval_event(pin: Pin, yes: Yes, message: str, *, moved: bool) -> Event:
    said = yes.approval
    about = {"by": said.by, "reason": said.reason, "approvals": len(yes.given), "needed": yes.needed, "moved": moved}
    return _event(EventType.PIN_APPROVED, pin, said.digest, message, said.at, **about)


def restored(pin: Pin, rule: Rule, now: datetime) -> PinWrite:
    """The upstream names the pinned digest again, or it does so now that the digest passes its rule again."""
    new = replace(_without_candidate(pin), state=PinState.PINNED, checked_at=now)
    if pin.state is PinState.REVOKED:
        return PinWrite(pin, new, _passes_again(pin, rule, now), (), AT_REST)
    reason = "the upstream names the pinned digest again"
    change = PinChange(pin.repository, pin.tag, PinAction.REVERTED, now, "upstream", reason, pin.candidate, pin.digest)
    message = f"{pin.name} is back: {reason}, {pin.digest}"
    return PinWrite(pin, new, change, (_event(EventType.TAG_REVERTED, pin, pin.digest, message, now),), AT_REST)


def reinstated(pin: Pin, rule: Rule, now: datetime, checked_at: datetime) -> PinWrite:
    """The revoked digest passes its rule again; an overwrite that was known before is still one."""
    is_overwritten = pin.candidate is not None
    state = PinState.OVERWRITTEN if is_overwritten else PinState.PINNED
    new = replace(pin, state=state, checked_at=checked_at, version=pin.version + 1)
    # Whether the tag had been deleted is not known any more; the next check tells it again.
    closed = (EventType.PIN_REVOKED,) if is_overwritten else (EventType.PIN_REVOKED, EventType.TAG_DELETED)
    return PinWrite(pin, new, _passes_again(pin, rule, now), (), closed)


def _passes_again(pin: Pin, rule: Rule, now: datetime) -> PinChange:
    reason = f"the pinned digest passes {rule} again"
    return PinChange(pin.repository, pin.tag, PinAction.RESTORED, now, str(rule), reason, pin.digest, pin.digest)


def _pending(pin: Pin, candidate: Digest, far: Progress, why: str, now: datetime) -> tuple[Event, ...]:
    message = f"{pin.name}: upstream now names {candidate}, which passes; pinned to {pin.digest} until it rotates; {why}"
    due = None if far.opens is None else far.opens.isoformat()
    return (_event(EventType.TAG_ROTATION_PENDING, pin, candidate, message, now, due=due, approvals_needed=far.needed),)


def _event(type_: EventType, pin: Pin, digest: Digest, message: str, now: datetime, **details: object) -> Event:
    """``details`` always hold the pinned digest, and what the upstream names where that is another."""
    about: dict[str, object] = {"pinned": str(pin.digest)}
    if digest != pin.digest:
        about["upstream"] = str(digest)
    return Event(type_, pin.name, digest, message, now, details=about | details)


def _without_candidate(pin: Pin) -> Pin:
    """The pin with all gone that ends with its candidate."""
    return replace(
        pin, candidate=None, candidate_seen_at=None, judgement=None, approvals=(), stale_at=None, version=pin.version + 1
    )

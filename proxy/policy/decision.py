"""The decision: what a pull is answered, and what becomes of the pin. Pure; the table of the product stands here once.

===================  =====================  ==============  ==========================================================
pin                  upstream now           rule            answer
===================  =====================  ==============  ==========================================================
none                 D, accepted            any             pin D, serve D
none                 D, refused             any             deny: what was required, what was found
none                 D, cannot tell         any             unavailable (evidence could not be fetched)
none                 404                    any             absent
none                 unreachable            any             unavailable
D                    D, or fresh            any             serve D
D                    E                      refuse          deny, naming D and E; event ``tag.overwritten`` once per E
D                    E                      serve-pinned    serve D with a warning that names E; the same event
D                    404                    any             serve D; event ``tag.deleted``
D                    unreachable            any             serve D
D, no longer passes  any                    any             deny; event ``pin.revoked``
D, cannot tell       any                    any             unavailable
===================  =====================  ==============  ==========================================================

What the upstream last said stands until it says something else: an overwrite outlives an outage and a revocation, and is told
once for each E. An outage never yields a write. The rows, one by one: tests/unit/policy/test_decision.py.

A pull by digest is judged like a candidate and never pinned (:func:`decide_digest`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from proxy.policy import canary
from proxy.policy.rules import Never, OnOverwrite, Rule
from proxy.policy.verdicts import Outcome, Verdict, evaluate
from storage.digest import Digest
from storage.records import Event, EventType, Pin, PinAction, PinChange, PinState, PinWrite
from storage.reference import Repository


class Upstream(StrEnum):
    """What the upstream said about a tag."""

    FRESH = "fresh"  #: not asked: the last answer is younger than ``check_interval``
    NAMES = "names"  #: the tag names ``Observation.digest``
    ABSENT = "absent"  #: 404 to an authorised request
    DENIED = "denied"  #: denied or missing
    UNREACHABLE = "unreachable"  #: outage
    MISBEHAVED = "misbehaved"  #: it broke a promise of the protocol


@dataclass(frozen=True, slots=True)
class Observation:
    """The upstream's answer about a tag, with the verdict on what it names where that is not the pin."""

    upstream: Upstream
    digest: Digest | None = None
    verdict: Verdict | None = None
    message: str = ""
    retry_after: float | None = None


class Answer(StrEnum):
    """What the client gets."""

    SERVE = "serve"
    DENY = "deny"
    ABSENT = "absent"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to answer and what to write. ``reasons`` are whole sentences for people, most important first."""

    answer: Answer
    digest: Digest | None
    reasons: tuple[str, ...]
    warning: str | None = None
    write: PinWrite | None = None
    retry_after: float | None = None
    valid_until: datetime | None = None  #: when an accepted verdict must be reached again


def decide(
    repository: Repository,
    tag: str,
    rule: Rule,
    pin: Pin | None,
    pinned: Verdict | None,
    seen: Observation,
    now: datetime,
) -> Decision:
    """Decide a pull by tag.

    A rule that denies needs no upstream: an unpinned tag may then be decided from ``FRESH``. ``pinned`` is the verdict on the
    pinned digest under today's rule, trust and blocks (None when unpinned).
    """
    if pin is None:
        return _first(repository, tag, rule, seen, now)
    if pinned is None:
        raise ValueError("a pin cannot be decided without a verdict on its digest")
    name = pin.name
    if pinned.outcome is Outcome.REFUSED:
        return _revoked(pin, rule, pinned, now)
    if pinned.outcome is Outcome.UNKNOWN:
        reasons = (
            f"{name} is pinned to {pin.digest}, but whether it still passes {rule} cannot be told now",
            *pinned.reasons,
        )
        return Decision(Answer.UNAVAILABLE, None, reasons, retry_after=pinned.retry_after)
    decision = _pinned(pin, rule, seen, now)
    return replace(decision, valid_until=pinned.valid_until) if decision.answer is Answer.SERVE else decision


def _pinned(pin: Pin, rule: Rule, seen: Observation, now: datetime) -> Decision:
    """The pinned digest passes; what remains is what the upstream says of the tag."""
    name = pin.name
    match seen.upstream:
        case Upstream.FRESH:
            write = _reinstated(pin, rule, now, pin.checked_at) if pin.state is PinState.REVOKED else None
            if pin.candidate is not None:
                return _overwritten(pin, pin.candidate, rule, write)
            return _serve(pin, write, _deleted(pin) if pin.state is PinState.DELETED else None)
        case Upstream.NAMES if seen.digest == pin.digest:
            return _serve(pin, None if pin.state is PinState.PINNED else _restored(pin, rule, now))
        case Upstream.NAMES if seen.digest is not None:
            return _overwritten(pin, seen.digest, rule, _note_overwrite(pin, seen.digest, rule, now))
        case Upstream.ABSENT:
            return _serve(pin, None if pin.state is PinState.DELETED else _note_deleted(pin, now), _deleted(pin))
        case _:
            # An outage changes nothing that is known: not even the end of a revocation is written before it is over.
            last = "" if pin.candidate is None else f"; it last named {pin.candidate}"
            warning = (
                f"the upstream could not be asked about {name} ({seen.message}){last}; the pinned digest {pin.digest} is served"
            )
            return _serve(pin, None, warning)


def decide_digest(repository: Repository, digest: Digest, rule: Rule, verdict: Verdict) -> Decision:
    """Decide a pull by digest: the verdict is the answer; nothing is pinned."""
    name = f"{repository}@{digest}"
    match verdict.outcome:
        case Outcome.ACCEPTED:
            return Decision(Answer.SERVE, digest, verdict.reasons, valid_until=verdict.valid_until)
        case Outcome.REFUSED:
            return Decision(Answer.DENY, None, (f"{name} does not pass {rule}", *verdict.reasons))
        case _:
            reasons = (f"whether {name} passes {rule} cannot be told now", *verdict.reasons)
            return Decision(Answer.UNAVAILABLE, None, reasons, retry_after=verdict.retry_after)


def _first(repository: Repository, tag: str, rule: Rule, seen: Observation, now: datetime) -> Decision:
    name = f"{repository}:{tag}"
    if canary.reserved(repository):
        answer = Answer.ABSENT if tag.startswith(canary.ABSENT) else Answer.DENY
        return Decision(answer, None, (canary.refusal(tag),))
    if isinstance(rule.require, Never):
        return Decision(Answer.DENY, None, (f"{name} does not pass {rule}", *evaluate(rule.require, ()).reasons))
    match seen.upstream:
        case Upstream.NAMES if seen.digest is not None and seen.verdict is not None:
            verdict = seen.verdict
            if verdict.outcome is Outcome.ACCEPTED:
                reason = "; ".join(verdict.reasons)
                pin = Pin(repository, tag, seen.digest, PinState.PINNED, now, str(rule), reason, now, version=1)
                change = PinChange(repository, tag, PinAction.PINNED, now, str(rule), reason, None, seen.digest)
                write = PinWrite(None, pin, change)
                return Decision(Answer.SERVE, seen.digest, verdict.reasons, write=write, valid_until=verdict.valid_until)
            if verdict.outcome is Outcome.REFUSED:
                return Decision(Answer.DENY, None, (f"{name} ({seen.digest}) does not pass {rule}", *verdict.reasons))
            reasons = (f"whether {name} ({seen.digest}) passes {rule} cannot be told now", *verdict.reasons)
            return Decision(Answer.UNAVAILABLE, None, reasons, retry_after=verdict.retry_after)
        case Upstream.ABSENT:
            return Decision(Answer.ABSENT, None, (f"{name} does not exist upstream",))
        case Upstream.DENIED:
            return Decision(Answer.DENY, None, (f"the upstream refuses {name}, or it does not exist: {seen.message}",))
        case Upstream.MISBEHAVED:
            return Decision(Answer.DENY, None, (f"what the upstream sent for {name} is refused: {seen.message}",))
        case Upstream.UNREACHABLE:
            reasons = (f"{name} has not been verified before and its upstream cannot be asked now: {seen.message}",)
            return Decision(Answer.UNAVAILABLE, None, reasons, retry_after=seen.retry_after)
        case _:
            raise ValueError(f"an unpinned tag cannot be decided from {seen.upstream}")


def _serve(pin: Pin, write: PinWrite | None, warning: str | None = None) -> Decision:
    return Decision(Answer.SERVE, pin.digest, (f"{pin.name} is pinned to {pin.digest}",), warning, write)


def _deleted(pin: Pin) -> str:
    return f"{pin.name} was deleted upstream; the pinned digest {pin.digest} is served"


def _overwritten(pin: Pin, candidate: Digest, rule: Rule, write: PinWrite | None) -> Decision:
    since = f"{pin.pinned_at:%Y-%m-%d %H:%M} UTC"
    told = f"{pin.name} was overwritten upstream: pinned to {pin.digest} since {since}, upstream now names {candidate}"
    if rule.on_overwrite(pin.tag) is OnOverwrite.SERVE_PINNED:
        return Decision(Answer.SERVE, pin.digest, (told,), f"{told}; the pinned digest is served", write)
    if pin.rejected == candidate:
        way_out = "an operator rejected the new digest; pull the pinned one by digest, or have the upstream put the tag back"
    else:
        way_out = f"to accept the new digest: tagstone pins approve {pin.name} --digest {candidate} --by NAME --reason WHY"
    return Decision(Answer.DENY, None, (told, way_out), write=write)


def _revoked(pin: Pin, rule: Rule, verdict: Verdict, now: datetime) -> Decision:
    reasons = (f"{pin.name} is pinned to {pin.digest}, which no longer passes {rule}", *verdict.reasons)
    if pin.state is PinState.REVOKED:
        return Decision(Answer.DENY, None, reasons)
    why = "; ".join(verdict.reasons)
    write = PinWrite(
        pin,
        replace(pin, state=PinState.REVOKED, version=pin.version + 1),
        PinChange(pin.repository, pin.tag, PinAction.REVOKED, now, str(rule), why, pin.digest, pin.digest),
        (Event(EventType.PIN_REVOKED, pin.name, pin.digest, "; ".join(reasons), now),),
    )
    return Decision(Answer.DENY, None, reasons, write=write)


def _note_overwrite(pin: Pin, candidate: Digest, rule: Rule, now: datetime) -> PinWrite | None:
    if pin.candidate == candidate:
        # Known, and told: all that may be new is that the pinned digest passes again.
        return _reinstated(pin, rule, now, now) if pin.state is PinState.REVOKED else None
    message = f"{pin.name} was overwritten upstream: pinned to {pin.digest}, upstream now names {candidate}"
    new = replace(
        pin,
        state=PinState.OVERWRITTEN,
        candidate=candidate,
        candidate_seen_at=now,
        checked_at=now,
        version=pin.version + 1,
    )
    change = PinChange(pin.repository, pin.tag, PinAction.OVERWRITTEN, now, "upstream", message, pin.digest, candidate)
    opened = (Event(EventType.TAG_OVERWRITTEN, pin.name, candidate, message, now),)
    return PinWrite(pin, new, change, opened, (EventType.TAG_DELETED, EventType.PIN_REVOKED))


def _note_deleted(pin: Pin, now: datetime) -> PinWrite:
    message = f"{pin.name} was deleted upstream; it stays pinned to {pin.digest}"
    new = replace(pin, state=PinState.DELETED, candidate=None, candidate_seen_at=None, checked_at=now, version=pin.version + 1)
    change = PinChange(pin.repository, pin.tag, PinAction.DELETED, now, "upstream", message, pin.digest, None)
    opened = (Event(EventType.TAG_DELETED, pin.name, pin.digest, message, now),)
    return PinWrite(pin, new, change, opened, (EventType.TAG_OVERWRITTEN, EventType.PIN_REVOKED))


def _restored(pin: Pin, rule: Rule, now: datetime) -> PinWrite:
    """The upstream names the pinned digest again, or it does so now that the digest passes its rule again."""
    new = replace(pin, state=PinState.PINNED, candidate=None, candidate_seen_at=None, checked_at=now, version=pin.version + 1)
    if pin.state is PinState.REVOKED:
        change = _passes_again(pin, rule, now)
    else:
        reason = "the upstream names the pinned digest again"
        change = PinChange(pin.repository, pin.tag, PinAction.REVERTED, now, "upstream", reason, pin.candidate, pin.digest)
    closed = (EventType.TAG_OVERWRITTEN, EventType.TAG_DELETED, EventType.PIN_REVOKED)
    return PinWrite(pin, new, change, (), closed)


def _reinstated(pin: Pin, rule: Rule, now: datetime, checked_at: datetime) -> PinWrite:
    """The revoked digest passes its rule again; an overwrite that was known before is still one."""
    overwritten = pin.candidate is not None
    state = PinState.OVERWRITTEN if overwritten else PinState.PINNED
    new = replace(pin, state=state, checked_at=checked_at, version=pin.version + 1)
    # Whether the tag had been deleted is not known any more; the next check tells it again.
    closed = (EventType.PIN_REVOKED,) if overwritten else (EventType.PIN_REVOKED, EventType.TAG_DELETED)
    return PinWrite(pin, new, _passes_again(pin, rule, now), (), closed)


def _passes_again(pin: Pin, rule: Rule, now: datetime) -> PinChange:
    reason = f"the pinned digest passes {rule} again"
    return PinChange(pin.repository, pin.tag, PinAction.RESTORED, now, str(rule), reason, pin.digest, pin.digest)

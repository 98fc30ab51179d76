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
D                    E, nobody can tell     rotate          serve D until somebody can
D                    E, fails               rotate          as ``otherwise``; event ``tag.overwritten`` with the reason
D                    E, other signer        rotate          the same, until enough people approve E
D                    E, rejected            rotate          as ``otherwise``; event ``tag.overwritten``
D                    E, in cooldown         rotate          serve D; event ``tag.rotation.pending`` once per E
D                    E, not approved        rotate          as ``otherwise``, where the rule names approvers
D                    E, outside the window  rotate          serve D
D                    E, nothing is left     rotate          the pin moves to E, serve E; event ``tag.rotated``
D                    404                    any             serve D; event ``tag.deleted``
D                    unreachable            any             serve D
D, no longer passes  any                    any             deny; event ``pin.revoked``
D, cannot tell       any                    any             unavailable
===================  =====================  ==============  ==========================================================

What the upstream last said stands until it says something else: an overwrite outlives an outage and a revocation, and is told
once for each E. An outage never yields a write. The rows, one by one: tests/unit/policy/test_decision.py and test_rotation.py.

A candidate is first noted, then judged, then perhaps pinned: each is a decision of its own. ``Decision.judge`` asks for the
second; who then decides with the :class:`proxy.policy.rotation.Candidacy` that came out does the third, and only where the
upstream named the candidate at that moment. What holds a candidate back, in which order: :mod:`proxy.policy.rotation`.

A pull by digest is judged like a candidate and never pinned (:func:`decide_digest`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from proxy.policy import canary, writes
from proxy.policy.rotation import PATIENT, SKEW, Candidacy, Hold, Progress, judge, known, progress, stale, told
from proxy.policy.rules import Never, OnOverwrite, Rule, TagRule
from proxy.policy.verdicts import Outcome, Verdict, evaluate
from storage.digest import Digest
from storage.records import Judgement, Pin, PinAction, PinChange, PinState, PinWrite
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
    """The upstream's answer about a tag, with the verdict on what it names where there is no pin.

    ``candidacy``: the pin's candidate, where it was judged just now. ``at``: the upstream's own time, where it tells.
    """

    upstream: Upstream
    digest: Digest | None = None
    verdict: Verdict | None = None
    message: str = ""
    retry_after: float | None = None
    candidacy: Candidacy | None = None
    at: datetime | None = None


class Answer(StrEnum):
    """What the client gets."""

    SERVE = "serve"
    DENY = "deny"
    ABSENT = "absent"
    UNAVAILABLE = "unavailable"


class Cause(StrEnum):
    """Why a digest was refused, in one word."""

    VERDICT = "verdict"  #: it does not pass its rule, or is blocked
    OVERWRITTEN = "overwritten"  #: its tag is pinned to another
    REVOKED = "revoked"  #: it is pinned, and does not pass any more


@dataclass(frozen=True, slots=True)
class Refusal:
    """A digest that was judged and refused; what is refused for its name alone is none."""

    digest: Digest
    cause: Cause


@dataclass(frozen=True, slots=True)
class Decision:
    """What to answer and what to write. ``reasons`` are whole sentences for people, most important first.

    ``judge``: the candidate whose verdict the next decision wants. ``due``: when time alone changes the answer.
    """

    answer: Answer
    digest: Digest | None
    reasons: tuple[str, ...]
    warning: str | None = None
    write: PinWrite | None = None
    retry_after: float | None = None
    valid_until: datetime | None = None  #: when an accepted verdict must be reached again
    judge: Digest | None = None
    due: datetime | None = None
    refusal: Refusal | None = None  #: of a DENY: what was judged, for the record


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
    # What is served is the pinned digest, or one that the pin moves to by this decision, which has its own validity.
    return replace(decision, valid_until=pinned.valid_until) if decision.digest == pin.digest else decision


def _pinned(pin: Pin, rule: Rule, seen: Observation, now: datetime) -> Decision:
    """The pinned digest passes; what remains is what the upstream says of the tag."""
    match seen.upstream:
        case Upstream.FRESH:
            if pin.candidate is not None:
                return _overwritten(pin, pin.candidate, rule, seen, now)
            write = writes.reinstated(pin, rule, now, pin.checked_at) if pin.state is PinState.REVOKED else None
            return _serve(pin, write, _deleted(pin) if pin.state is PinState.DELETED else None)
        case Upstream.NAMES if seen.digest == pin.digest:
            return _serve(pin, None if pin.state is PinState.PINNED else writes.restored(pin, rule, now))
        case Upstream.NAMES if seen.digest is not None:
            return _overwritten(pin, seen.digest, rule, seen, now)
        case Upstream.ABSENT:
            return _serve(pin, None if pin.state is PinState.DELETED else writes.deleted(pin, now), _deleted(pin))
        case _:
            # An outage changes nothing that is known: not even the end of a revocation is written before it is over.
            last = "" if pin.candidate is None else f"; it last named {pin.candidate}"
            trouble = f"the upstream could not be asked about {pin.name} ({seen.message}){last}"
            return _serve(pin, None, f"{trouble}; the pinned digest {pin.digest} is served")


def decide_digest(repository: Repository, digest: Digest, rule: Rule, verdict: Verdict) -> Decision:
    """Decide a pull by digest: the verdict is the answer; nothing is pinned."""
    name = f"{repository}@{digest}"
    match verdict.outcome:
        case Outcome.ACCEPTED:
            return Decision(Answer.SERVE, digest, verdict.reasons, valid_until=verdict.valid_until)
        case Outcome.REFUSED:
            refusal = None if isinstance(rule.require, Never) else Refusal(digest, Cause.VERDICT)
            return Decision(Answer.DENY, None, (f"{name} does not pass {rule}", *verdict.reasons), refusal=refusal)
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
                pin = Pin(
                    repository,
                    tag,
                    seen.digest,
                    PinState.PINNED,
                    now,
                    str(rule),
                    reason,
                    now,
                    version=1,
                    signers=verdict.signers,
                )
                change = PinChange(repository, tag, PinAction.PINNED, now, str(rule), reason, None, seen.digest)
                write = PinWrite(None, pin, change)
                return Decision(Answer.SERVE, seen.digest, verdict.reasons, write=write, valid_until=verdict.valid_until)
            if verdict.outcome is Outcome.REFUSED:
                reasons = (f"{name} ({seen.digest}) does not pass {rule}", *verdict.reasons)
                return Decision(Answer.DENY, None, reasons, refusal=Refusal(seen.digest, Cause.VERDICT))
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


def _overwritten(pin: Pin, candidate: Digest, rule: Rule, seen: Observation, now: datetime) -> Decision:
    """The upstream names, or last named, another digest: how far that has come, what is written of it, what is answered."""
    tags = rule.tag_rule(pin.tag)
    named = seen.upstream is Upstream.NAMES
    candidacy = seen.candidacy if seen.candidacy is not None and seen.candidacy.digest == candidate else None
    judgement = None if candidacy is None else judge(rule, tags, candidacy, now)
    write = _noted(pin, candidate, rule, tags, seen, now)
    after = pin if write is None or write.new is None else write.new
    if candidacy is not None and candidacy.rejected:
        after = replace(after, rejected=candidate)
    before = known(after, rule, tags)
    shown = judgement or before
    far = progress(after, tags, None if shown is None else shown.standing, now, seen.at)
    if far.hold is None and candidacy is not None and judgement is None:
        far = replace(far, hold=Hold.UNJUDGED)  # it passed once, but whether it does now, when it matters, nobody can tell
    if write is None and candidacy is not None and judgement is not None:
        if tags.rotation is not None and far.hold is None and named:
            return _rotated(pin, candidacy, rule, tags, far, now)
        if before is None or before.standing is not judgement.standing or after != pin:
            write = writes.judged(after, pin, rule, tags, judgement, far, now)
    if write is None and stale(after, tags, far.hold, now):
        write = writes.stale(pin, rule, far, shown, now)
    wanted = candidacy is None and _wants_verdict(tags, far.hold, known_before=before is not None)
    decision = _held(after, candidate, tags, far, shown, write)
    return replace(decision, judge=candidate if wanted else None, due=far.due if decision.answer is Answer.SERVE else None)


def _noted(pin: Pin, candidate: Digest, rule: Rule, tags: TagRule, seen: Observation, now: datetime) -> PinWrite | None:
    """What the observation alone makes true; None where all of it is known."""
    named, seen_at = seen.upstream is Upstream.NAMES, pin.candidate_seen_at
    if named and pin.candidate != candidate:
        return writes.overwritten(pin, candidate, tags, now, seen.at)
    if pin.state is PinState.REVOKED:  # all that is new is that the pinned digest passes again
        return writes.reinstated(pin, rule, now, now if named else pin.checked_at)
    if tags.rotation is not None and seen_at is not None and seen.at is not None and seen_at > max(now, seen.at) + SKEW:
        # It was noted by a clock that was ahead and has been set right: when its cooldown began, nobody knows.
        return writes.overwritten(pin, candidate, tags, now, seen.at)
    return None


def _wants_verdict(tags: TagRule, hold: Hold | None, *, known_before: bool) -> bool:
    if tags.rotation is None:  # for those who look at it
        return hold is Hold.FAILS or (hold is not Hold.REJECTED and not known_before)
    # What failed may have been signed since, and what is due is judged again: only a verdict of the moment moves the pin.
    return hold in {None, Hold.UNJUDGED, Hold.FAILS, Hold.OTHER_SIGNER}


def _rotated(pin: Pin, candidacy: Candidacy, rule: Rule, tags: TagRule, far: Progress, now: datetime) -> Decision:
    write = writes.rotated(pin, candidacy, rule, tags, far, now)
    reasons = (write.change.reason, *candidacy.verdict.reasons)
    return Decision(Answer.SERVE, candidacy.digest, reasons, write=write, valid_until=candidacy.verdict.valid_until)


def _held(
    pin: Pin, candidate: Digest, tags: TagRule, far: Progress, judgement: Judgement | None, write: PinWrite | None
) -> Decision:
    """The answer while a candidate is not the pin."""
    event, rotation = writes.overwrite(pin, candidate), tags.rotation
    why: tuple[str, ...] = () if rotation is None else (f"the pin does not move to it: {told(far, judgement)}",)
    answer = tags.on_overwrite
    if rotation is not None:
        answer = OnOverwrite.SERVE_PINNED if far.hold is None or far.hold in PATIENT else rotation.otherwise
    if answer is OnOverwrite.SERVE_PINNED:
        reasons = (event, *why)
        return Decision(Answer.SERVE, pin.digest, reasons, "; ".join((*reasons, "the pinned digest is served")), write)
    refusal = Refusal(candidate, Cause.OVERWRITTEN)
    return Decision(Answer.DENY, None, (event, *why, _way_out(pin, candidate, tags, far)), write=write, refusal=refusal)


def _way_out(pin: Pin, candidate: Digest, tags: TagRule, far: Progress) -> str:
    if far.hold is Hold.REJECTED:
        return "an operator rejected the new digest; pull the pinned one by digest, or have the upstream put the tag back"
    if far.hold is Hold.FAILS and tags.rotation is not None:
        return "an approval does not stand for what is missing; pull the pinned digest, or have the upstream put the tag right"
    lacking = max(tags.approvers, 1) - len(far.approvals)
    people = f" ({lacking} people)" if lacking > 1 else ""
    command = f"tagstone pins approve {pin.name} --digest {candidate} --by NAME --reason WHY"
    if far.hold is Hold.FAILS:
        return (
            f"the new digest does not pass its rule, and an approval does not stand for that; once it passes{people}: {command}"
        )
    return f"to accept the new digest{people}: {command}"


def _revoked(pin: Pin, rule: Rule, verdict: Verdict, now: datetime) -> Decision:
    reasons = (f"{pin.name} is pinned to {pin.digest}, which no longer passes {rule}", *verdict.reasons)
    refusal = Refusal(pin.digest, Cause.REVOKED)
    if pin.state is PinState.REVOKED:
        return Decision(Answer.DENY, None, reasons, refusal=refusal)
    return Decision(Answer.DENY, None, reasons, write=writes.revoked(pin, rule, verdict, reasons, now), refusal=refusal)

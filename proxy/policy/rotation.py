"""Rotation: what keeps a candidate from becoming the pin, and how long. Pure.

A candidate is what the upstream names in the place of the pinned digest. Under ``on_overwrite: rotate`` the pin moves to it when
nothing of :class:`Hold` is left, in that order; under the other rules only people move pins. :mod:`proxy.policy.decision` asks
here for every pull, and whoever shows how far a candidate has come asks here as well.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from proxy.policy import signers
from proxy.policy.rules import Continuity, Rule, TagRule
from proxy.policy.verdicts import Outcome, Verdict
from storage.digest import Digest
from storage.records import Approval, Judgement, Pin, Standing

#: How far a clock may be off. A moment that lies further ahead was noted by a clock that was set back since.
SKEW = timedelta(minutes=5)
#: By how much our clock may be ahead of the upstream's before a cooldown is counted by the upstream's.
UPSTREAM_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Candidacy:
    """A candidate, judged just now under today's rule, trust and blocks.

    ``before``: who vouched for the pinned digest; None where nobody knows. ``held``: the pin had this digest before.
    ``rejected``: the last that an operator said of it was no.
    """

    digest: Digest
    verdict: Verdict
    before: tuple[str, ...] | None
    held: bool = False
    rejected: bool = False


class Hold(StrEnum):
    """What keeps a candidate from becoming the pin, the first of these."""

    REJECTED = "rejected"  #: an operator said no
    UNJUDGED = "unjudged"  #: nobody could tell yet whether it passes
    FAILS = "fails"  #: it does not pass its rule
    OTHER_SIGNER = "other-signer"  #: others vouch for it than for the pin
    COOLDOWN = "cooldown"
    CLOCKS = "clocks"  #: its cooldown is over by our clock, and not by the upstream's
    APPROVAL = "approval"  #: not enough people approved it
    WINDOW = "window"  #: it is not the time for rotations


#: What waits for nobody but time: the pinned digest is served meanwhile. Everything else is answered as the rule's ``otherwise``.
PATIENT = frozenset({Hold.UNJUDGED, Hold.COOLDOWN, Hold.CLOCKS, Hold.WINDOW})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a candidate has come. ``hold`` None: nothing is left.

    ``due``: when time alone changes ``hold``. ``cooldown_until`` and ``opens`` (of the window, from then on) are there where the
    rule rotates. ``approvals`` are those that count, one for each person, of ``needed``.
    """

    hold: Hold | None
    approvals: tuple[Approval, ...]
    needed: int
    due: datetime | None = None
    cooldown_until: datetime | None = None
    opens: datetime | None = None


def question_of(rule: Rule, tags: TagRule) -> str:
    """Names what a candidate is judged for: another requirement, other trust or another continuity is another question."""
    return f"{rule.fingerprint}/{tags.rotation.signer if tags.rotation else tags.on_overwrite}"


def person(by: str) -> str:
    """Who somebody is, however the name is spelled: case, spaces, and what cannot be seen do not make another person."""
    seen = "".join(each for each in unicodedata.normalize("NFKC", by) if each.isspace() or unicodedata.category(each)[0] != "C")
    return unicodedata.normalize("NFKC", " ".join(seen.split()).casefold())


def approvals_of(approvals: Collection[Approval], digest: Digest) -> tuple[Approval, ...]:
    """The approvals of one digest, the first of each person."""
    people: dict[str, Approval] = {}
    for each in approvals:
        if each.digest == digest:
            people.setdefault(person(each.by), each)
    return tuple(people.values())


def judge(rule: Rule, tags: TagRule, candidacy: Candidacy, now: datetime) -> Judgement | None:
    """What came out; None where nobody can tell."""
    verdict, question = candidacy.verdict, question_of(rule, tags)
    if verdict.outcome is Outcome.UNKNOWN:
        return None
    if verdict.outcome is Outcome.REFUSED:
        return Judgement(Standing.FAILS, verdict.reasons, now, question)
    if tags.rotation is not None and tags.rotation.signer is Continuity.SAME:
        if candidacy.before is None or verdict.signers is None:
            return None
        if not signers.continues(candidacy.before, verdict.signers):
            was, by = signers.told(candidacy.before), signers.told(verdict.signers)
            return Judgement(Standing.OTHER_SIGNER, (f"it is vouched for by {by}, the pinned digest by {was}",), now, question)
    return Judgement(Standing.PASSES, verdict.reasons, now, question)


def known(pin: Pin, rule: Rule, tags: TagRule) -> Judgement | None:
    """What came out when the candidate was last judged, if that answers today's question."""
    judgement = pin.judgement
    return judgement if judgement is not None and judgement.question == question_of(rule, tags) else None


def rotating(judgement: Judgement | None) -> bool:
    """Whether a candidate was judged under a rule that rotates."""
    return judgement is not None and judgement.question.rpartition("/")[2] in {each.value for each in Continuity}


def progress(pin: Pin, tags: TagRule, standing: Standing | None, now: datetime, at_upstream: datetime | None = None) -> Progress:
    """How far the pin's candidate has come (there is one) with this ``standing`` (None: not judged).

    ``at_upstream``: the upstream's own time, where it is known. A clock that runs ahead ends no cooldown early.
    """
    candidate, seen_at, rotation = pin.candidate, pin.candidate_seen_at, tags.rotation
    if candidate is None or seen_at is None:
        raise ValueError(f"{pin.name} has no candidate")
    approvals = approvals_of(pin.approvals, candidate)
    enough = len(approvals) >= tags.approvers
    first: Hold | None = None
    if pin.rejected == candidate:
        first = Hold.REJECTED
    elif standing is None:
        first = Hold.UNJUDGED
    elif standing is Standing.FAILS:
        first = Hold.FAILS
    elif standing is Standing.OTHER_SIGNER and not (approvals and enough):
        first = Hold.OTHER_SIGNER
    if rotation is None:
        return Progress(first if first is not None or enough else Hold.APPROVAL, approvals, tags.approvers)
    counted = now if at_upstream is None else min(now, at_upstream + UPSTREAM_SKEW)
    until = seen_at + rotation.cooldown
    earliest = max(until, now)
    opens = earliest if rotation.window is None else rotation.window.opens(earliest)
    due: datetime | None = None
    if first is None:
        if now < until:
            first, due = Hold.COOLDOWN, until
        elif counted < until:
            first = Hold.CLOCKS
        elif not enough:
            first = Hold.APPROVAL
        elif opens > now:
            first, due = Hold.WINDOW, opens
    return Progress(first, approvals, tags.approvers, due, until, opens)


def stale(pin: Pin, tags: TagRule, hold: Hold | None, now: datetime) -> bool:
    """Whether somebody should hear that the candidate has waited for too long, who has not heard it yet."""
    rotation, seen_at = tags.rotation, pin.candidate_seen_at
    if rotation is None or seen_at is None or pin.stale_at is not None:
        return False
    return (
        hold in {Hold.UNJUDGED, Hold.CLOCKS, Hold.APPROVAL, Hold.WINDOW}
        and now >= seen_at + rotation.cooldown + rotation.stale_after
    )


def told(progress: Progress, judgement: Judgement | None) -> str:
    """What holds a candidate, in words that follow its name."""
    lacking = progress.needed - len(progress.approvals)
    more = f"{lacking} more approval{'' if lacking == 1 else 's'}"
    match progress.hold:
        case Hold.REJECTED:
            return "an operator rejected it"
        case Hold.UNJUDGED:
            return "whether it passes its rule is not known yet"
        case Hold.FAILS | Hold.OTHER_SIGNER:
            reasons = () if judgement is None else judgement.reasons
            lead = "it does not pass its rule" if progress.hold is Hold.FAILS else "it is by another signer"
            return ": ".join((lead, "; ".join(reasons))) if reasons else lead
        case Hold.COOLDOWN:
            needs = f", and needs {more}" if lacking > 0 else ""
            return f"it is in its cooldown until {_moment(progress.cooldown_until)}{needs}"
        case Hold.CLOCKS:
            return "this machine's clock is too far ahead of the upstream's to tell whether its cooldown is over"
        case Hold.APPROVAL:
            return f"it needs {more} (of {progress.needed})"
        case Hold.WINDOW:
            return f"pins rotate here from {_moment(progress.opens)} on"
        case _:
            return "nothing holds it back; it is judged once more, and pinned then"


@dataclass(frozen=True, slots=True)
class Yes:
    """What a person's approval of a digest amounts to. ``news``: this person had not approved it before.

    ``given``: those of this digest that count, this one among them. ``far``: how far the pin's candidate has come by it, where it
    is that, under a rule that rotates. ``why``: what is waited for, where the pin does not move.
    """

    approval: Approval
    given: tuple[Approval, ...]
    needed: int
    news: bool
    moves: bool
    why: str
    before: Progress | None = None
    far: Progress | None = None


def say_yes(pin: Pin, rule: Rule, approval: Approval) -> Yes:
    """Count an approval of a digest that passes its rule; the pin is not at it."""
    tags, digest = rule.tag_rule(pin.tag), approval.digest
    earlier = approvals_of(pin.approvals, digest)
    given = approvals_of((*earlier, approval), digest)
    news = len(given) > len(earlier) or pin.rejected == digest
    needed = max(tags.approvers, 1)
    if tags.rotation is None or digest != pin.candidate:
        why = told(Progress(Hold.APPROVAL, given, needed), None)
        return Yes(approval, given, needed, news, len(given) >= needed, why)
    judgement = known(pin, rule, tags)
    # It passes, as was just seen; whether by the pin's own signers is what was found when it was last judged.
    standing = Standing.OTHER_SIGNER if judgement is not None and judgement.standing is Standing.OTHER_SIGNER else Standing.PASSES
    after = replace(pin, approvals=given, rejected=None if pin.rejected == digest else pin.rejected)
    before = progress(pin, tags, standing, approval.at)
    far = progress(after, tags, standing, approval.at)
    return Yes(approval, given, needed, news, far.hold is None, told(far, judgement), before, far)


def _moment(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"

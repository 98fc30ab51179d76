"""What came of asking an upstream about a pinned tag, or of judging its digest again, whoever wanted to know."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from proxy.policy.decision import Answer, Decision, Observation, Upstream
from proxy.policy.verdicts import Outcome, Verdict
from proxy.services.weighing import Rejudged
from storage.records import Pin, PinAction, PinState
from storage.reference import Repository


class Result(StrEnum):
    """What became of a tag since it was last asked about."""

    UNCHANGED = "unchanged"
    OVERWRITTEN = "overwritten"  #: the upstream names another digest, now or still
    DELETED = "deleted"  #: the upstream says that there is no such tag, now or still
    REVERTED = "reverted"  #: the upstream names the pinned digest again
    ROTATED = "rotated"  #: the pin has moved to what the upstream names, as its rule allows
    REVOKED = "revoked"  #: the pinned digest does not pass its rule; the upstream was not asked
    UNPINNED = "unpinned"  #: there is no pin, so there is nothing to compare with
    UNREACHABLE = "unreachable"  #: nothing clear was to be had
    DENIED = "denied"  #: the upstream gives no access, or there is no such repository
    MISBEHAVED = "misbehaved"  #: what the upstream sent breaks a promise of the protocol
    CREATED = "created"  #: of a list of tags: there are new ones in it


#: What says nothing about the tag.
UNTOLD = frozenset({Result.UNREACHABLE, Result.DENIED, Result.MISBEHAVED})
#: What is as it should be.
QUIET = frozenset({Result.UNCHANGED, Result.UNPINNED})


@dataclass(frozen=True, slots=True)
class Standing:
    """A pin as it was a moment ago, and that an accepted verdict stood for it then, under ``question`` (a fingerprint)."""

    pin: Pin
    question: str

    @property
    def verdict(self) -> Verdict:
        """That verdict, for a decision in which nothing is served."""
        return Verdict(Outcome.ACCEPTED, ("what accepted it before still stands",))


@dataclass(frozen=True, slots=True)
class Checked:
    """One check. ``pin`` is as it is afterwards; ``told``: the upstream said what the tag names, or that there is none.

    ``asked``: False where it was not asked at all, because the pinned digest does not pass, or nobody can tell whether it does.
    """

    repository: Repository
    tag: str
    result: Result
    pin: Pin | None
    message: str = ""
    told: bool = False
    asked: bool = True

    @property
    def name(self) -> str:
        """``registry/repository:tag``."""
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Judged:
    """A pinned digest was judged again: the pin before and after, and what it leans on."""

    before: Pin
    pin: Pin
    found: Rejudged


def result_of(before: Pin | None, seen: Observation, decision: Decision, after: Pin | None) -> Result:
    """Name what an observation and the decision on it amount to, by the pin before and after."""
    if before is None or after is None:
        return Result.UNPINNED
    match seen.upstream:
        case Upstream.NAMES if seen.digest != after.digest:
            return Result.OVERWRITTEN
        case Upstream.NAMES if after.digest != before.digest:
            return Result.ROTATED
        case Upstream.NAMES:
            back = decision.write is not None and decision.write.change.action is PinAction.REVERTED
            return Result.REVERTED if back else Result.UNCHANGED
        case Upstream.ABSENT:
            return Result.DELETED
        case Upstream.DENIED:
            return Result.DENIED
        case Upstream.MISBEHAVED:
            return Result.MISBEHAVED
        case Upstream.FRESH if after.state is PinState.REVOKED and decision.answer is not Answer.UNAVAILABLE:
            return Result.REVOKED
        case _:
            return Result.UNREACHABLE

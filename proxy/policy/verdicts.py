"""Verdicts: what was found about an image, held against what its rule requires. Values and pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import assert_never

from proxy.policy.changes.provenance import Provenance
from proxy.policy.rules import (
    AllOf,
    AnyOf,
    AtLeast,
    AttestationBy,
    FirstUse,
    Never,
    Question,
    Requirement,
    SignatureBy,
)
from proxy.policy.signers import signer_line

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One signature or attestation judged for one question: accepted, or not, and why."""

    format: str  #: ``cosign signature``, ``sigstore bundle``
    source: str  #: where it was found, for people: ``signature tag sha256-….sig, signature 1``
    about: Question | None  #: what it was judged for; None when it failed before that mattered
    authority: str | None  #: who vouches: a key's fingerprint, or issuer and identity; equal only for the same signer
    accepted: bool
    reason: str
    valid_until: datetime | None = None  #: end of the window that this acceptance leans on
    steps: tuple[str, ...] = ()  #: what each step of the judgement saw, for people who ask
    signer: str | None = None  #: who signed, where the question does not say it: a pattern or a store may stand for many
    undecided: bool = False  #: nobody can tell now: the question stays open, whatever else was found
    warnings: tuple[str, ...] = ()  #: what somebody should know, though it decides nothing
    provenance: Provenance | None = None  #: where an accepted attestation says that the image was built from


class Outcome(StrEnum):
    """Three values: an outage is neither yes nor no."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One requirement of the tree, with its outcome and what was found for it; ``depth`` is its place in the tree."""

    depth: int
    requirement: str
    outcome: Outcome
    found: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of a rule over the evidence for one (repository, digest), with reasons.

    ``reasons`` are for people: for an acceptance what passed, for a refusal what was required and what was found. ``signers``
    are all who vouched where it is met, in the lines of :mod:`proxy.policy.signers`; None where that is not known.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    valid_until: datetime | None = None
    retry_after: float | None = None
    signers: tuple[str, ...] | None = None

    @property
    def accepted(self) -> bool:
        """Whether the digest may be served."""
        return self.outcome is Outcome.ACCEPTED


@dataclass(frozen=True, slots=True)
class _Result:
    outcome: Outcome
    checks: tuple[Check, ...]
    authorities: frozenset[str] = frozenset()
    signers: frozenset[str] = frozenset()  #: the same, as they are kept
    valid_until: datetime | None = None  #: end of what the outcome leans on
    all_until: datetime | None = None  #: end of the first of all authorities: until then ``authorities`` stays as it is
    passed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def evaluate(
    requirement: Requirement,
    evidence: Sequence[Evidence],
    unavailable: Sequence[str] = (),
    retry_after: float | None = None,
) -> Verdict:
    """Hold the evidence against the requirement.

    ``unavailable`` has a line for each source of evidence that could not be asked: what is not met then is unknown, not
    refused ("unavailable" is not "unsigned").
    """
    result = _evaluate(requirement, evidence, bool(unavailable), 0)
    if result.outcome is Outcome.ACCEPTED:
        reasons = result.passed
    elif result.outcome is Outcome.REFUSED:
        reasons = result.missing
    else:
        reasons = (*result.missing, *(f"could not ask: {line}" for line in unavailable))
    signers = tuple(sorted(result.signers)) if result.outcome is Outcome.ACCEPTED else None
    return Verdict(result.outcome, reasons, result.checks, tuple(evidence), result.valid_until, retry_after, signers)


def vouching(evidence: Sequence[Evidence]) -> tuple[str, ...]:
    """All who vouch by any of this evidence, whatever is required, in the lines of :mod:`proxy.policy.signers`."""
    accepted = (piece for piece in evidence if piece.accepted and piece.about is not None and piece.authority is not None)
    return tuple(sorted({signer_line(piece.about, piece.authority) for piece in accepted if piece.about and piece.authority}))


def _earliest(times: Sequence[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None), default=None)


def _evaluate(requirement: Requirement, evidence: Sequence[Evidence], unavailable: bool, depth: int) -> _Result:
    match requirement:
        case FirstUse():
            check = Check(depth, str(requirement), Outcome.ACCEPTED, "first use needs no evidence")
            return _Result(Outcome.ACCEPTED, (check,), frozenset({"first-use"}), passed=("first use: no signature is required",))
        case Never():
            check = Check(depth, str(requirement), Outcome.REFUSED, "no evidence would help")
            return _Result(Outcome.REFUSED, (check,), missing=("the rule allows nothing here (require: deny)",))
        case SignatureBy() | AttestationBy():
            return _answer(requirement, evidence, unavailable, depth)
        case AllOf(of):
            results = [_evaluate(node, evidence, unavailable, depth + 1) for node in of]
            outcomes = {result.outcome for result in results}
            outcome = next((o for o in (Outcome.REFUSED, Outcome.UNKNOWN) if o in outcomes), Outcome.ACCEPTED)
            met = sum(result.outcome is Outcome.ACCEPTED for result in results)
            until = _earliest([result.valid_until for result in results])
            return _combine(f"all of {len(of)}", outcome, results, met, depth, until)
        case AnyOf(of):
            return _any(of, evidence, unavailable, depth)
        case AtLeast(count, of):
            return _at_least(count, of, evidence, unavailable, depth)
        case _:
            assert_never(requirement)


def _answer(question: Question, evidence: Sequence[Evidence], unavailable: bool, depth: int) -> _Result:
    required = str(question)
    judged = [piece for piece in evidence if piece.about == question or piece.about is None]
    accepted = [
        (piece, piece.authority) for piece in judged if piece.accepted and piece.about == question and piece.authority is not None
    ]
    if accepted:
        # The piece that stays valid longest carries the verdict; of each authority, the one of its own that does.
        accepted.sort(key=lambda pair: (pair[0].valid_until is None, pair[0].valid_until or _NEVER))
        best = accepted[-1][0]
        ends = {authority: piece.valid_until for piece, authority in accepted}
        found = f"{best.format} from the {best.source}" + ("" if best.signer is None else f", by {best.signer}")
        return _Result(
            Outcome.ACCEPTED,
            (Check(depth, required, Outcome.ACCEPTED, found),),
            frozenset(ends),
            frozenset(signer_line(question, authority) for authority in ends),
            best.valid_until,
            _earliest(list(ends.values())),
            passed=(f"{required}: {found}",),
        )
    undecided = any(piece.undecided for piece in judged)
    reasons = _reasons(sorted(judged, key=lambda piece: not piece.undecided))
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    kind = "signature" if isinstance(question, SignatureBy) else "attestation"
    if undecided:
        found, outcome = shown, Outcome.UNKNOWN
    elif unavailable:
        found = f"not among what could be fetched ({shown})" if shown else f"the {kind}s could not be fetched"
        outcome = Outcome.UNKNOWN
    else:
        found = shown or f"no {kind} at all"
        outcome = Outcome.REFUSED
    return _Result(outcome, (Check(depth, required, outcome, found),), missing=(f"{required} is required; found: {found}",))


def _reasons(judged: Sequence[Evidence]) -> list[str]:
    """Why evidence failed, each reason once, with the first of its sources: thousands of wrong signatures are one line."""
    sources: dict[str, dict[str, None]] = {}
    for piece in judged:
        sources.setdefault(piece.reason, {})[piece.source] = None
    told = []
    for reason, places in sources.items():
        others = len(places) - 1
        told.append(f"{next(iter(places))}{f' (and {others} more)' if others else ''}: {reason}")
    return told


def _any(of: Sequence[Requirement], evidence: Sequence[Evidence], unavailable: bool, depth: int) -> _Result:
    results = [_evaluate(node, evidence, unavailable, depth + 1) for node in of]
    accepted = [result for result in results if result.outcome is Outcome.ACCEPTED]
    outcomes = {result.outcome for result in results}
    outcome = next((o for o in (Outcome.ACCEPTED, Outcome.UNKNOWN) if o in outcomes), Outcome.REFUSED)
    # The branch that stays valid longest carries the verdict.
    ends = [result.valid_until for result in accepted]
    until = None if None in ends else max((end for end in ends if end is not None), default=None)
    told = (f"one of these {len(of)} is required, and none is met",)
    return _combine(f"any of {len(of)}", outcome, results, min(len(accepted), 1), depth, until, told)


def _at_least(count: int, of: Sequence[Requirement], evidence: Sequence[Evidence], unavailable: bool, depth: int) -> _Result:
    results = [_evaluate(node, evidence, unavailable, depth + 1) for node in of]
    accepted = [result for result in results if result.outcome is Outcome.ACCEPTED]
    met = len(_distinct([result.authorities for result in accepted]))
    if met >= count:
        outcome = Outcome.ACCEPTED
    elif (unavailable or _open(results)) and sum(result.outcome is not Outcome.REFUSED for result in results) >= count:
        # What could not be fetched, or judged, may also hold further authorities for what is accepted already.
        outcome = Outcome.UNKNOWN
    else:
        outcome = Outcome.REFUSED
    # Which authority stands for which branch may shift when one of them goes: judged again as soon as any does.
    until = _earliest([result.all_until for result in accepted])
    told = (f"at least {count} of these {len(of)} are required, by distinct signers; {met} met",)
    return _combine(f"at least {count} of {len(of)}, by distinct signers", outcome, results, met, depth, until, told)


def _open(results: Sequence[_Result]) -> bool:
    """Whether anything below is undecided, also where the branch is met without it."""
    return any(check.outcome is Outcome.UNKNOWN for result in results for check in result.checks)


def _combine(
    words: str,
    outcome: Outcome,
    results: Sequence[_Result],
    met: int,
    depth: int,
    valid_until: datetime | None,
    told: tuple[str, ...] = (),
) -> _Result:
    """One result for a group. ``told`` stands before what its members miss, where the group is not met."""
    own = Check(depth, words, outcome, f"{met} of {len(results)} met")
    accepted = [result for result in results if result.outcome is Outcome.ACCEPTED]
    missing = tuple(line for result in results if result.outcome is not Outcome.ACCEPTED for line in result.missing)
    return _Result(
        outcome,
        (own, *(check for result in results for check in result.checks)),
        frozenset[str]().union(*(result.authorities for result in accepted)),
        frozenset[str]().union(*(result.signers for result in accepted)),
        valid_until if outcome is Outcome.ACCEPTED else None,
        _earliest([result.all_until for result in accepted]),
        tuple(dict.fromkeys(line for result in accepted for line in result.passed)),
        tuple(dict.fromkeys((*told, *missing))),
    )


def _distinct(options: Sequence[frozenset[str]]) -> dict[str, int]:
    """Assign each set a member of its own where possible (maximum bipartite matching): authority → index of the set."""
    taken: dict[str, int] = {}

    def place(index: int, tried: set[str]) -> bool:
        for authority in sorted(options[index]):
            if authority in tried:
                continue
            tried.add(authority)
            if authority not in taken or place(taken[authority], tried):
                taken[authority] = index
                return True
        return False

    for index in range(len(options)):
        place(index, set())
    return taken

"""Rules: which image needs what, and the verdict of a rule over the evidence that was found.

Everything here is a frozen value or a pure function. Patterns are globs over whole values: ``*`` stops at ``/``, ``**``
crosses it, ``?`` is one character that is not ``/``. The most specific matching pattern wins: the longest literal text
before the first wildcard, then the most literal characters, then the fewest ``**``, the fewest ``*``, the most ``?``: a pattern
that matches only part of what another one matches wins. Of equals, the first in the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol, TypeVar, assert_never

from storage.reference import Repository

_NEVER = datetime.min.replace(tzinfo=UTC)
_WILDCARD = re.compile(r"\*\*|\*|\?")
_REGEX_OF = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """A glob, compiled once."""

    text: str
    regex: re.Pattern[str] = field(repr=False, compare=False)
    #: Literal characters before the first wildcard and in all, then minus the ``**``, minus the ``*``, the ``?``.
    specificity: tuple[int, int, int, int, int] = field(repr=False, compare=False)

    @classmethod
    def compile(cls, text: str) -> Pattern:
        """Compile ``text``. Any text is a pattern; one without wildcards matches itself only."""
        parts: list[str] = []
        wildcards = dict.fromkeys(_REGEX_OF, 0)
        position = literals = 0
        prefix = None
        for found in _WILDCARD.finditer(text):
            prefix = found.start() if prefix is None else prefix
            literals += found.start() - position
            wildcards[found.group()] += 1
            parts += [re.escape(text[position : found.start()]), _REGEX_OF[found.group()]]
            position = found.end()
        parts.append(re.escape(text[position:]))
        literals += len(text) - position
        before = literals if prefix is None else prefix
        specificity = (before, literals, -wildcards["**"], -wildcards["*"], wildcards["?"])
        return cls(text, re.compile("".join(parts), re.DOTALL), specificity)

    def matches(self, value: str) -> bool:
        """Whether the whole of ``value`` matches."""
        return self.regex.fullmatch(value) is not None


class _Patterned(Protocol):
    @property
    def pattern(self) -> Pattern: ...


_P = TypeVar("_P", bound=_Patterned)


def most_specific(candidates: Sequence[_P], value: str) -> _P | None:
    """The candidate whose pattern matches ``value`` most specifically; the first of equals; None when none matches."""
    matching = [candidate for candidate in candidates if candidate.pattern.matches(value)]
    return max(matching, key=lambda candidate: candidate.pattern.specificity, default=None)


# -- what a rule requires -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignatureBy:
    """A signature by a managed key, named as in ``trust.keys``."""

    key: str

    def __str__(self) -> str:
        return f"a signature by key {self.key}"


@dataclass(frozen=True, slots=True)
class FirstUse:
    """Nothing but being first: what is seen first is what the tag means."""

    def __str__(self) -> str:
        return "nothing on first use"


@dataclass(frozen=True, slots=True)
class Never:
    """``deny``: no image passes."""

    def __str__(self) -> str:
        return "nothing is allowed here (require: deny)"


@dataclass(frozen=True, slots=True)
class AllOf:
    """Each of these; there is at least one."""

    of: tuple[Requirement, ...]

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("all of nothing would let everything pass")

    def __str__(self) -> str:
        return "all of: " + "; ".join(map(str, self.of))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of these."""

    of: tuple[Requirement, ...]

    def __str__(self) -> str:
        return "any of: " + "; ".join(map(str, self.of))


@dataclass(frozen=True, slots=True)
class AtLeast:
    """``count`` of these, one or more, by distinct authorities (GHSA-9vcr-p3rj-q5q6: one authority named twice is one)."""

    count: int
    of: tuple[Requirement, ...]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("at least nothing would let everything pass")

    def __str__(self) -> str:
        return f"at least {self.count} of: " + "; ".join(map(str, self.of))


Requirement = SignatureBy | FirstUse | Never | AllOf | AnyOf | AtLeast


def keys_of(requirement: Requirement) -> frozenset[str]:
    """Names of all managed keys that a requirement mentions."""
    match requirement:
        case SignatureBy(key):
            return frozenset({key})
        case FirstUse() | Never():
            return frozenset()
        case AllOf(of) | AnyOf(of) | AtLeast(_, of):
            return frozenset[str]().union(*map(keys_of, of))
        case _:
            assert_never(requirement)


class OnOverwrite(StrEnum):
    """What a pull of an overwritten tag is answered."""

    REFUSE = "refuse"
    SERVE_PINNED = "serve-pinned"


@dataclass(frozen=True, slots=True)
class TagRule:
    """What holds for tags that match."""

    pattern: Pattern
    on_overwrite: OnOverwrite


@dataclass(frozen=True, slots=True)
class Rule:
    """Image pattern → what is required, and what tags may do.

    ``fingerprint`` names the question that a verdict answers: it changes whenever the requirement or the trust it names
    changes, so that old verdicts are not mistaken for answers to the new question.
    """

    pattern: Pattern
    require: Requirement
    tags: tuple[TagRule, ...]
    fingerprint: str

    def on_overwrite(self, tag: str) -> OnOverwrite:
        """What this rule answers when ``tag`` was overwritten; ``refuse`` where it does not say."""
        found = most_specific(self.tags, tag)
        return OnOverwrite.REFUSE if found is None else found.on_overwrite

    def __str__(self) -> str:
        return f'rule "{self.pattern.text}"'


def match(rules: Sequence[Rule], repository: Repository) -> Rule:
    """The one rule for a repository: the most specific match, else a rule that denies."""
    return most_specific(rules, str(repository)) or DEFAULT_RULE


#: Part of every fingerprint. To be raised when verification becomes stricter, so that older acceptances are judged again.
JUDGEMENT = 1


def fingerprint(requirement: Requirement, keys: Mapping[str, str]) -> str:
    """Hash of a requirement with what its key names stand for (``keys``: name → fingerprint and validity window).

    The same for the same question: names of keys and the order of a group do not matter.
    """

    def tree(node: Requirement) -> object:
        match node:
            case SignatureBy(key):
                return ["signature", keys.get(key, f"unknown:{key}")]
            case FirstUse():
                return ["first-use"]
            case Never():
                return ["deny"]
            case AllOf(of):
                return ["all", *group(of)]
            case AnyOf(of):
                return ["any", *group(of)]
            case AtLeast(count, of):
                return ["at_least", count, *group(of)]
            case _:
                assert_never(node)

    def group(of: tuple[Requirement, ...]) -> list[object]:
        return sorted(map(tree, of), key=json.dumps)

    question = [JUDGEMENT, tree(requirement)]
    return hashlib.sha256(json.dumps(question, separators=(",", ":")).encode()).hexdigest()


DEFAULT_RULE = Rule(Pattern.compile("**"), Never(), (), fingerprint(Never(), {}))


# -- what was found, and what it means ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evidence:
    """One signature (or attestation) judged against one key: accepted, or not, and why."""

    format: str  #: ``cosign signature``, ``sigstore bundle``
    source: str  #: where it was found, for people: ``signature tag sha256-….sig, signature 1``
    key: str | None  #: name of the key it was judged against; None when it failed before any key mattered
    authority: str | None  #: fingerprint of that key
    accepted: bool
    reason: str
    valid_until: datetime | None = None  #: end of the window that this acceptance leans on


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

    ``reasons`` are for people: for an acceptance what passed, for a refusal what was required and what was found.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    valid_until: datetime | None = None
    retry_after: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the digest may be served."""
        return self.outcome is Outcome.ACCEPTED


@dataclass(frozen=True, slots=True)
class _Result:
    outcome: Outcome
    checks: tuple[Check, ...]
    authorities: frozenset[str] = frozenset()
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
    return Verdict(result.outcome, reasons, result.checks, tuple(evidence), result.valid_until, retry_after)


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
        case SignatureBy(key):
            return _signature(key, evidence, unavailable, depth)
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


def _signature(key: str, evidence: Sequence[Evidence], unavailable: bool, depth: int) -> _Result:
    required = str(SignatureBy(key))
    judged = [piece for piece in evidence if piece.key == key or piece.key is None]
    accepted = [
        (piece, piece.authority) for piece in judged if piece.accepted and piece.key == key and piece.authority is not None
    ]
    if accepted:
        # The piece that stays valid longest carries the verdict.
        best, authority = max(accepted, key=lambda pair: (pair[0].valid_until is None, pair[0].valid_until or _NEVER))
        found = f"{best.format} from the {best.source}"
        return _Result(
            Outcome.ACCEPTED,
            (Check(depth, required, Outcome.ACCEPTED, found),),
            frozenset({authority}),
            best.valid_until,
            best.valid_until,
            passed=(f"{required}: {found}",),
        )
    reasons = _reasons(judged)
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    if unavailable:
        found = f"not among what could be fetched ({shown})" if shown else "the signatures could not be fetched"
        outcome = Outcome.UNKNOWN
    else:
        found = shown or "no signature at all"
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
    elif unavailable and sum(result.outcome is not Outcome.REFUSED for result in results) >= count:
        # What could not be fetched may also hold further authorities for what is accepted already.
        outcome = Outcome.UNKNOWN
    else:
        outcome = Outcome.REFUSED
    # Which authority stands for which branch may shift when one of them goes: judged again as soon as any does.
    until = _earliest([result.all_until for result in accepted])
    told = (f"at least {count} of these {len(of)} are required, by distinct signers; {met} met",)
    return _combine(f"at least {count} of {len(of)}, by distinct signers", outcome, results, met, depth, until, told)


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

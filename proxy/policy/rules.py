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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeVar, assert_never

from proxy.policy import canary
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


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression in RE2's syntax (linear time), over whole values; compiled once."""

    text: str
    _compiled: Callable[[str], object] = field(repr=False, compare=False)

    @classmethod
    def compile(cls, text: str) -> Regex:
        """Compile ``text``. Raises :class:`ValueError` saying what is wrong with it."""
        import re2

        options = re2.Options()
        options.log_errors = False
        try:
            return cls(text, re2.compile(text, options).fullmatch)
        except re2.error as error:
            message = error.args[0] if error.args else "it cannot be read"
            raise ValueError(message.decode() if isinstance(message, bytes) else str(message)) from None

    def matches(self, value: str) -> bool:
        """Whether the whole of ``value`` matches."""
        return self._compiled(value) is not None


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
class Identity:
    """A signer by certificate: whom a root of trust (an entry of ``trust.roots``) vouches for.

    ``extensions`` names further claims of the certificate (:data:`EXTENSIONS`), each with what it must match.
    """

    root: str
    issuer: str  #: of the signer's identity token, in full
    identity: Pattern | Regex  #: over the whole of an e-mail address or URI
    extensions: tuple[tuple[str, Pattern], ...] = ()

    def __str__(self) -> str:
        more = "".join(f", {name} {pattern.text}" for name, pattern in self.extensions)
        return f"{self.identity.text} of {self.issuer}{more} (root {self.root})"


@dataclass(frozen=True, slots=True)
class Store:
    """Whoever a Notary Project trust store trusts, named as in ``trust.notation``."""

    name: str

    def __str__(self) -> str:
        return f"notation store {self.name}"


@dataclass(frozen=True, slots=True)
class OpenPgp:
    """Whoever signs with one of the OpenPGP keys of an entry of ``trust.keys``."""

    name: str

    def __str__(self) -> str:
        return f"key {self.name}"


@dataclass(frozen=True, slots=True)
class Root:
    """An entry of ``trust.roots``, where trust is told apart by name."""

    name: str


#: A signer: the name of a managed key as in ``trust.keys``, somebody by certificate, of a trust store, or by OpenPGP.
Signer = str | Identity | Store | OpenPgp

#: Claims of a certificate that a rule may name.
EXTENSIONS = ("source_repository", "source_ref", "source_repository_id", "owner_id", "owner", "build_config", "runner", "trigger")


def _by(signer: Signer) -> str:
    return f"by key {signer}" if isinstance(signer, str) else f"by {signer}"


@dataclass(frozen=True, slots=True)
class SignatureBy:
    """A signature over the image's manifest; with ``docker_reference`` one that names this very repository."""

    by: Signer
    docker_reference: bool = False

    def __str__(self) -> str:
        return f"a signature {_by(self.by)}{' that names this repository' if self.docker_reference else ''}"


class On(StrEnum):
    """Which manifest of an image of several platforms an attestation must be about."""

    INDEX = "index"  #: the one that is pulled, whatever it is
    PLATFORM = "platform"  #: each that the index lists
    EITHER = "either"  #: the index, or each that it lists


@dataclass(frozen=True, slots=True)
class AttestationBy:
    """An in-toto statement about the image: predicate type, signer, and what it must say.

    ``when`` is a condition in CEL over ``statement`` and ``predicate``; ``max_age`` is held against the proven time of signing.
    """

    type: str
    by: str | Identity
    when: str | None = None
    max_age: timedelta | None = None
    on: On = On.INDEX

    def __str__(self) -> str:
        condition = "" if self.when is None else f" with {self.when}"
        age = "" if self.max_age is None else f", at most {self.max_age} old"
        where = {On.INDEX: "", On.PLATFORM: " on each platform", On.EITHER: " on the index or each platform"}[self.on]
        return f"an attestation {self.type}{where} {_by(self.by)}{age}{condition}"


#: What evidence can be an answer to.
Question = SignatureBy | AttestationBy


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


Requirement = Question | FirstUse | Never | AllOf | AnyOf | AtLeast


def questions_of(requirement: Requirement) -> tuple[Question, ...]:
    """All that a requirement asks evidence for, each once, in the order of the file."""
    match requirement:
        case SignatureBy() | AttestationBy():
            return (requirement,)
        case FirstUse() | Never():
            return ()
        case AllOf(of) | AnyOf(of) | AtLeast(_, of):
            return tuple(dict.fromkeys(question for node in of for question in questions_of(node)))
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
    """The one rule for a repository: the most specific match, else a rule that denies; for a canary, no rule but its own."""
    if canary.reserved(repository):
        return CANARY_RULE
    return most_specific(rules, str(repository)) or DEFAULT_RULE


#: Part of every fingerprint. To be raised when verification becomes stricter, so that older acceptances are judged again.
JUDGEMENT = 1


def fingerprint(requirement: Requirement, trusted: Mapping[str | Root | Store, str]) -> str:
    """Hash of a requirement with what its signers stand for.

    ``trusted``: name of a key → its fingerprint and validity window; :class:`Root`, :class:`Store` → a hash of what is in there.
    The same for the same question: names and the order of a group do not matter.
    """

    def signer(by: Signer) -> object:
        match by:
            case str():
                return trusted.get(by, f"unknown:{by}")
            case OpenPgp(name):
                return trusted.get(name, f"unknown:{name}")
            case Store():
                return ["notation", trusted.get(by, f"unknown:{by.name}")]
            case Identity(root, issuer, identity, extensions):
                kind = "glob" if isinstance(identity, Pattern) else "re2"
                claims = sorted([name, pattern.text] for name, pattern in extensions)
                return ["keyless", trusted.get(Root(root), f"unknown:{root}"), issuer, kind, identity.text, claims]
            case _:
                assert_never(by)

    def tree(node: Requirement) -> object:
        match node:
            case SignatureBy(by, docker_reference):
                return ["signature", signer(by), *(["docker-reference"] if docker_reference else [])]
            case AttestationBy(kind, by, when, max_age, on):
                seconds = None if max_age is None else max_age.total_seconds()
                return ["attestation", kind, signer(by), when, seconds, *([] if on is On.INDEX else [on])]
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
#: What holds for the repositories that are never served (:mod:`proxy.policy.canary`).
CANARY_RULE = Rule(Pattern.compile(f"**/{canary.NAME}/**"), Never(), (), fingerprint(Never(), {}))


# -- what was found, and what it means ------------------------------------------------------------------------------


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

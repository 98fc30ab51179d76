"""Rules: which image needs what. Frozen values, and the hash that names the question that a rule asks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import assert_never

from proxy.policy import canary
from proxy.policy.patterns import Pattern, Regex, most_specific
from proxy.policy.windows import Window
from storage.reference import Repository

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
    ROTATE = "rotate"  #: as :class:`Rotation` says


class Continuity(StrEnum):
    """Who may vouch for the digest that a pin rotates to."""

    SAME = "same"  #: those who vouched for the pinned one
    ANY = "any"  #: whoever the rule accepts


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a pin moves to what the upstream names by itself, and what is answered where it does not: ``otherwise``."""

    cooldown: timedelta  #: from the moment the candidate was first seen
    signer: Continuity = Continuity.SAME
    otherwise: OnOverwrite = OnOverwrite.REFUSE
    window: Window | None = None
    stale_after: timedelta = timedelta(days=7)  #: beyond the cooldown: an accepted candidate that still waits is told

    def __post_init__(self) -> None:
        if self.otherwise is OnOverwrite.ROTATE:
            raise ValueError("what is answered where a pin does not rotate cannot be that it does")


@dataclass(frozen=True, slots=True)
class TagRule:
    """What holds for tags that match. ``rotation`` is there exactly where it is ROTATE.

    ``approvers``: how many distinct people must approve a candidate before the pin moves; 0 only with ``rotation``.
    """

    pattern: Pattern
    on_overwrite: OnOverwrite
    approvers: int = 1
    rotation: Rotation | None = None

    def __post_init__(self) -> None:
        if (self.on_overwrite is OnOverwrite.ROTATE) is not (self.rotation is not None):
            raise ValueError("a rule that rotates says how, and no other does")
        if self.approvers < (0 if self.rotation else 1):
            raise ValueError("without somebody's approval only a rule that rotates moves a pin")


@dataclass(frozen=True, slots=True)
class Rule:
    """Image pattern → what is required, and what tags may do.

    ``fingerprint`` names the question that a verdict answers: it changes whenever the requirement or the trust it names
    changes, so that old verdicts are not mistaken for answers to the new question.

    ``lasting`` names the same question, but stays the same when TUF refreshes a root: whose root it is counts there, and not
    what is in it. Empty where no such root is named.
    """

    pattern: Pattern
    require: Requirement
    tags: tuple[TagRule, ...]
    fingerprint: str
    lasting: str = ""

    def on_overwrite(self, tag: str) -> OnOverwrite:
        """What this rule answers when ``tag`` was overwritten; ``refuse`` where it does not say."""
        return self.tag_rule(tag).on_overwrite

    def tag_rule(self, tag: str) -> TagRule:
        """What holds for ``tag``."""
        return most_specific(self.tags, tag) or DEFAULT_TAG_RULE

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


#: What holds for tags of which a rule does not speak.
DEFAULT_TAG_RULE = TagRule(Pattern.compile("*"), OnOverwrite.REFUSE)
DEFAULT_RULE = Rule(Pattern.compile("**"), Never(), (), fingerprint(Never(), {}))
#: What holds for the repositories that are never served (:mod:`proxy.policy.canary`).
CANARY_RULE = Rule(Pattern.compile(f"**/{canary.NAME}/**"), Never(), (), fingerprint(Never(), {}))

"""Judging one signature for every question that a rule asks: what all formats with keys or certificates share.

A format's reader takes a signature out of its document (:class:`Made`); nothing of it is believed yet. For each question:

1. Who: the signature is the named key's, or the root vouches for its certificate (:mod:`proxy.verify.core`).
2. What: it is a signature of this image, or an attestation of the type that is asked for, about this image. Only read once the
   signature holds, so that nothing unsigned is interpreted.
3. When: a key is believed at the proven time of signing, or now where none is proven.
4. Identity: issuer, name and further claims of the certificate are those that the rule names.
5. Contents of an attestation: its age, and its condition.
6. sigstore-python's verdict, wherever it can judge, must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from proxy.errors import EvidenceMalformed
from proxy.policy.changes.provenance import Provenance, read_provenance
from proxy.policy.rules import AttestationBy, Identity, Question, SignatureBy
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.certificates import SignerCertificate
from proxy.verify.conditions import Condition
from proxy.verify.core import Proof, Signed, prove_certificate, prove_times
from proxy.verify.model import Subject, Trusted, TrustedKey
from proxy.verify.parsing import shown, utc
from proxy.verify.second import SecondVerdict
from proxy.verify.trust import outside_window

SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"


@dataclass(frozen=True, slots=True)
class Claim:
    """What was signed about the image."""

    predicate_type: str | None = None  #: None: a plain signature, which says nothing but that
    statement: Mapping[str, object] = field(default_factory=dict)
    predicate: object = None
    reference: str | None = None  #: the name that the signer gave the image

    @property
    def is_signature(self) -> bool:
        """Whether it says that the image is signed, and no more."""
        return self.predicate_type in {None, SIGN_PREDICATE}


@dataclass(frozen=True, slots=True)
class Made:
    """A signature as its format's reader found it. ``claim`` raises :class:`EvidenceMalformed` for another image's."""

    format: str
    source: str
    signed: Signed
    claim: Callable[[], Claim]
    #: Why what stands beside the signature cannot be read, and so can prove nothing: only a certificate leans on it.
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class _Who:
    """Who made it and when, as far as that is proven."""

    words: str
    signer: str | None
    authority: str
    times: tuple[datetime, ...]
    valid_until: datetime | None


def judge(
    made: Made,
    subject: Subject,
    questions: Sequence[Question],
    trusted: Trusted,
    limits: Limits,
    now: datetime,
    second: SecondVerdict,
) -> tuple[Evidence, ...]:
    """Judge one signature for each question. Never raises for what it contains."""
    judgement = _Judgement(made, subject, trusted, limits, now, second)
    return tuple(evidence for question in questions if (evidence := judgement.answer(question)) is not None)


class _Judgement:
    """One signature, whose expensive steps are taken once for all questions."""

    def __init__(
        self, made: Made, subject: Subject, trusted: Trusted, limits: Limits, now: datetime, second: SecondVerdict
    ) -> None:
        self._made = made
        self._subject = subject
        self._trusted = trusted
        self._limits = limits
        self._now = now
        self._second = second
        self._proofs: dict[str, tuple[Proof | EvidenceMalformed, tuple[str, ...]]] = {}
        self._claimed: Claim | EvidenceMalformed | None = None

    def answer(self, question: Question) -> Evidence | None:
        """Evidence for the question; None where this format has no answer to it."""
        match question.by:
            case str() as name if (key := self._trusted.keys.get(name)) is not None:
                return self._judged(question, f"key {name}", key.fingerprint, lambda steps: self._by_key(key, steps))
            case Identity() as identity if identity.root in self._trusted.roots:
                return self._judged(question, str(identity), None, lambda steps: self._by_identity(identity, steps))
            case _:
                return None

    def _judged(self, question: Question, signer: str, authority: str | None, who: Callable[[list[str]], _Who]) -> Evidence:
        made, steps = self._made, list[str]()
        try:
            found = who(steps)
            authority, signer = found.authority, found.words
            until = self._content(question, found, steps)
        except EvidenceMalformed as error:
            reason = str(error)
            return Evidence(made.format, made.source, question, authority, accepted=False, reason=reason, steps=tuple(steps))
        kind = "signature" if isinstance(question, SignatureBy) else f"attestation {question.type}"
        reason = f"{kind} by {signer} over {self._subject.digest}"
        provenance = None if isinstance(question, SignatureBy) else self._provenance()
        return Evidence(
            made.format,
            made.source,
            question,
            authority,
            True,
            reason,
            until,
            tuple(steps),
            found.signer,
            provenance=provenance,
        )

    # -- who ------------------------------------------------------------------------------------------------------------

    def _by_key(self, key: TrustedKey, steps: list[str]) -> _Who:
        signed = self._made.signed
        if not key.verify(signed.signature, signed.message):
            if signed.chain or self._made.unreadable is not None:
                raise EvidenceMalformed(f"is keyless, not by the managed key {key.name}")
            raise EvidenceMalformed(f"not made by key {key.name}")
        steps.append(f"the signature is by key {key.name}")
        times: tuple[datetime, ...] = ()
        if key.root is not None and (root := self._trusted.roots.get(key.root)) is not None:
            try:
                times = prove_times(signed, key.der, root, self._limits, self._now, steps)
            except EvidenceMalformed as error:
                raise EvidenceMalformed(f"made by key {key.name}, but it {error}") from error
        return _Who(f"key {key.name}", None, key.fingerprint, times, None if times else key.valid_until)

    def _by_identity(self, identity: Identity, steps: list[str]) -> _Who:
        if self._made.unreadable is not None:
            raise EvidenceMalformed(self._made.unreadable)
        if not self._made.signed.chain:
            raise EvidenceMalformed("is made with a bare key, not keyless")
        proof, seen = self._proof(identity.root)
        steps.extend(seen)
        if isinstance(proof, EvidenceMalformed):
            raise EvidenceMalformed(str(proof))
        assert proof.certificate is not None
        who = check_identity(proof.certificate, identity)
        steps.append(f"the certificate is of {shown(who)}, issuer {shown(identity.issuer)}")
        return _Who(f"{shown(who)} of {identity.issuer}", shown(who), f"{identity.issuer} {who}", proof.times, proof.valid_until)

    def _proof(self, name: str) -> tuple[Proof | EvidenceMalformed, tuple[str, ...]]:
        """What the root ``name`` says of the certificate: asked once, with sigstore's own verdict."""
        if name not in self._proofs:
            root, steps = self._trusted.roots[name], list[str]()
            proof: Proof | EvidenceMalformed
            try:
                proof = prove_certificate(self._made.signed, root, self._limits, self._now, steps)
                steps.append(self._second.check(self._made.signed, root))
            except EvidenceMalformed as error:
                proof = error
            self._proofs[name] = (proof, tuple(steps))
        return self._proofs[name]

    # -- what -----------------------------------------------------------------------------------------------------------

    def _content(self, question: Question, who: _Who, steps: list[str]) -> datetime | None:
        """Steps 2, 3 and 5; until when the answer holds."""
        by_key = isinstance(question.by, str)
        try:
            claim = self._claim()
            steps.append(f"it is about {self._subject.digest}")
            if isinstance(question, SignatureBy):
                self._is_signature(claim, question)
                end = None
            else:
                end = self._is_attestation(claim, question, who, steps)
        except EvidenceMalformed as error:
            raise EvidenceMalformed(f"made by {who.words}, but it {error}") from error
        if by_key:
            key = self._trusted.keys[str(question.by)]
            for moment in who.times or (self._now,):
                if (why := outside_window(key, moment)) is not None:
                    raise EvidenceMalformed(f"made by {who.words}, but {why}")
        return min((moment for moment in (end, who.valid_until) if moment is not None), default=None)

    def _claim(self) -> Claim:
        if self._claimed is None:
            try:
                self._claimed = self._made.claim()
            except EvidenceMalformed as error:
                self._claimed = error
        if isinstance(self._claimed, EvidenceMalformed):
            raise EvidenceMalformed(str(self._claimed))
        return self._claimed

    def _provenance(self) -> Provenance | None:
        """What the attestation, which holds, says of where the image was built from."""
        claim = self._claim()
        return read_provenance(claim.predicate_type or "", claim.predicate)

    def _is_signature(self, claim: Claim, question: SignatureBy) -> None:
        if not claim.is_signature:
            raise EvidenceMalformed(f"is an attestation ({shown(claim.predicate_type or '')}), not a signature")
        if question.docker_reference and claim.reference not in _names(self._subject):
            named = "no name" if claim.reference is None else shown(claim.reference)
            raise EvidenceMalformed(f"names another repository: {named}, not {self._subject.repository}")

    def _is_attestation(self, claim: Claim, question: AttestationBy, who: _Who, steps: list[str]) -> datetime | None:
        if claim.predicate_type is None:
            raise EvidenceMalformed("is a signature, not an attestation")
        if claim.predicate_type != question.type:
            raise EvidenceMalformed(f"is an attestation of another type: {shown(claim.predicate_type)}")
        end = None
        if question.max_age is not None:
            if not who.times:
                raise EvidenceMalformed("proves no time of signing, so its age is not known: no log entry, no timestamp")
            end = min(who.times) + question.max_age
            if self._now > end:
                raise EvidenceMalformed(f"is too old: signed at {utc(min(who.times))}")
            steps.append(f"it is young enough until {utc(end)}")
        if question.when is not None:
            Condition(question.when).check(claim.statement, claim.predicate)
            steps.append("its condition holds")
        return end


def check_identity(certificate: SignerCertificate, identity: Identity) -> str:
    """Step 4: the name in the certificate that matches. Raises :class:`EvidenceMalformed`."""
    names = ", ".join(map(shown, certificate.identities)) or "nobody"
    if certificate.issuer != identity.issuer:
        raise EvidenceMalformed(f"is by {names} of another issuer: {shown(certificate.issuer or 'none')}")
    who = next((name for name in certificate.identities if identity.identity.matches(name)), None)
    if who is None:
        raise EvidenceMalformed(f"is by another identity: {names}")
    for claim, pattern in identity.extensions:
        value = certificate.claims.get(claim)
        if value is None or not pattern.matches(value):
            told = "nothing" if value is None else shown(value)
            raise EvidenceMalformed(f"is by {names}, whose {claim} is {told}, not {pattern.text}")
    return who


def _names(subject: Subject) -> frozenset[str]:
    """How a signer may spell the repository: in full, or as Docker Hub's images are known for short."""
    full = str(subject.repository)
    names = {full}
    if full.startswith("docker.io/"):
        rest = full.removeprefix("docker.io/")
        names |= {rest, rest.removeprefix("library/"), f"index.docker.io/{rest}"}
    return frozenset(names)

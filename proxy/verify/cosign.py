"""What cosign v2 writes: signatures (``.sig``) and attestations (``.att``), by managed keys and by certificates.

An image manifest, under the tag ``sha256-<hex>.sig`` or ``.att`` or as a referrer. Each layer is one signature: its bytes are
the signed payload ("simple signing") or a DSSE envelope; its annotations hold the signature, the certificate with its chain, the
log entry and the timestamp. The steps, for each layer:

1. The layer's digest and size are those of its descriptor; its media type is one of the two.
2. Log entry, certificate chain, timestamp: see :mod:`proxy.verify.core`. A managed key needs none of them, and none of them
   can make up for its signature.
3. The signature holds over the payload as it came, or over the envelope's pre-authentication encoding.
4. A signature: ``critical.image.docker-manifest-digest`` is the image's digest, and ``critical.type`` is ``cosign container
   image signature``. ``docker-reference`` is looked at only where a rule asks for it: images are copied between registries, and
   the digest names them all the same.
5. An attestation: the payload type is in-toto, and one of the statement's subjects has the image's digest. The annotation
   with the predicate type is a hint, and not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proxy.errors import EvidenceMalformed
from proxy.manifest import Entry, Manifest
from proxy.policy.rules import AttestationBy, Identity, Question, SignatureBy
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.chains import foreign
from proxy.verify.core import Signed
from proxy.verify.dsse import IN_TOTO, Envelope, Statement
from proxy.verify.judgement import Claim, Made, judge
from proxy.verify.model import Document, Subject, Trusted
from proxy.verify.parsing import member, read_object, shown, text, unbase64
from proxy.verify.second import SecondVerdict
from proxy.verify.shapes import DSSE, SIMPLE_SIGNING
from proxy.verify.tlog import LogEntry
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Descriptor

SIGNATURE = "dev.cosignproject.cosign/signature"
CERTIFICATE = "dev.sigstore.cosign/certificate"
CHAIN = "dev.sigstore.cosign/chain"
BUNDLE = "dev.sigstore.cosign/bundle"
TIMESTAMP = "dev.sigstore.cosign/rfc3161timestamp"
TYPE = "cosign container image signature"
#: Base64 of the largest signature there is (RSA, 16384 bits) stays well below.
_MAX_SIGNATURE_TEXT = 16 << 10
#: A certificate with its chain is a few thousand bytes.
_MAX_PEM = 64 << 10
_MAX_CHAIN = 10


def answers(question: Question, kind: type[SignatureBy | AttestationBy]) -> bool:
    """Whether a signature with a key or a certificate could answer ``question``, which is of this kind."""
    return isinstance(question, kind) and isinstance(question.by, str | Identity)


@dataclass(frozen=True, slots=True)
class _Beside:
    """What stands beside a signature: who made it, and what proves when."""

    chain: tuple[bytes, ...]
    entries: tuple[LogEntry, ...]
    timestamps: tuple[bytes, ...]

    @classmethod
    def of(cls, notes: Mapping[str, str], depth: int) -> _Beside:
        """Read a layer's annotations. Raises :class:`EvidenceMalformed`."""
        certificate, chain = notes.get(CERTIFICATE, ""), notes.get(CHAIN, "")
        entries: tuple[LogEntry, ...] = ()
        if bundle := notes.get(BUNDLE):
            entries = (LogEntry.of_cosign(read_object(bundle.encode(), depth, "a log entry")),)
        timestamps: tuple[bytes, ...] = ()
        if timestamp := notes.get(TIMESTAMP):
            node = read_object(timestamp.encode(), depth, "a timestamp")
            timestamps = (unbase64(text(node, "SignedRFC3161Timestamp", "its timestamp"), "the timestamp"),)
        return cls(_certificates(certificate, 1) + _certificates(chain, _MAX_CHAIN) if certificate else (), entries, timestamps)


class CosignSignatures:
    """Judges cosign v2 signatures."""

    name = "cosign signature"

    def __init__(self, limits: Limits, second: SecondVerdict) -> None:
        self._limits = limits
        self._second = second

    def wants(self, manifest: Manifest, layer: Entry, questions: Sequence[Question]) -> int | None:
        """Simple signing layers, up to the size of one signature."""
        del manifest
        if layer.descriptor.media_type != SIMPLE_SIGNING or not any(answers(question, SignatureBy) for question in questions):
            return None
        return self._limits.signature_size

    def judges(self, document: Document) -> bool:
        """Whether the document has simple signing layers."""
        return any(descriptor.media_type == SIMPLE_SIGNING for descriptor, _, _ in document.layers)

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge each layer for each question."""
        source = document.source(subject.digest)
        asked = [question for question in questions if answers(question, SignatureBy)]
        signatures = [layer for layer in document.layers if layer[0].media_type == SIMPLE_SIGNING]
        return tuple(
            evidence
            for number, (descriptor, notes, payload) in enumerate(signatures, 1)
            for evidence in self._layer(f"{source}, signature {number}", descriptor, notes, payload, subject, asked, trusted, now)
        )

    def _layer(
        self,
        source: str,
        descriptor: Descriptor,
        notes: Mapping[str, str],
        payload: bytes,
        subject: Subject,
        asked: Sequence[Question],
        trusted: Trusted,
        now: datetime,
    ) -> tuple[Evidence, ...]:
        try:
            _check_layer(descriptor, payload, self._limits.signature_size)
            signature = _signature(notes)
        except EvidenceMalformed as error:
            return (Evidence(self.name, source, None, None, accepted=False, reason=str(error)),)
        beside, unreadable = _beside(notes, self._limits.json_depth)
        signed = Signed(signature, payload, None, None, beside.chain, beside.entries, beside.timestamps, signature, None)
        made = Made(self.name, source, signed, lambda: self._claim(payload, subject.digest), unreadable)
        return judge(made, subject, asked, trusted, self._limits, now, self._second)

    def _claim(self, payload: bytes, digest: Digest) -> Claim:
        """Step 4. Raises :class:`EvidenceMalformed`."""
        document = read_object(payload, self._limits.json_depth, "a payload")
        critical = member(document, "critical", "its payload")
        claimed = text(member(critical, "image", "its payload"), "docker-manifest-digest", "its payload")
        try:
            claim = Digest.parse(claimed)
        except MalformedName as error:
            raise EvidenceMalformed(f"names no image: {shown(claimed)} is not a digest") from error
        if claim != digest:
            raise EvidenceMalformed(f"signed another image: it claims {claim}")
        kind = text(critical, "type", "its payload")
        if kind != TYPE:
            raise EvidenceMalformed(f"is for type {shown(kind)!r}, not a {TYPE}")
        identity = critical.get("identity")
        reference = identity.get("docker-reference") if isinstance(identity, dict) else None
        return Claim(reference=reference if isinstance(reference, str) else None)


class CosignAttestations:
    """Judges cosign v2 attestations."""

    name = "cosign attestation"

    def __init__(self, limits: Limits, second: SecondVerdict) -> None:
        self._limits = limits
        self._second = second

    def wants(self, manifest: Manifest, layer: Entry, questions: Sequence[Question]) -> int | None:
        """DSSE envelopes, up to the size of an attestation."""
        del manifest
        if layer.descriptor.media_type != DSSE or not any(answers(question, AttestationBy) for question in questions):
            return None
        return self._limits.attestation_size

    def judges(self, document: Document) -> bool:
        """Whether the document has layers that are envelopes."""
        return any(descriptor.media_type == DSSE for descriptor, _, _ in document.layers)

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge each layer for each question."""
        source = document.source(subject.digest)
        asked = [question for question in questions if answers(question, AttestationBy)]
        evidence: list[Evidence] = []
        for number, (descriptor, notes, body) in enumerate(document.layers, 1):
            if descriptor.media_type != DSSE:
                continue
            place = f"{source}, attestation {number}"
            try:
                made = self._made(place, descriptor, notes, body, subject)
            except EvidenceMalformed as error:
                evidence.append(Evidence(self.name, place, None, None, accepted=False, reason=str(error)))
            else:
                evidence += judge(made, subject, asked, trusted, self._limits, now, self._second)
        return tuple(evidence)

    def _made(self, source: str, descriptor: Descriptor, notes: Mapping[str, str], body: bytes, subject: Subject) -> Made:
        _check_layer(descriptor, body, self._limits.attestation_size)
        envelope = Envelope.parse(read_object(body, self._limits.json_depth, "an envelope"))
        if envelope.payload_type != IN_TOTO:
            raise EvidenceMalformed(f"is an envelope of type {shown(envelope.payload_type)!r}, not of an in-toto statement")
        beside, unreadable = _beside(notes, self._limits.json_depth)
        # Here the imprint of a timestamp is over the whole envelope.
        signed = Signed(
            envelope.signature,
            envelope.signed_bytes,
            envelope.payload,
            body,
            beside.chain,
            beside.entries,
            beside.timestamps,
            body,
            None,
        )
        return Made(self.name, source, signed, lambda: statement_claim(envelope, subject, self._limits), unreadable)


def statement_claim(envelope: Envelope, subject: Subject, limits: Limits) -> Claim:
    """What an envelope's statement says about the subject. Raises :class:`EvidenceMalformed` when it is about another."""
    statement = Statement.parse(envelope.payload, limits)
    statement.check_subject(subject.digest)
    return Claim(statement.predicate_type, statement.document, statement.predicate)


def _beside(notes: Mapping[str, str], depth: int) -> tuple[_Beside, str | None]:
    """What stands beside a signature, and why it cannot be read, if so.

    For a managed key's signature that is as if it were not there: annotations are not signed, and whoever could spoil one could
    as well remove it. A certificate's signature proves nothing without.
    """
    try:
        return _Beside.of(notes, depth), None
    except EvidenceMalformed as error:
        return _Beside((), (), ()), str(error) if notes.get(CERTIFICATE) else None


def _check_layer(descriptor: Descriptor, body: bytes, limit: int) -> None:
    """Step 1. Raises :class:`EvidenceMalformed`."""
    if len(body) > limit:
        raise EvidenceMalformed(f"has {len(body)} bytes; the limit for a signature is {limit}")
    if len(body) != descriptor.size or not descriptor.digest.matches(body):
        raise EvidenceMalformed("is broken: its payload is not what the signature manifest names")


def _signature(notes: Mapping[str, str]) -> bytes:
    encoded = notes.get(SIGNATURE, "").replace("\r", "").replace("\n", "")
    if not encoded:
        raise EvidenceMalformed(f"is missing: the annotation {SIGNATURE} is empty or not there")
    if len(encoded) > _MAX_SIGNATURE_TEXT:
        raise EvidenceMalformed("is broken: no signature is that long")
    return unbase64(encoded, "the signature")


def _certificates(pem: str, most: int) -> tuple[bytes, ...]:
    """DER of the certificates in ``pem``, in its order. Raises :class:`EvidenceMalformed`."""
    if not pem:
        return ()
    if len(pem) > _MAX_PEM:
        raise EvidenceMalformed(f"has a certificate of {len(pem)} characters; the limit is {_MAX_PEM}")
    with foreign("a certificate"):
        found = x509.load_pem_x509_certificates(pem.encode())
    if len(found) > most:
        raise EvidenceMalformed(f"has {len(found)} certificates where {most} may stand")
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)

"""Sigstore bundles (v0.1 – v0.3) about an image, by managed keys and by certificates: cosign v3, GitHub and others.

A referrer with exactly one layer, the bundle: verification material (a certificate or the hint of a key, log entries, timestamps)
and either a DSSE envelope with an in-toto statement or a message signature. The steps:

1. The layer's digest and size are those of its descriptor; it is the manifest's only layer; the JSON is a bundle.
2. The material is of the form that its version prescribes: v0.1 has a promise for each log entry, later ones proof and
   checkpoint, v0.3 a single certificate. A key's hint is not signed, so it does not decide which key is tried. The number of log
   entries and timestamps is bounded (GHSA-cq38-jh5f-37mq). What they prove: see :mod:`proxy.verify.core`.
3. Envelope: the payload type is in-toto; its one signature holds over the pre-authentication encoding; one of the subjects has
   the image's digest. As a signature counts only the predicate type ``sign/v1`` of cosign: anything else by the same signer is an
   attestation, and an attestation is no signature (CVE-2022-35929).
4. Message signature: the message digest is that of the image's manifest, and the signature holds over the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from proxy.errors import EvidenceMalformed
from proxy.manifest import Entry, Manifest
from proxy.policy.rules import AttestationBy, Question, SignatureBy
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.core import Signed
from proxy.verify.cosign import answers, statement_claim
from proxy.verify.dsse import IN_TOTO, Envelope
from proxy.verify.judgement import SIGN_PREDICATE, Claim, Made, judge
from proxy.verify.model import Document, Subject, Trusted
from proxy.verify.parsing import items, member, read_object, shown, text, unbase64
from proxy.verify.second import SecondVerdict
from proxy.verify.shapes import PREDICATE_ANNOTATION, bundle_version, is_bundle
from proxy.verify.tlog import LogEntry

_HASHES = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}
_MAX_CHAIN = 10


class SigstoreBundles:
    """Judges Sigstore bundles."""

    name = "sigstore bundle"

    def __init__(self, limits: Limits, second: SecondVerdict) -> None:
        self._limits = limits
        self._second = second

    def wants(self, manifest: Manifest, layer: Entry, questions: Sequence[Question]) -> int | None:
        """Bundles, except those whose manifest says that they are attestations of a type that nobody asks for.

        The annotation is a hint: who writes it wrongly only keeps the own bundle from being looked at.
        """
        if not is_bundle(layer.descriptor.media_type):
            return None
        says = manifest.annotations.get(PREDICATE_ANNOTATION, "")
        sizes = [
            self._limits.signature_size if isinstance(question, SignatureBy) else self._limits.attestation_size
            for question in questions
            if (answers(question, SignatureBy) and says in {"", SIGN_PREDICATE})
            or (isinstance(question, AttestationBy) and says in {"", question.type})
        ]
        return max(sizes, default=None)

    def judges(self, document: Document) -> bool:
        """Whether the document has a layer that is a bundle."""
        return any(is_bundle(descriptor.media_type) for descriptor, _, _ in document.layers)

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge the bundle for each question."""
        source = document.source(subject.digest)
        try:
            # 1. One layer, which is a bundle.
            if len(document.parsed.layers) != 1 or len(document.layers) != 1:
                raise EvidenceMalformed(f"has {len(document.parsed.layers)} layers in its manifest; a bundle stands alone")
            descriptor, _, body = document.layers[0]
            if len(body) != descriptor.size or not descriptor.digest.matches(body):
                raise EvidenceMalformed("is broken: the bundle is not what its manifest names")
        except EvidenceMalformed as error:
            return (Evidence(self.name, source, None, None, accepted=False, reason=str(error)),)
        return self.judge_bytes(source, body, subject, questions, trusted, now)

    def judge_bytes(
        self, source: str, body: bytes, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge a bundle that came without a manifest; ``source`` says from where."""
        asked = [question for question in questions if answers(question, type(question))]
        try:
            made = self._read(source, body, subject, self._limit(asked))
        except EvidenceMalformed as error:
            return (Evidence(self.name, source, None, None, accepted=False, reason=str(error)),)
        return judge(made, subject, asked, trusted, self._limits, now, self._second)

    def _limit(self, asked: Sequence[Question]) -> int:
        """Bytes of the largest bundle that could answer these questions."""
        attestations = any(isinstance(question, AttestationBy) for question in asked)
        return self._limits.attestation_size if attestations else self._limits.signature_size

    def _read(self, source: str, body: bytes, subject: Subject, limit: int) -> Made:
        version, bundle = self._open(body, limit)
        material = member(bundle, "verificationMaterial", "its bundle")
        chain = _chain(material, version)
        entries = _entries(material, version, self._limits.log_entries)
        timestamps = _timestamps(material, self._limits.timestamps)
        envelope, message = bundle.get("dsseEnvelope"), bundle.get("messageSignature")
        if (envelope is None) == (message is None):
            raise EvidenceMalformed("must hold either an envelope or a message signature")
        if envelope is not None:
            read = Envelope.parse(member(bundle, "dsseEnvelope", "its bundle"))
            if read.payload_type != IN_TOTO:
                raise EvidenceMalformed(f"is an envelope of type {shown(read.payload_type)!r}, not of an in-toto statement")
            signed = Signed(
                read.signature, read.signed_bytes, read.payload, None, chain, entries, timestamps, read.signature, body
            )
            return Made(self.name, source, signed, lambda: statement_claim(read, subject, self._limits))
        node = member(bundle, "messageSignature", "its bundle")
        signature = unbase64(text(node, "signature", "its message signature"), "the signature")
        algorithm, digest = _message_digest(node)
        signed = Signed(signature, subject.body, None, None, chain, entries, timestamps, signature, body)
        return Made(self.name, source, signed, lambda: _message(algorithm, digest, subject))

    def _open(self, body: bytes, limit: int) -> tuple[int, Mapping[str, object]]:
        """Minor version and content. Raises :class:`EvidenceMalformed`."""
        if len(body) > limit:
            raise EvidenceMalformed(f"has {len(body)} bytes; the limit for a signature is {limit}")
        bundle = read_object(body, self._limits.json_depth, "a bundle")
        media_type = text(bundle, "mediaType", "its bundle")
        version = bundle_version(media_type)
        if version is None:
            raise EvidenceMalformed(f"is {shown(media_type)!r}, not a Sigstore bundle of version 0.1, 0.2 or 0.3")
        return version, bundle


def _chain(material: Mapping[str, object], version: int) -> tuple[bytes, ...]:
    """DER certificates, leaf first; none where a key signed. Raises :class:`EvidenceMalformed`."""
    forms = [name for name in ("certificate", "x509CertificateChain", "publicKey") if material.get(name) is not None]
    if len(forms) != 1:
        raise EvidenceMalformed("must name its signer by one of certificate, chain or public key")
    if forms == ["publicKey"]:
        member(material, "publicKey", "its bundle")
        return ()
    if forms == ["certificate"]:
        return (_der(member(material, "certificate", "its bundle")),)
    if version >= 3:
        raise EvidenceMalformed("holds a chain of certificates, where version 0.3 has a single certificate")
    certificates = items(member(material, "x509CertificateChain", "its bundle"), "certificates", "its bundle", _MAX_CHAIN)
    if not certificates:
        raise EvidenceMalformed("holds a chain without a certificate")
    return tuple(_der(each) for each in certificates)


def _der(node: object) -> bytes:
    if not isinstance(node, dict):
        raise EvidenceMalformed("holds a certificate that is not an object")
    return unbase64(text(node, "rawBytes", "its certificate"), "the certificate")


def _entries(material: Mapping[str, object], version: int, most: int) -> tuple[LogEntry, ...]:
    entries = []
    for node in items(material, "tlogEntries", "its bundle", most):
        if not isinstance(node, dict):
            raise EvidenceMalformed("holds a log entry that is not an object")
        entry = LogEntry.of_bundle(node)
        if version == 1 and entry.promise is None:
            raise EvidenceMalformed("holds a log entry without a promise, which version 0.1 demands")
        if version > 1 and (entry.proof is None or entry.proof.checkpoint is None):
            raise EvidenceMalformed(
                f"holds a log entry without inclusion proof and checkpoint, which version 0.{version} demands"
            )
        entries.append(entry)
    return tuple(entries)


def _timestamps(material: Mapping[str, object], most: int) -> tuple[bytes, ...]:
    if material.get("timestampVerificationData") is None:
        return ()
    node = member(material, "timestampVerificationData", "its bundle")
    stamps = []
    for each in items(node, "rfc3161Timestamps", "its bundle", most):
        if not isinstance(each, dict):
            raise EvidenceMalformed("holds a timestamp that is not an object")
        stamps.append(unbase64(text(each, "signedTimestamp", "its timestamp"), "the timestamp"))
    return tuple(stamps)


def _message_digest(node: Mapping[str, object]) -> tuple[str, bytes]:
    named = member(node, "messageDigest", "its message signature")
    algorithm = text(named, "algorithm", "its message signature")
    if algorithm not in _HASHES:
        raise EvidenceMalformed(f"has a message digest by {shown(algorithm)!r}, which is not supported")
    return algorithm, unbase64(text(named, "digest", "its message signature"), "the message digest")


def _message(algorithm: str, digest: bytes, subject: Subject) -> Claim:
    """Step 4. Raises :class:`EvidenceMalformed`."""
    # The body is the one that was asked for by digest; this holds the two together for every caller.
    if not subject.digest.matches(subject.body):
        raise EvidenceMalformed(f"cannot be judged: the manifest at hand is not {subject.digest}")
    if hashlib.new(_HASHES[algorithm], subject.body).digest() != digest:
        raise EvidenceMalformed(f"signed another image: its message digest is not that of {subject.digest}")
    return Claim()

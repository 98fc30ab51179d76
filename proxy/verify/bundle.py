"""Sigstore bundles (v0.1 – v0.3) that sign an image, by managed keys.

A referrer with exactly one layer, the bundle: verification material that names a public key, and either a DSSE envelope with an
in-toto statement or a message signature. The steps:

1. The layer's digest and size are those of its descriptor; it is the manifest's only layer; the JSON is a bundle.
2. The material names a public key. With a certificate the bundle is keyless, which no managed key can vouch for. The key's
   hint is not signed, so it does not decide which key is tried. Log entries and timestamps prove a time, which a managed key
   does not need; their number is bounded (GHSA-cq38-jh5f-37mq).
3. Envelope: the payload type is in-toto; its one signature holds over the pre-authentication encoding.
   The predicate type is cosign's ``sign/v1``: anything else by the same key is an attestation, and an attestation is no
   signature (CVE-2022-35929). One of the subjects has the image's digest.
4. Message signature: the message digest is that of the image's manifest, and the signature holds over the manifest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from proxy.errors import EvidenceMalformed
from proxy.manifest import Entry, Manifest
from proxy.policy.rules import Evidence, Question, SignatureBy
from proxy.settings import Limits
from proxy.verify.dsse import IN_TOTO, Envelope, Statement
from proxy.verify.model import Document, Subject, Trusted, TrustedKey
from proxy.verify.parsing import items, member, read_object, shown, text, unbase64
from proxy.verify.shapes import PREDICATE_ANNOTATION, is_bundle
from proxy.verify.trust import judge_by_keys
from storage.records import Descriptor

SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
_MEDIA_TYPE = re.compile(r"application/vnd\.dev\.sigstore\.bundle(?:\.v0\.[123]\+json|\+json;\s*version=0\.[123])", re.ASCII)
_HASHES = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}
_MAX_LOG_ENTRIES = 32
_MAX_TIMESTAMPS = 32


@dataclass(frozen=True, slots=True)
class _Signed:
    """What a bundle signs: who made it, and whether it says what a signature of the subject must say."""

    made_by: Callable[[TrustedKey], bool]
    content: Callable[[], None]


class SigstoreBundles:
    """Judges Sigstore bundles."""

    name = "sigstore bundle"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def wants(self, manifest: Manifest, layer: Entry) -> int | None:
        """Bundles up to the size of one signature; not those whose manifest says that they are attestations."""
        if not is_bundle(layer.descriptor.media_type):
            return None
        says = manifest.annotations.get(PREDICATE_ANNOTATION, "")
        return self._limits.signature_size if says in ("", SIGN_PREDICATE) else None

    def judges(self, document: Document) -> bool:
        """Whether the document has a layer that is a bundle."""
        return any(is_bundle(descriptor.media_type) for descriptor, _, _ in document.layers)

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge the bundle against each key."""
        source = document.source(subject.digest)
        asked = [question for question in questions if isinstance(question, SignatureBy)]
        try:
            signed = self._read(document, subject)
        except EvidenceMalformed as error:
            return (Evidence(self.name, source, None, None, accepted=False, reason=str(error)),)
        return judge_by_keys(self.name, source, subject, asked, trusted.keys, now, made_by=signed.made_by, content=signed.content)

    def _read(self, document: Document, subject: Subject) -> _Signed:
        # 1. One layer, which is a bundle.
        if len(document.parsed.layers) != 1 or len(document.layers) != 1:
            raise EvidenceMalformed(f"has {len(document.parsed.layers)} layers in its manifest; a bundle stands alone")
        descriptor, _, body = document.layers[0]
        bundle = self._open(descriptor, body)
        # 2. By a key.
        _check_material(member(bundle, "verificationMaterial", "its bundle"))
        envelope, message = bundle.get("dsseEnvelope"), bundle.get("messageSignature")
        if (envelope is None) == (message is None):
            raise EvidenceMalformed("must hold either an envelope or a message signature")
        if envelope is not None:
            return self._envelope(Envelope.parse(member(bundle, "dsseEnvelope", "its bundle")), subject)
        return _message(member(bundle, "messageSignature", "its bundle"), subject)

    def _open(self, descriptor: Descriptor, body: bytes) -> Mapping[str, object]:
        if len(body) > self._limits.signature_size:
            raise EvidenceMalformed(f"has {len(body)} bytes; the limit for a signature is {self._limits.signature_size}")
        if len(body) != descriptor.size or not descriptor.digest.matches(body):
            raise EvidenceMalformed("is broken: the bundle is not what its manifest names")
        bundle = read_object(body, self._limits.json_depth, "a bundle")
        media_type = text(bundle, "mediaType", "its bundle")
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise EvidenceMalformed(f"is {shown(media_type)!r}, not a Sigstore bundle of version 0.1, 0.2 or 0.3")
        return bundle

    def _envelope(self, envelope: Envelope, subject: Subject) -> _Signed:
        """Step 3."""
        if envelope.payload_type != IN_TOTO:
            raise EvidenceMalformed(f"is an envelope of type {shown(envelope.payload_type)!r}, not of an in-toto statement")
        message = envelope.signed_bytes

        def content() -> None:
            statement = Statement.parse(envelope.payload, self._limits.json_depth)
            if statement.predicate_type != SIGN_PREDICATE:
                raise EvidenceMalformed(f"is an attestation ({shown(statement.predicate_type)}), not a signature")
            statement.check_subject(subject.digest)

        return _Signed(lambda key: key.verify(envelope.signature, message), content)


def _check_material(material: Mapping[str, object]) -> None:
    """Step 2. Raises :class:`EvidenceMalformed`."""
    items(material, "tlogEntries", "its bundle", _MAX_LOG_ENTRIES)
    if material.get("timestampVerificationData") is not None:
        timestamps = member(material, "timestampVerificationData", "its bundle")
        items(timestamps, "rfc3161Timestamps", "its bundle", _MAX_TIMESTAMPS)
    if material.get("certificate") is not None or material.get("x509CertificateChain") is not None:
        raise EvidenceMalformed("is keyless, not by a managed key")
    member(material, "publicKey", "its bundle")


def _message(node: Mapping[str, object], subject: Subject) -> _Signed:
    """Step 4. Raises :class:`EvidenceMalformed`."""
    signature = unbase64(text(node, "signature", "its message signature"), "the signature")
    named = member(node, "messageDigest", "its message signature")
    algorithm = text(named, "algorithm", "its message signature")
    if algorithm not in _HASHES:
        raise EvidenceMalformed(f"has a message digest by {shown(algorithm)!r}, which is not supported")
    digest = unbase64(text(named, "digest", "its message signature"), "the message digest")

    def content() -> None:
        # The body is the one that was asked for by digest; this holds the two together for every caller.
        if not subject.digest.matches(subject.body):
            raise EvidenceMalformed(f"cannot be judged: the manifest at hand is not {subject.digest}")
        if hashlib.new(_HASHES[algorithm], subject.body).digest() != digest:
            raise EvidenceMalformed(f"signed another image: its message digest is not that of {subject.digest}")

    return _Signed(lambda key: key.verify(signature, subject.body), content)

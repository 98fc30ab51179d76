"""cosign v2 signatures (``.sig``), by managed keys.

An image manifest, under the tag ``sha256-<hex>.sig`` or as a referrer, in which each layer is one signature: the layer's bytes
are the signed payload ("simple signing"), its annotations hold the signature. The steps, for each layer:

1. The layer's digest and size are those of its descriptor; its media type is simple signing.
2. – 5. Log entry, certificate chain, timestamp: these prove when and by whom a keyless signature was made. A managed key
   needs none of them, and none of them can make up for its signature.
6. The signature holds over the payload as it came.
7. ``critical.image.docker-manifest-digest`` is the image's digest.
8. ``critical.type`` is ``cosign container image signature``.
9. ``docker-reference`` is not looked at: images are copied between registries, and the digest names them all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from proxy.errors import EvidenceMalformed
from proxy.manifest import Entry, Manifest
from proxy.policy.rules import Evidence, Question, SignatureBy
from proxy.settings import Limits
from proxy.verify.model import Document, Subject, Trusted
from proxy.verify.parsing import member, read_object, shown, text, unbase64
from proxy.verify.shapes import SIMPLE_SIGNING
from proxy.verify.trust import judge_by_keys
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Descriptor

SIGNATURE = "dev.cosignproject.cosign/signature"
CERTIFICATE = "dev.sigstore.cosign/certificate"
TYPE = "cosign container image signature"
#: Base64 of the largest signature there is (RSA, 16384 bits) stays well below.
_MAX_SIGNATURE_TEXT = 16 << 10


class CosignSignatures:
    """Judges cosign v2 signatures."""

    name = "cosign signature"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def wants(self, manifest: Manifest, layer: Entry) -> int | None:
        """Simple signing layers, up to the size of one signature."""
        del manifest
        return self._limits.signature_size if layer.descriptor.media_type == SIMPLE_SIGNING else None

    def judges(self, document: Document) -> bool:
        """Whether the document has simple signing layers."""
        return any(descriptor.media_type == SIMPLE_SIGNING for descriptor, _, _ in document.layers)

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge each layer against each key."""
        source = document.source(subject.digest)
        asked = [question for question in questions if isinstance(question, SignatureBy)]
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
        questions: Sequence[Question],
        trusted: Trusted,
        now: datetime,
    ) -> tuple[Evidence, ...]:
        try:
            signature = self._signature(descriptor, notes, payload)  # step 1
        except EvidenceMalformed as error:
            return (Evidence(self.name, source, None, None, accepted=False, reason=str(error)),)
        return judge_by_keys(
            self.name,
            source,
            subject,
            questions,
            trusted.keys,
            now,
            made_by=lambda key: key.verify(signature, payload),  # step 6
            content=lambda: self._check_payload(payload, subject.digest),  # steps 7 and 8
            keyless=bool(notes.get(CERTIFICATE)),
        )

    def _signature(self, descriptor: Descriptor, notes: Mapping[str, str], payload: bytes) -> bytes:
        """Step 1, and the signature's bytes."""
        if len(payload) > self._limits.signature_size:
            raise EvidenceMalformed(f"has {len(payload)} bytes; the limit for a signature is {self._limits.signature_size}")
        if len(payload) != descriptor.size or not descriptor.digest.matches(payload):
            raise EvidenceMalformed("is broken: its payload is not what the signature manifest names")
        encoded = notes.get(SIGNATURE, "").replace("\r", "").replace("\n", "")
        if not encoded:
            raise EvidenceMalformed(f"is missing: the annotation {SIGNATURE} is empty or not there")
        if len(encoded) > _MAX_SIGNATURE_TEXT:
            raise EvidenceMalformed("is broken: no signature is that long")
        return unbase64(encoded, "the signature")

    def _check_payload(self, payload: bytes, digest: Digest) -> None:
        """Steps 7 and 8. Raises :class:`EvidenceMalformed`."""
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

"""DSSE envelopes (protocol version 1) and the in-toto statements inside (v1, and v0.1 as older tools write it).

The signature is over the pre-authentication encoding of type and payload; a payload is only to be interpreted after a
signature over it has been found to hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.errors import EvidenceMalformed
from proxy.settings import Limits
from proxy.verify.parsing import items, read_object, shown, text, unbase64
from storage.digest import Digest

IN_TOTO = "application/vnd.in-toto+json"
STATEMENTS = frozenset({"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"})
#: Specifications foresee one signature; some envelopes carry several.
MAX_SIGNATURES = 32


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its type and the signature over both (Sigstore bundles allow one signature only)."""

    payload_type: str
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, node: Mapping[str, object]) -> Envelope:
        """Read the JSON form. Key ids are ignored: they are not signed. Raises :class:`EvidenceMalformed`."""
        signatures: list[bytes] = []
        for entry in items(node, "signatures", "its envelope", MAX_SIGNATURES):
            if not isinstance(entry, dict):
                raise EvidenceMalformed("is broken: an entry of its envelope's signatures is not an object")
            signatures.append(unbase64(text(entry, "sig", "its envelope"), "the signature"))
        if not signatures:
            raise EvidenceMalformed("is broken: its envelope has no signature")
        if len(signatures) > 1:
            raise EvidenceMalformed(f"is broken: its envelope has {len(signatures)} signatures; a bundle's has exactly one")
        payload = unbase64(text(node, "payload", "its envelope"), "the payload")
        return cls(text(node, "payloadType", "its envelope"), payload, signatures[0])

    @property
    def signed_bytes(self) -> bytes:
        """The pre-authentication encoding (PAE): what the signature is over."""
        kind = self.payload_type.encode("utf-8", "surrogatepass")
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


@dataclass(frozen=True, slots=True)
class Statement:
    """What an in-toto statement says about which digests."""

    predicate_type: str
    subjects: tuple[Mapping[str, object], ...]  #: algorithm → hex, one mapping per subject
    document: Mapping[str, object] = field(repr=False)  #: all of it
    predicate: object = field(repr=False)  #: what it says; where that is text which holds JSON, as older tools write, the JSON

    @classmethod
    def parse(cls, payload: bytes, limits: Limits) -> Statement:
        """Read a statement; the caller has bounded its size and verified its signature. Raises :class:`EvidenceMalformed`."""
        depth = limits.json_depth
        document = read_object(payload, depth, "a statement", most=None)
        kind = text(document, "_type", "its statement")
        if kind not in STATEMENTS:
            raise EvidenceMalformed(f"is no in-toto statement but {shown(kind)!r}")
        subjects: list[Mapping[str, object]] = []
        # GHSA-cq38-jh5f-37mq: every subject costs, so their number is bounded.
        for entry in items(document, "subject", "its statement", limits.subjects):
            digests = entry.get("digest") if isinstance(entry, dict) else None
            if not isinstance(digests, dict):
                raise EvidenceMalformed("is broken: a subject of its statement has no digest")
            subjects.append(digests)
        predicate = document.get("predicate")
        if isinstance(predicate, str) and predicate.lstrip().startswith("{"):
            predicate = read_object(predicate.encode(), depth, "a predicate", most=None)
        return cls(text(document, "predicateType", "its statement"), tuple(subjects), document, predicate)

    def check_subject(self, digest: Digest) -> None:
        """Raises :class:`EvidenceMalformed` unless one of the subjects has ``digest``."""
        if any(subject.get(digest.algorithm) == digest.hex for subject in self.subjects):
            return
        claims = [f"{algorithm}:{value}" for subject in self.subjects for algorithm, value in subject.items()]
        if not claims:
            raise EvidenceMalformed("names no image: its statement has no subject")
        more = f" and {len(claims) - 1} more" if len(claims) > 1 else ""
        raise EvidenceMalformed(f"signed another image: it claims {shown(claims[0])}{more}")

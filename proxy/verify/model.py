"""What verification works on and what it answers: documents in, evidence out.

A *document* is one evidence manifest with the bytes of its layers, as they came from the upstream or the store. A verifier
is a pure function over a document, the subject's digest and the trust: no I/O, no clock of its own. It runs in a worker
thread. A failed check is evidence too, with its reason; only a document that could not be had is an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from proxy.content import FetchedManifest, Lookaside, Referrers
from proxy.errors import UpstreamOversized
from proxy.manifest import Entry, Manifest
from proxy.policy.rules import Question
from proxy.policy.verdicts import Evidence
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository

if TYPE_CHECKING:
    from proxy.verify.notation import NotationStore
    from proxy.verify.openpgp import OpenPgpKey
    from proxy.verify.revocation import Answers, Query
    from proxy.verify.roots import Root


class Fetcher(Protocol):
    """How discovery gets bytes: from the upstream, or from what was stored before.

    Raises :class:`proxy.errors.UpstreamError` (Unavailable for outages; Denied and Misbehaved as they are). A definite
    absence is None, never an exception.
    """

    async def tagged(self, repository: Repository, tag: str) -> Sequence[FetchedManifest]:
        """What stands under ``tag``: one manifest, or none; of what was stored, all that ever stood there, the oldest first."""
        ...

    async def manifest(self, repository: Repository, digest: Digest) -> FetchedManifest | None:
        """The manifest with this digest, checked against it."""
        ...

    async def referrers(self, repository: Repository, subject: Digest) -> Referrers:
        """Who refers to ``subject``: referrers API, else the fallback tag, else none."""
        ...

    async def blob(self, repository: Repository, descriptor: Descriptor, limit: int) -> bytes | None:
        """A small blob, checked against digest and size. Above ``limit`` bytes: UpstreamMisbehaved."""
        ...

    def lookaside(
        self, repository: Repository, digest: Digest, place: Lookaside, limit: int
    ) -> AsyncGenerator[bytes | UpstreamOversized]:
        """The OpenPGP signatures that ``place`` holds for an image, one after the other, each of ``limit`` bytes at most.

        Its end is that there are no more. Raises as the other methods do, when the next one cannot be had.
        """
        ...


class Found(StrEnum):
    """Where a document was found."""

    SIGNATURE_TAG = "signature tag"
    ATTESTATION_TAG = "attestation tag"
    REFERRERS_API = "referrers API"
    REFERRERS_TAG = "referrers tag"
    LOOKASIDE = "lookaside"


@dataclass(frozen=True, slots=True)
class Document:
    """One evidence manifest and the bytes of those of its layers that a verifier wants (in the manifest's order)."""

    found: Found
    manifest: FetchedManifest
    parsed: Manifest  #: ``manifest.body``, read strictly; has the shape of evidence
    layers: tuple[tuple[Descriptor, Mapping[str, str], bytes], ...]  #: descriptor, annotations, bytes
    answers: Answers = field(default_factory=dict, repr=False)  #: what revocation servers said of certificates in there

    def source(self, subject: Digest) -> str:
        """Where this was found, for people."""
        if self.found is Found.LOOKASIDE:
            return f"lookaside signature {self.layers[0][0].digest.short}"
        return source_of(self.found, subject, self.manifest.digest)


def source_of(found: Found, subject: Digest, manifest: Digest) -> str:
    """``signature tag of sha256:…`` (the image's digest) or ``referrer sha256:…`` (its own)."""
    by_tag = found in {Found.SIGNATURE_TAG, Found.ATTESTATION_TAG}
    return f"{found} of {subject.short}" if by_tag else f"referrer {manifest.short}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A manifest that an index lists, judged with it, and what was found about it."""

    manifest: FetchedManifest
    parsed: Manifest  #: ``manifest.body``, read strictly
    texts: tuple[tuple[Descriptor, bytes], ...] = ()  #: its layers, where it is evidence itself and these had to be looked at
    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class Harvest:
    """What discovery brought home for one subject.

    ``unavailable`` has a line for each source that could not be asked: with any of these, a refusal would be a guess.
    """

    documents: tuple[Document, ...]
    malformed: tuple[Evidence, ...]  #: failed evidence for what was found but could not be read
    unavailable: tuple[str, ...]
    retry_after: float | None = None
    listed: tuple[Listed, ...] = ()  #: of an index, where these were judged each by itself


@dataclass(frozen=True, slots=True)
class Subject:
    """What the evidence must speak about: the upstream's own name for the image, never the mirror's."""

    repository: Repository
    digest: Digest
    body: bytes = field(repr=False)  #: the raw manifest, which message signatures are made over
    media_type: str = ""  #: the manifest's; empty where only the manifest itself can say
    listed: tuple[Entry, ...] | None = None  #: the manifests in it, where it is known to be an index


class Verifier(Protocol):
    """One signature format."""

    @property
    def name(self) -> str:
        """What people call it: ``cosign signature``."""
        ...

    def wants(self, manifest: Manifest, layer: Entry, questions: Sequence[Question]) -> int | None:
        """How many bytes of this layer are worth fetching at most; None when it can be no answer to any of the questions."""
        ...

    def judges(self, document: Document) -> bool:
        """Whether this document is of this verifier's format (by media types, cheaply)."""
        ...

    def judge(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> tuple[Evidence, ...]:
        """Judge every signature in the document for every question that its format can answer.

        Never raises for what the document contains.
        """
        ...


@runtime_checkable
class Inquiring(Protocol):
    """A verifier whose judgement may lean on answers of revocation servers (:attr:`Document.answers`)."""

    def needs(
        self, document: Document, subject: Subject, questions: Sequence[Question], trusted: Trusted, now: datetime
    ) -> Mapping[Query, bool]:
        """What must be asked before the document can be judged, beyond what it has answers to. Nothing where it fails anyway.

        Each with whether the verdict depends on its answer; if not, the answer is only told. Never raises for what the document
        contains.
        """
        ...


class Inquirer(Protocol):
    """Who asks revocation servers."""

    async def ask(self, queries: Mapping[Query, bool], now: datetime, by: float) -> Answers:
        """An answer to each, or why there is none, until ``by`` on the loop's clock.

        True: the verdict depends on it. Who was silent a moment ago is then asked again, and else need not be.
        """
        ...


@dataclass(frozen=True, slots=True)
class Trusted:
    """Who is believed, by the names that rules use."""

    keys: Mapping[str, TrustedKey] = field(default_factory=dict)
    roots: Mapping[str, Root] = field(default_factory=dict)
    stores: Mapping[str, NotationStore] = field(default_factory=dict)
    openpgp: Mapping[str, OpenPgpKey] = field(default_factory=dict)  #: entries of ``trust.keys``, as ``keys`` are


class TrustedKey(Protocol):
    """A managed public key and its validity window (:mod:`proxy.verify.trust`)."""

    @property
    def name(self) -> str:
        """As in ``trust.keys``."""
        ...

    @property
    def fingerprint(self) -> str:
        """The authority behind the name: sha256 of the DER SubjectPublicKeyInfo, hex."""
        ...

    @property
    def identity(self) -> str:
        """Fingerprint and window in one line."""
        ...

    @property
    def der(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        ...

    @property
    def root(self) -> str | None:
        """Entry of ``trust.roots`` whose logs and timestamp authorities prove when it signed; None: nothing proves that."""
        ...

    @property
    def valid_from(self) -> datetime | None:
        """First moment of the window; None: always was."""
        ...

    @property
    def valid_until(self) -> datetime | None:
        """Last moment of the window; None: until further notice."""
        ...

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` over ``message`` is this key's. Never raises for bad signatures."""
        ...

"""What these tests are made of: subjects, documents without a network, and an upstream in memory that can fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from proxy.content import FetchedManifest, ListedReferrer, Lookaside, Referrers, ReferrersSource
from proxy.errors import UpstreamOversized
from proxy.manifest import Bounds, parse
from proxy.policy.rules import SignatureBy
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.model import Document, Found, Subject, Trusted, TrustedKey, Verifier
from proxy.verify.trust import Key
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository
from tests.simulator.images import Image, image
from tests.simulator.signing import Signer, signature_tag

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
REPOSITORY = Repository.of("registry.test", "team/app")
IMAGE = image("app")
LIMITS = Limits()
RELEASE = Signer.of("p256", "release")


def subject(of: Image = IMAGE) -> Subject:
    """What the evidence must speak about."""
    return Subject(REPOSITORY, of.digest, of.body)


def key(signer: Signer = RELEASE, valid_from: datetime | None = None, valid_until: datetime | None = None) -> Key:
    """The signer's public key, under the signer's name."""
    return Key.load(signer.name, signer.public_pem, valid_from, valid_until)


def keys(*signers: Signer) -> dict[str, Key]:
    """Trusted keys by name."""
    return {signer.name: key(signer) for signer in signers or (RELEASE,)}


def fetched(of: Image) -> FetchedManifest:
    """A manifest as a fetcher hands it over."""
    return FetchedManifest(of.body, of.digest, of.media_type)


def document(evidence: Image, found: Found = Found.REFERRERS_API) -> Document:
    """An evidence manifest with all of its layers."""
    parsed = parse(evidence.body, evidence.media_type, Bounds())
    layers = zip(parsed.layers, evidence.blobs[1:], strict=True)
    bodies = tuple((layer.descriptor, layer.annotations, blob.data) for layer, blob in layers)
    return Document(found, fetched(evidence), parsed, bodies)


class Stall(Exception):
    """Stands for an answer that never comes."""


@dataclass
class Upstream:
    """A fetcher over memory. ``faults`` maps a name to what is raised: ``tagged``, ``referrers``, or a digest's text."""

    tags: dict[str, Image] = field(default_factory=dict)
    #: What stood under a tag before, for a fetcher that remembers.
    earlier: dict[str, list[Image]] = field(default_factory=dict)
    listed: list[Image] = field(default_factory=list)
    source: ReferrersSource = ReferrersSource.API
    complete: bool = True
    manifests: dict[Digest, Image] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    beside: dict[Lookaside, list[bytes]] = field(default_factory=dict)
    asked: list[tuple[Digest, Lookaside, int]] = field(default_factory=list)  #: what lookasides were asked for
    calls: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def sign(self, signature: Image, of: Image = IMAGE) -> Image:
        """Put a signature manifest under the image's signature tag."""
        self.tags[signature_tag(of.digest)] = signature
        return self._hold(signature)

    def refer(self, *referrers: Image) -> None:
        """List referrers."""
        for referrer in referrers:
            self.listed.append(self._hold(referrer))

    def _hold(self, evidence: Image) -> Image:
        self.manifests[evidence.digest] = evidence
        self.blobs |= {blob.digest: blob.data for blob in evidence.blobs}
        return evidence

    async def _answer(self, name: str) -> None:
        self.calls.append(name)
        await asyncio.sleep(0)  # no answer is there at once
        fault = self.faults.get(name)
        if isinstance(fault, Stall):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
        if fault is not None:
            raise fault

    async def tagged(self, repository: Repository, tag: str) -> Sequence[FetchedManifest]:
        assert repository == REPOSITORY
        await self._answer("tagged")
        earlier = self.earlier.get(tag, [])
        return [fetched(each) for each in (*earlier, *([self.tags[tag]] if tag in self.tags else []))]

    async def manifest(self, repository: Repository, digest: Digest) -> FetchedManifest | None:
        assert repository == REPOSITORY
        await self._answer(str(digest))
        found = self.manifests.get(digest)
        return None if found is None else fetched(found)

    async def referrers(self, repository: Repository, subject: Digest) -> Referrers:
        assert repository == REPOSITORY
        await self._answer("referrers")
        return Referrers(self.source if self.listed else ReferrersSource.NONE, entries(self.listed), self.complete)

    async def blob(self, repository: Repository, descriptor: Descriptor, limit: int) -> bytes | None:
        assert repository == REPOSITORY
        await self._answer(str(descriptor.digest))
        assert descriptor.size <= limit
        return self.blobs.get(descriptor.digest)

    async def lookaside(
        self, repository: Repository, digest: Digest, place: Lookaside, limit: int
    ) -> AsyncGenerator[bytes | UpstreamOversized]:
        assert repository == REPOSITORY
        self.asked.append((digest, place, limit))
        for number, signature in enumerate(self.beside.get(place, ()), 1):
            await self._answer(f"signature-{number}")
            yield signature
        await self._answer("the end")


def entries(listed: Sequence[Image]) -> tuple[ListedReferrer, ...]:
    """A list whose hints are all wrong, as they may be."""
    return tuple(ListedReferrer(referrer.descriptor, "application/vnd.oci.empty.v1+json", ()) for referrer in listed)


def ask(
    verifier: Verifier, document: Document, subject: Subject, keys: Mapping[str, TrustedKey], now: datetime = NOW
) -> tuple[Evidence, ...]:
    """Judge a document for a signature by each of these keys."""
    return verifier.judge(document, subject, [SignatureBy(name) for name in keys], Trusted(keys), now)


def asked(evidence: Evidence) -> str | None:
    """The name of the key for which this was judged."""
    return None if evidence.about is None or not isinstance(evidence.about.by, str) else evidence.about.by

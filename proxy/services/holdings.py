"""Holdings: the bytes of manifests and evidence, and the rows that say what reaches what.

Nothing is decided here. Bytes are stored before any row speaks of them, so that what is recorded can be served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from proxy.content import FetchedManifest
from proxy.errors import ManifestRefused, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.manifest import Manifest
from proxy.policy.rules import Rule
from proxy.policy.verdicts import Verdict
from proxy.services.evidence import StoredEvidence, UpstreamEvidence
from proxy.settings import Limits
from proxy.upstream.client import Upstreams
from proxy.verify.model import Document, Harvest
from proxy.verify.reading import Reader
from proxy.verify.shapes import describe, has_image_config, is_evidence, is_text
from storage.blobs import BlobStore
from storage.catalog import Catalog
from storage.digest import Digest
from storage.records import Descriptor, Edge, Grounds, Kind, Lineage, StoredVerdict
from storage.reference import Repository

#: How many manifests that indexes list are looked through for a blob that nothing recorded reaches, and how many at once.
_MAX_UNREAD = 64
_UNREAD_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Held:
    """A manifest whose bytes are stored and whose edges are recorded."""

    descriptor: Descriptor
    body: bytes


class Holdings:
    """Fetches, reads, stores and records. With ``record=False`` nothing is written."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, upstreams: Upstreams, limits: Limits, *, record: bool = True) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._upstreams = upstreams
        self._limits = limits
        self._bounds = limits.bounds()
        self._recording = record
        self._reader = Reader()
        self.online = UpstreamEvidence(upstreams)  #: the evidence as the upstream has it now
        self.stored = StoredEvidence(catalog, blobs, self._bounds, limits)  #: the evidence that was kept at acceptance

    def stored_only(self, evidence: Collection[Digest]) -> StoredEvidence:
        """What was kept at acceptance, and of that no more than these manifests."""
        return StoredEvidence(self._catalog, self._blobs, self._bounds, self._limits, evidence)

    def fits_evidence(self, manifest: Manifest) -> bool:
        """Whether a manifest has the shape of evidence, within the limits: never a runnable image."""
        sizes = [entry.descriptor.size for entry in manifest.layers]
        return is_evidence(manifest) and all(size <= self._limits.attestation_size for size in sizes)

    async def hold(self, repository: Repository, digest: Digest) -> Held:
        """The bytes of an admitted manifest, stored, with its edges recorded.

        Raises UpstreamError when they are not stored and cannot be fetched, ManifestRefused when the bytes are not what
        the manifest above promises.
        """
        known = await self._catalog.manifest(repository, digest)
        if known is not None and (body := await self._blobs.read(digest, self._bounds.manifest_size)) is not None:
            return Held(known, body)
        fetched = await self.fetch(repository, digest)
        manifest = await self.parse(fetched)
        descriptor = Descriptor(manifest.media_type, digest, len(fetched.body))
        lineage = await self._catalog.lineage(repository, digest, "", as_manifest=True)
        self._fits_parents(lineage, descriptor, manifest)
        if self._recording:
            # An index that is only evidence (the referrers tag) lists manifests that are judged each by itself.
            listed_only = manifest.is_index and lineage.kind is Kind.EVIDENCE
            await self._blobs.put(digest, fetched.body)
            # What was known before was recorded with its edges, and those of kept evidence may be fewer than it names.
            edges = () if listed_only or known is not None else manifest.edges(digest)
            await self._catalog.record(repository, manifest=descriptor, edges=edges, verdict=None)
        return Held(descriptor, fetched.body)

    async def read_listed(self, repository: Repository) -> UpstreamUnavailable | None:
        """Hold what recorded indexes list and nobody has pulled yet; the outage that kept something from being read."""
        unread = await self._catalog.unread(repository, _MAX_UNREAD) if self._recording else []
        outage: UpstreamUnavailable | None = None
        for start in range(0, len(unread), _UNREAD_AT_ONCE):
            batch = unread[start : start + _UNREAD_AT_ONCE]
            for ended in await asyncio.gather(*(self.hold(repository, each) for each in batch), return_exceptions=True):
                if isinstance(ended, UpstreamUnavailable):
                    outage = ended
                elif isinstance(ended, BaseException) and not isinstance(ended, UpstreamError | ManifestRefused):
                    raise ended  # one that is missing or refused reaches nothing; anything else is not about it
            if outage is not None:
                break
        return outage

    async def record_evidence(
        self, repository: Repository, subject: Digest, fetched: FetchedManifest, manifest: Manifest
    ) -> None:
        """Remember an evidence manifest and its layers under its subject, so that they may be served.

        Raises ManifestRefused when it is not evidence, UpstreamError when its layers have to be looked at and cannot be.
        """
        if not manifest.is_index and not self.fits_evidence(manifest):
            raise ManifestRefused(f"{fetched.digest} is not evidence: {describe(manifest)}")
        if len(manifest.layers) > self._bounds.layers:
            raise ManifestRefused(f"{fetched.digest} has {len(manifest.layers)} layers; the limit is {self._bounds.layers}")
        if has_image_config(manifest):
            await self._keep_texts(repository, manifest)
        if not self._recording:
            return
        descriptor = Descriptor(manifest.media_type, fetched.digest, len(fetched.body))
        edges = () if manifest.is_index else manifest.edges(fetched.digest)
        await self._blobs.put(fetched.digest, fetched.body)
        await self._catalog.record(
            repository, manifest=descriptor, edges=(Edge(subject, descriptor, Kind.EVIDENCE), *edges), verdict=None
        )

    async def _keep_texts(self, repository: Repository, manifest: Manifest) -> None:
        """Look at what an image's client would unpack: all of it must be text. Raises ManifestRefused."""
        if sum(entry.descriptor.size for entry in manifest.layers) > self._limits.evidence_total:
            raise ManifestRefused(f"the evidence is larger than {self._limits.evidence_total} bytes")
        for entry in manifest.layers:
            descriptor = entry.descriptor
            content = stored = await self._blobs.read(descriptor.digest, self._limits.attestation_size)
            if content is None:
                content = await self.online.blob(repository, descriptor, self._limits.attestation_size)
            if content is None:
                raise ManifestRefused(f"its layer {descriptor.digest} does not exist upstream")
            if not await asyncio.to_thread(is_text, content):
                raise ManifestRefused(f"its layer {descriptor.digest} is not text: it could be unpacked as an image's")
            if self._recording and stored is None:
                await self._blobs.put(descriptor.digest, content)

    async def fetch(self, repository: Repository, digest: Digest) -> FetchedManifest:
        """The bytes of a manifest, stored or the upstream's, checked against its digest. Raises UpstreamError."""
        known = await self._catalog.manifest(repository, digest)
        if known is not None and (body := await self._blobs.read(digest, self._bounds.manifest_size)) is not None:
            return FetchedManifest(body, digest, known.media_type)
        fetched = await self._upstreams.manifest(repository, digest)
        if fetched.digest != digest:
            raise UpstreamMisbehaved(f"the upstream sent {fetched.digest} for {digest}")
        return fetched

    async def parse(self, fetched: FetchedManifest) -> Manifest:
        """Read a manifest; off the loop where it is long. Raises ManifestRefused."""
        return await self._reader.read(fetched, self._bounds)

    def _fits_parents(self, lineage: Lineage, descriptor: Descriptor, manifest: Manifest) -> None:
        """What a manifest says of its child binds: size, type and depth (a chain of indexes is bounded)."""
        for edge in lineage.edges:
            if edge.child.digest != descriptor.digest or edge.kind is not Kind.MANIFEST:
                continue
            if edge.child.size != descriptor.size:
                raise ManifestRefused(
                    f"{descriptor.digest} has {descriptor.size} bytes, its index {edge.parent.short} says {edge.child.size}"
                )
            if edge.child.media_type != descriptor.media_type:
                raise ManifestRefused(
                    f"{descriptor.digest} is {descriptor.media_type}, its index {edge.parent.short} says {edge.child.media_type}"
                )
        if manifest.is_index and (depth := _depth(lineage)) >= self._bounds.index_depth:
            raise ManifestRefused(f"{descriptor.digest} is an index {depth} levels deep; the limit is {self._bounds.index_depth}")

    async def record(
        self,
        repository: Repository,
        rule: Rule,
        fetched: FetchedManifest,
        manifest: Manifest,
        harvest: Harvest,
        verdict: Verdict,
        decided: datetime,
    ) -> None:
        """Remember an accepted manifest, its evidence, and what was judged with it.

        Bytes first, all at once; then the rows that speak of them, in the one transaction that makes the verdict count.
        """
        if not self._recording:
            return
        digest = fetched.digest
        bodies: list[tuple[Digest, bytes]] = [(digest, fetched.body)]
        edges = list(manifest.edges(digest))
        evidence: list[Digest] = []
        below: list[Descriptor] = []  # manifests: evidence, and what an index lists where that was judged, too
        about = [(digest, harvest.documents), *((listed.manifest.digest, listed.documents) for listed in harvest.listed)]
        for listed in harvest.listed:
            child = listed.manifest
            bodies.append((child.digest, child.body))
            bodies += [(text.digest, content) for text, content in listed.texts]
            below.append(Descriptor(listed.parsed.media_type, child.digest, len(child.body)))
            edges += listed.parsed.edges(child.digest)
        for subject, document in ((subject, document) for subject, documents in about for document in documents):
            found, body = document.parsed, document.manifest.body
            texts = not has_image_config(found) or await asyncio.to_thread(_all_text, document)
            if not (texts and self.fits_evidence(found) and len(found.layers) <= self._bounds.layers):
                continue  # it was looked at, but what is not evidence through and through is not let through
            bodies.append((document.manifest.digest, body))
            bodies += [(blob.digest, content) for blob, _, content in document.layers]
            named = Descriptor(found.media_type, document.manifest.digest, len(body))
            below.append(named)
            evidence.append(named.digest)
            edges += [Edge(subject, named, Kind.EVIDENCE), *_reached(document)]
        # Not before: a coroutine that was made and then never awaited, for a cancellation above, is one that Python complains of.
        puts = [self._blobs.put(name, body) for name, body in bodies]
        for done in await asyncio.gather(*puts, return_exceptions=True):
            if done is not None:
                raise done
        descriptor = Descriptor(manifest.media_type, digest, len(fetched.body))
        reasons, until = verdict.reasons, verdict.valid_until
        stored = StoredVerdict(repository, digest, rule.fingerprint, True, reasons, decided, until, verdict.signers)
        # Where somebody who might have vouched could not be asked, what was found is nothing that one ever accepted.
        settled = rule.lasting and not any(piece.undecided for piece in verdict.evidence)
        grounds = Grounds(rule.lasting, tuple(evidence)) if settled else None
        await self._catalog.record(repository, manifest=descriptor, edges=edges, verdict=stored, below=below, grounds=grounds)

    async def refuse(self, verdict: StoredVerdict) -> None:
        """Remember that what was accepted is not any more: what was let in by it is let in no more."""
        if self._recording:
            await self._catalog.record(verdict.repository, manifest=None, edges=(), verdict=verdict)

    async def whole(self, repository: Repository, about: Iterable[Digest]) -> bool:
        """Whether the evidence that is recorded about these is there to be read: damage to a disk refuses nothing."""
        for subject in about:
            for descriptor in (await self._catalog.evidence(repository, subject))[: self._limits.referrers]:
                edges = await self._catalog.children(repository, descriptor.digest)
                named = [edge.child.digest for edge in edges if edge.kind is Kind.BLOB]
                # What nobody had to look at, such as an empty config, was never stored: one that is there stands for all.
                if not await self._any((descriptor.digest,)) or (named and not await self._any(named)):
                    return False
        return True

    async def _any(self, digests: Iterable[Digest]) -> bool:
        for digest in digests:
            if (stored := await self._blobs.open(digest)) is not None:
                stored.close()
                return True
        return False


def _reached(document: Document) -> Sequence[Edge]:
    """What a client may fetch by way of kept evidence. Of what could be unpacked as an image's: only what was looked at."""
    edges = document.parsed.edges(document.manifest.digest)
    if not has_image_config(document.parsed):
        return edges
    seen = {descriptor.digest for descriptor, _, _ in document.layers}
    unseen = {entry.descriptor.digest for entry in document.parsed.layers} - seen
    return [edge for edge in edges if edge.child.digest not in unseen]


def _all_text(document: Document) -> bool:
    return all(is_text(content) for _, _, content in document.layers)


def _depth(lineage: Lineage) -> int:
    """How many indexes stand above a digest on the shortest way up."""
    level: set[Digest] = {lineage.digest}
    for depth in range(len(lineage.edges) + 1):
        above = _parents(lineage.edges, level)
        if not above:
            return depth
        level = above
    return len(lineage.edges)


def _parents(edges: Iterable[Edge], children: set[Digest]) -> set[Digest]:
    return {edge.parent for edge in edges if edge.kind is Kind.MANIFEST and edge.child.digest in children}

"""Where verification gets its bytes: from the upstream, or from what was stored when the image was accepted.

Both satisfy :class:`proxy.verify.model.Fetcher`. Stored evidence lets a verdict be reached again (a rule changed, a key was
replaced) while the upstream is gone, or after a signature was removed there.
"""

from __future__ import annotations

from proxy.content import FetchedManifest, ListedReferrer, Referrers, ReferrersSource
from proxy.errors import ManifestRefused, UpstreamAbsent, UpstreamMisbehaved
from proxy.manifest import Bounds, Manifest, parse
from proxy.upstream.client import Upstreams
from proxy.verify.shapes import evidence_tag
from storage.blobs import BlobStore
from storage.catalog import Catalog
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository


class UpstreamEvidence:
    """Evidence as the upstream has it now."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams

    async def tagged(self, repository: Repository, tag: str) -> FetchedManifest | None:
        """See :meth:`proxy.verify.model.Fetcher.tagged`."""
        try:
            return await self._upstreams.manifest(repository, tag)
        except UpstreamAbsent:
            return None

    async def manifest(self, repository: Repository, digest: Digest) -> FetchedManifest | None:
        """See :meth:`proxy.verify.model.Fetcher.manifest`."""
        try:
            return await self._upstreams.manifest(repository, digest)
        except UpstreamAbsent:
            return None

    async def referrers(self, repository: Repository, subject: Digest) -> Referrers:
        """See :meth:`proxy.verify.model.Fetcher.referrers`."""
        return await self._upstreams.referrers(repository, subject)

    async def blob(self, repository: Repository, descriptor: Descriptor, limit: int) -> bytes | None:
        """See :meth:`proxy.verify.model.Fetcher.blob`."""
        if descriptor.size > limit:
            raise UpstreamMisbehaved(
                f"{descriptor.digest.short} declares {descriptor.size} bytes of evidence; the limit is {limit}"
            )
        pieces = bytearray()
        try:
            async with self._upstreams.blob(repository, descriptor) as stream:
                async for piece in stream.chunks():
                    pieces += piece
                    if len(pieces) > descriptor.size:
                        raise UpstreamMisbehaved(f"{descriptor.digest.short} is longer than the {descriptor.size} bytes declared")
        except UpstreamAbsent:
            return None
        body = bytes(pieces)
        if len(body) != descriptor.size or not descriptor.digest.matches(body):
            raise UpstreamMisbehaved(f"what the upstream sent for {descriptor.digest.short} does not hash to it")
        return body


class StoredEvidence:
    """Evidence as it was stored at acceptance; what is not stored is simply not there."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, bounds: Bounds) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._bounds = bounds

    async def documents(self, repository: Repository, subject: Digest) -> list[tuple[FetchedManifest, Manifest]]:
        """All stored evidence manifests for a subject, in the order in which they were recorded."""
        found: list[tuple[FetchedManifest, Manifest]] = []
        for descriptor in await self._catalog.evidence(repository, subject):
            body = await self._blobs.read(descriptor.digest, self._bounds.manifest_size)
            if body is None:
                continue
            try:
                manifest = parse(body, descriptor.media_type, self._bounds)
            except ManifestRefused:
                continue  # bounds were tightened since it was stored: it no longer counts as evidence
            found.append((FetchedManifest(body, descriptor.digest, descriptor.media_type), manifest))
        return found

    async def tagged(self, repository: Repository, tag: str) -> FetchedManifest | None:
        """The newest stored evidence of the shape that ``tag`` names (``.sig``: simple signing, ``.att``: DSSE)."""
        subject = evidence_tag(tag)
        wanted = {".sig": "application/vnd.dev.cosign.simplesigning.", ".att": "application/vnd.dsse.envelope."}.get(tag[-4:])
        if subject is None or wanted is None:
            return None
        fitting = [
            fetched
            for fetched, manifest in await self.documents(repository, subject)
            if manifest.subject is None and manifest.layers and manifest.layers[0].descriptor.media_type.startswith(wanted)
        ]
        return fitting[-1] if fitting else None

    async def manifest(self, repository: Repository, digest: Digest) -> FetchedManifest | None:
        """See :meth:`proxy.verify.model.Fetcher.manifest`."""
        descriptor = await self._catalog.manifest(repository, digest)
        body = None if descriptor is None else await self._blobs.read(digest, self._bounds.manifest_size)
        return None if descriptor is None or body is None else FetchedManifest(body, digest, descriptor.media_type)

    async def referrers(self, repository: Repository, subject: Digest) -> Referrers:
        """The stored evidence that names ``subject`` as its subject."""
        entries = tuple(
            ListedReferrer(
                Descriptor(fetched.media_type, fetched.digest, len(fetched.body)),
                manifest.artifact_type or (manifest.config.media_type if manifest.config is not None else None),
                tuple(manifest.annotations.items()),
            )
            for fetched, manifest in await self.documents(repository, subject)
            if manifest.subject is not None
        )
        return Referrers(ReferrersSource.API if entries else ReferrersSource.NONE, entries)

    async def blob(self, repository: Repository, descriptor: Descriptor, limit: int) -> bytes | None:
        """See :meth:`proxy.verify.model.Fetcher.blob`."""
        return await self._blobs.read(descriptor.digest, limit)

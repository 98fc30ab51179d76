"""Where verification gets its bytes: from the upstream, or from what was stored when the image was accepted.

Both satisfy :class:`proxy.verify.model.Fetcher`. Stored evidence lets a verdict be reached again (a rule changed, a key was
replaced) while the upstream is gone, or after a signature was removed there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing

from proxy.content import FetchedManifest, ListedReferrer, Lookaside, Referrers, ReferrersSource
from proxy.errors import ManifestRefused, UpstreamAbsent, UpstreamMisbehaved, UpstreamOversized
from proxy.manifest import Bounds, Manifest
from proxy.settings import Limits
from proxy.upstream.client import Upstreams
from proxy.verify.reading import Reader
from proxy.verify.shapes import evidence_tag
from proxy.verify.simple import is_wrapped
from storage.blobs import BlobStore
from storage.catalog import Catalog
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository


class UpstreamEvidence:
    """Evidence as the upstream has it now."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams

    async def tagged(self, repository: Repository, tag: str) -> Sequence[FetchedManifest]:
        """See :meth:`proxy.verify.model.Fetcher.tagged`."""
        try:
            return (await self._upstreams.manifest(repository, tag),)
        except UpstreamAbsent:
            return ()

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

    async def lookaside(
        self, repository: Repository, digest: Digest, place: Lookaside, limit: int
    ) -> AsyncGenerator[bytes | UpstreamOversized]:
        """See :meth:`proxy.verify.model.Fetcher.lookaside`."""
        async with aclosing(self._upstreams.lookaside(repository, digest, place, limit)) as signatures:
            async for signature in signatures:
                yield signature


class StoredEvidence:
    """Evidence as it was stored at acceptance, the oldest first; what is not stored is simply not there.

    What the upstream has overwritten since is still evidence: a signature does not end because another one took its place. At
    most ``limits.referrers`` manifests of a kind are read, of ``limits.evidence_total`` bytes together: what was stored later
    cannot drown what was stored first.
    """

    def __init__(
        self, catalog: Catalog, blobs: BlobStore, bounds: Bounds, limits: Limits, only: Collection[Digest] | None = None
    ) -> None:
        """``only``: the one evidence that counts, by its manifests; None: all."""
        self._only = only
        self._catalog = catalog
        self._blobs = blobs
        self._bounds = bounds
        self._limits = limits
        self._reader = Reader()

    async def tagged(self, repository: Repository, tag: str) -> Sequence[FetchedManifest]:
        """All stored evidence of the shape that ``tag`` names (``.sig``: simple signing, ``.att``: DSSE)."""
        stored = await self._under(repository, tag, await self._recorded(repository, tag))
        return [fetched for fetched, _ in stored]

    async def newest(self, repository: Repository, tag: str) -> FetchedManifest | None:
        """The last of these, which is what the tag named when it was last seen; None where there is none."""
        for descriptor in reversed(await self._recorded(repository, tag)):
            for fetched, _ in await self._under(repository, tag, [descriptor]):
                return fetched
        return None

    async def _recorded(self, repository: Repository, tag: str) -> list[Descriptor]:
        subject = evidence_tag(tag)
        return [] if subject is None else await self._catalog.evidence(repository, subject)

    async def _under(
        self, repository: Repository, tag: str, recorded: Sequence[Descriptor]
    ) -> list[tuple[FetchedManifest, Manifest]]:
        wanted = {".sig": "application/vnd.dev.cosign.simplesigning.", ".att": "application/vnd.dsse.envelope."}.get(tag[-4:])
        if wanted is None:
            return []

        def fits(manifest: Manifest) -> bool:
            first = manifest.layers[0].descriptor.media_type if manifest.layers else ""
            return manifest.subject is None and first.startswith(wanted)

        return await self._read(recorded, fits)

    async def _read(
        self, recorded: Sequence[Descriptor], fits: Callable[[Manifest], bool]
    ) -> list[tuple[FetchedManifest, Manifest]]:
        """Those that fit, within the bounds; one more than may be looked at, so that it can be told."""
        found: list[tuple[FetchedManifest, Manifest]] = []
        left = self._limits.evidence_total
        for descriptor in recorded:
            if self._only is not None and descriptor.digest not in self._only:
                continue
            body = await self._blobs.read(descriptor.digest, min(left, self._bounds.manifest_size))
            if body is None:
                continue
            fetched = FetchedManifest(body, descriptor.digest, descriptor.media_type)
            try:
                manifest = await self._reader.read(fetched, self._bounds)
            except ManifestRefused:
                continue  # bounds were tightened since it was stored: it no longer counts as evidence
            if fits(manifest):
                found.append((fetched, manifest))
                left -= len(body)
            if len(found) > self._limits.referrers:
                break
        return found

    async def manifest(self, repository: Repository, digest: Digest) -> FetchedManifest | None:
        """See :meth:`proxy.verify.model.Fetcher.manifest`."""
        descriptor = await self._catalog.manifest(repository, digest)
        body = None if descriptor is None else await self._blobs.read(digest, self._bounds.manifest_size)
        return None if descriptor is None or body is None else FetchedManifest(body, digest, descriptor.media_type)

    async def referrers(self, repository: Repository, subject: Digest) -> Referrers:
        """The stored evidence that names ``subject`` as its subject."""
        recorded = await self._catalog.evidence(repository, subject)
        stored = await self._read(recorded, lambda manifest: manifest.subject is not None)
        entries = tuple(
            ListedReferrer(
                Descriptor(fetched.media_type, fetched.digest, len(fetched.body)),
                manifest.artifact_type or (manifest.config.media_type if manifest.config is not None else None),
                tuple(manifest.annotations.items()),
            )
            for fetched, manifest in stored
        )
        return Referrers(ReferrersSource.API if entries else ReferrersSource.NONE, entries)

    async def blob(self, repository: Repository, descriptor: Descriptor, limit: int) -> bytes | None:
        """See :meth:`proxy.verify.model.Fetcher.blob`."""
        return await self._blobs.read(descriptor.digest, limit)

    async def lookaside(
        self, repository: Repository, digest: Digest, place: Lookaside, limit: int
    ) -> AsyncGenerator[bytes | UpstreamOversized]:
        """The stored signatures, from whichever lookaside they came: it is they that are judged, not where they were."""
        del place
        for _, manifest in await self._read(await self._catalog.evidence(repository, digest), is_wrapped):
            body = await self._blobs.read(manifest.layers[0].descriptor.digest, limit)
            if body is not None:
                yield body

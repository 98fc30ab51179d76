"""Where verification gets its bytes: from the upstream, or from what was stored when the image was accepted.

Both satisfy :class:`proxy.verify.model.Fetcher`. Stored evidence lets a verdict be reached again (a rule changed, a key was
replaced) while the upstream is gone, or after a signature was removed there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing

import structlog

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

#: How the layers of what stands under cosign's tags begin.
_SHAPES: Mapping[str, str] = {".sig": "application/vnd.dev.cosign.simplesigning.", ".att": "application/vnd.dsse.envelope."}
_log = structlog.get_logger(__name__)


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
    most ``limits.referrers`` manifests are read each time, of ``limits.evidence_total`` bytes together, in the order in which
    they were recorded. What an acceptance leant on is recorded with it; further evidence is recorded only of what is accepted:
    so what was stored later cannot drown what was stored first.
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
        return [fetched async for fetched in self._under(repository, tag)]

    async def newest(self, repository: Repository, tag: str) -> FetchedManifest | None:
        """The last of these, which is what the tag named when it was last seen; None where there is none."""
        async with aclosing(self._under(repository, tag, backwards=True)) as stored:
            return await anext(stored, None)

    async def _under(self, repository: Repository, tag: str, *, backwards: bool = False) -> AsyncGenerator[FetchedManifest, None]:
        subject, wanted = evidence_tag(tag), _SHAPES.get(tag[-4:])
        if subject is None or wanted is None:
            return

        def fits(manifest: Manifest) -> bool:
            first = manifest.layers[0].descriptor.media_type if manifest.layers else ""
            return manifest.subject is None and first.startswith(wanted)

        recorded = await self._catalog.evidence(repository, subject)
        async with aclosing(self._read(subject, recorded[::-1] if backwards else recorded, fits)) as stored:
            async for fetched, _ in stored:
                yield fetched

    async def _read(
        self, subject: Digest, recorded: Sequence[Descriptor], fits: Callable[[Manifest], bool]
    ) -> AsyncGenerator[tuple[FetchedManifest, Manifest], None]:
        """Those that fit, in the order given. What has to be read to see that it does not fit counts for the bounds as well."""
        left = self._limits.evidence_total
        chosen = [each for each in recorded if self._only is None or each.digest in self._only]
        for number, descriptor in enumerate(chosen):
            # One more than may be looked at, so that it can be told where all of them fit.
            if number > self._limits.referrers or descriptor.size > left:
                _log.warning("evidence.unread", subject=str(subject), kept=len(chosen), read=number)
                return
            left -= descriptor.size
            body = await self._blobs.read(descriptor.digest, self._bounds.manifest_size)
            if body is None:
                continue
            fetched = FetchedManifest(body, descriptor.digest, descriptor.media_type)
            try:
                manifest = await self._reader.read(fetched, self._bounds)
            except ManifestRefused:
                continue  # bounds were tightened since it was stored: it no longer counts as evidence
            if fits(manifest):
                yield fetched, manifest

    async def manifest(self, repository: Repository, digest: Digest) -> FetchedManifest | None:
        """See :meth:`proxy.verify.model.Fetcher.manifest`."""
        descriptor = await self._catalog.manifest(repository, digest)
        body = None if descriptor is None else await self._blobs.read(digest, self._bounds.manifest_size)
        return None if descriptor is None or body is None else FetchedManifest(body, digest, descriptor.media_type)

    async def referrers(self, repository: Repository, subject: Digest) -> Referrers:
        """The stored evidence that names ``subject`` as its subject."""
        recorded = await self._catalog.evidence(repository, subject)
        stored = [each async for each in self._read(subject, recorded, lambda manifest: manifest.subject is not None)]
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
        recorded = await self._catalog.evidence(repository, digest)
        async with aclosing(self._read(digest, recorded, is_wrapped)) as stored:
            async for _, manifest in stored:
                body = await self._blobs.read(manifest.layers[0].descriptor.digest, limit)
                if body is not None:
                    yield body

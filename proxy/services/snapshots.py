"""Snapshots: what two digests of one repository stand for, read as far as it takes to compare them.

What is stored is taken from the store, the rest is fetched, by digest and checked against it. Nothing is kept, recorded or
served: whoever asks the gate for these bytes is answered as if nobody had looked at them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from proxy.content import FetchedManifest
from proxy.errors import ConfigMalformed, ManifestRefused, UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved
from proxy.manifest import Manifest
from proxy.policy.changes import (
    CONFIG_TYPES,
    MAX_CONFIG,
    Child,
    Config,
    Image,
    Pair,
    Provenance,
    Snapshot,
    canonical,
    child_platform,
    pairs,
    read_config,
)
from proxy.policy.rules import Never, Rule
from proxy.policy.signers import signer_line
from proxy.policy.verdicts import Evidence
from proxy.services.holdings import Holdings
from proxy.services.revision import Revision
from proxy.verify.asking import all_of
from proxy.verify.model import Fetcher, Subject
from storage.blobs import BlobStore
from storage.catalog import Catalog
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository

#: Platforms that are compared; those first that somebody has pulled.
PLATFORMS = 16
#: Bytes of manifests and configs that are read for one comparison.
BYTES = 32 << 20
_AT_A_TIME = 4
#: Configs up to this size are read on the loop: a thread would take longer to start than the reading takes.
_INLINE = 16 << 10
#: How BuildKit marks what it puts beside the images of an index.
_ROLE, _ATTESTATION = "vnd.docker.reference.type", "attestation-manifest"
_NOWHERE = "unknown/unknown"

_T = TypeVar("_T")


class _Pending(Exception):
    """It could not be had now; ``str(error)`` says why."""


class _Gone(_Pending):
    """The upstream says that it does not have it. It may yet come: tags are read while somebody pushes."""


@dataclass(slots=True)
class _Comparison:
    """One comparison under way: what it is about, what it may still read, what could not be had yet."""

    repository: Repository
    rule: Rule
    revision: Revision
    now: datetime
    left: int = BYTES
    unknown: dict[str, None] = field(default_factory=dict)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_A_TIME))

    def take(self, size: int) -> bool:
        """Whether so many more bytes may be read; if so they are counted."""
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(frozen=True, slots=True)
class _Top:
    """What a digest stands for, before anything below it was read."""

    fetched: FetchedManifest | None
    manifest: Manifest | None
    snapshot: Snapshot


class Snapshots:
    """Reads images for comparison. ``holdings`` must not record."""

    def __init__(self, catalog: Catalog, holdings: Holdings, blobs: BlobStore) -> None:
        self._catalog = catalog
        self._holdings = holdings
        self._blobs = blobs
        self._reading = asyncio.Lock()

    async def of(
        self, revision: Revision, repository: Repository, before: Digest, after: Digest, now: datetime
    ) -> tuple[Snapshot | None, Snapshot | None, tuple[str, ...]]:
        """Both sides, as far as they could be had, and what could not be had yet. A side is None where nothing of it could.

        Raises only StorageError.
        """
        comparison = _Comparison(repository, revision.rule(repository), revision, now)
        one, other = await all_of([self._top(comparison, digest) for digest in (before, after)])
        if one is None or other is None:
            return None if one is None else one.snapshot, None if other is None else other.snapshot, tuple(comparison.unknown)
        read = await self._read(comparison, pairs(one.snapshot.children, other.snapshot.children))
        sides = await all_of([self._vouched(comparison, top, read) for top in (one, other)])
        return sides[0], sides[1], tuple(comparison.unknown)

    async def image(
        self, revision: Revision, repository: Repository, digest: Digest, now: datetime
    ) -> tuple[Image | None, tuple[str, ...]]:
        """One image manifest with its config; None where it is none, or cannot be had: why. Raises only StorageError."""
        comparison = _Comparison(repository, revision.rule(repository), revision, now)
        top = await self._top(comparison, digest)
        if top is None:
            return None, tuple(comparison.unknown)
        (child, *more) = top.snapshot.children or (Child("", digest, 0),)
        return None if more else child.image, (child.trouble,) if child.trouble else ()

    # -- manifests ------------------------------------------------------------------------------------------------------

    async def _top(self, comparison: _Comparison, digest: Digest) -> _Top | None:
        try:
            fetched = await self._manifest(comparison, digest)
        except _Pending as error:
            comparison.unknown[str(error)] = None
            return None
        try:
            manifest = await self._holdings.parse(fetched)
        except ManifestRefused as error:
            refused = Child("", digest, len(fetched.body), trouble=f"its manifest is refused: {error}")
            return _Top(fetched, None, Snapshot(digest, fetched.media_type, {}, (refused,)))
        comparison.take(len(fetched.body))
        beside: tuple[Digest, ...] = ()
        if manifest.is_index:
            listed = [
                (entry.platform == _NOWHERE and entry.annotations.get(_ROLE) == _ATTESTATION, entry)
                for entry in manifest.manifests
            ]
            children = tuple(
                Child(canonical(entry.platform), entry.descriptor.digest, entry.descriptor.size)
                for evidence, entry in listed
                if not evidence
            )
            beside = tuple(entry.descriptor.digest for evidence, entry in listed if evidence)
        else:
            image = await self._image(comparison, manifest)
            children = (Child(child_platform(image), digest, len(fetched.body), image),)
        return _Top(fetched, manifest, Snapshot(digest, manifest.media_type, manifest.annotations, children, beside))

    async def _read(self, comparison: _Comparison, found: Sequence[Pair]) -> dict[Digest, Child]:
        """The children of both sides that have to be compared, read, by their digests."""
        differing = [pair for pair in found if not pair.same]
        if len(differing) > PLATFORMS:
            pulled = [pair.before is not None and await self._pulled(comparison, pair.before) for pair in differing]
            differing = [pair for _, pair in sorted(zip(pulled, differing, strict=True), key=lambda each: not each[0])]
        children = [child for pair in differing[:PLATFORMS] for child in (pair.before, pair.after) if child is not None]
        unread = {child.digest: child for child in children if child.image is None and not child.trouble}
        return {child.digest: child for child in await all_of([self._child(comparison, each) for each in unread.values()])}

    async def _pulled(self, comparison: _Comparison, child: Child) -> bool:
        return await self._catalog.manifest(comparison.repository, child.digest) is not None

    async def _child(self, comparison: _Comparison, child: Child) -> Child:
        """The same with its image."""
        if not comparison.take(child.size):
            return child
        try:
            fetched = await self._manifest(comparison, child.digest)
        except _Pending as error:
            comparison.unknown[str(error)] = None
            gone = "its manifest does not exist upstream" if isinstance(error, _Gone) else ""
            return replace(child, trouble=gone, pending=True)
        if len(fetched.body) != child.size:
            return replace(child, trouble=f"its manifest has {len(fetched.body)} bytes, its index says {child.size}")
        try:
            manifest = await self._holdings.parse(fetched)
        except ManifestRefused as error:
            return replace(child, trouble=f"its manifest is refused: {error}")
        if manifest.is_index:
            return replace(child, trouble="its manifest is an index within the index, whose images are not compared")
        return replace(child, image=await self._image(comparison, manifest))

    async def _manifest(self, comparison: _Comparison, digest: Digest) -> FetchedManifest:
        name = f"{comparison.repository}@{digest}"
        stored = await self._holdings.stored.manifest(comparison.repository, digest)
        if stored is not None:
            return stored
        return await self._asked(comparison, name, lambda: self._holdings.fetch(comparison.repository, digest))

    # -- configs --------------------------------------------------------------------------------------------------------

    async def _image(self, comparison: _Comparison, manifest: Manifest) -> Image:
        config = manifest.config
        assert config is not None  # every image manifest has one
        layers = tuple(layer.descriptor for layer in manifest.layers)
        image = Image(config, layers, manifest.annotations, manifest.artifact_type or "")
        if config.media_type not in CONFIG_TYPES:
            return image
        if config.size > MAX_CONFIG or not comparison.take(config.size):
            return replace(image, trouble=f"its config has {config.size} bytes, more than are read")
        try:
            return replace(image, read=await self._config(await self._bytes(comparison, config)))
        except ConfigMalformed as error:
            return replace(image, trouble=f"its config {error}")
        except _Pending as error:
            comparison.unknown[str(error)] = None
            gone = "its config does not exist upstream" if isinstance(error, _Gone) else ""
            return replace(image, trouble=gone, pending=True)

    async def _bytes(self, comparison: _Comparison, config: Descriptor) -> bytes:
        stored = await self._blobs.read(config.digest, MAX_CONFIG)
        if stored is not None and len(stored) == config.size:
            return stored
        name = f"the config {config.digest} of {comparison.repository}"
        repository, online = comparison.repository, self._holdings.online
        body = await self._asked(comparison, name, lambda: online.blob(repository, config, MAX_CONFIG))
        if body is None:
            raise _Gone(f"{name} does not exist upstream")
        return body

    async def _config(self, body: bytes) -> Config:
        if len(body) <= _INLINE:
            return read_config(body)
        async with self._reading:  # what is long is read one at a time: it swells
            return await asyncio.to_thread(read_config, body)

    async def _asked(self, comparison: _Comparison, name: str, question: Callable[[], Awaitable[_T]]) -> _T:
        """The upstream's answer. Raises :class:`_Pending`: what it does not give now, it may give later."""
        if isinstance(comparison.rule.require, Never):
            raise _Pending(f"{name} is not stored, and its upstream is not asked: {comparison.rule} allows nothing here")
        try:
            async with comparison.slots:
                return await question()
        except UpstreamAbsent:
            raise _Gone(f"{name} does not exist upstream") from None
        except (UpstreamDenied, UpstreamMisbehaved) as error:
            raise _Pending(f"{name} is not to be had: {error}") from error
        except UpstreamError as error:
            raise _Pending(f"{name} cannot be asked for now: {error}") from error

    # -- who vouches ----------------------------------------------------------------------------------------------------

    async def _vouched(self, comparison: _Comparison, top: _Top, read: dict[Digest, Child]) -> Snapshot:
        """The snapshot with what was read below it, and who vouches for it by the rule."""
        children = tuple(read.get(child.digest, child) if child.image is None else child for child in top.snapshot.children)
        # What one side gives a platform's name, the other may call something else.
        named = zip(children, top.snapshot.children, strict=True)
        snapshot = replace(top.snapshot, children=tuple(replace(child, platform=was.platform) for child, was in named))
        if top.fetched is None or top.manifest is None:
            return snapshot
        found = await self._evidence(comparison, top.fetched, top.manifest)
        if found is None:
            return snapshot
        accepted = [piece for piece in found if piece.accepted]
        provenance: list[Provenance] = [piece.provenance for piece in accepted if piece.provenance is not None]
        vouching = ((piece.about, piece.authority) for piece in accepted)
        lines = {signer_line(about, who) for about, who in vouching if about is not None and who is not None}
        return replace(snapshot, signers=tuple(sorted(lines)), provenance=tuple(sorted(set(provenance))))

    async def _evidence(
        self, comparison: _Comparison, fetched: FetchedManifest, manifest: Manifest
    ) -> tuple[Evidence, ...] | None:
        """What was found about an image, upstream and in the store; None where nobody can tell now."""
        if isinstance(comparison.rule.require, Never):
            return None
        listed = manifest.manifests if manifest.is_index else None
        subject = Subject(comparison.repository, fetched.digest, fetched.body, manifest.media_type, listed)
        pipeline, stored, online = comparison.revision.pipeline, self._holdings.stored, self._holdings.online

        async def survey(fetcher: Fetcher) -> tuple[tuple[Evidence, ...], tuple[str, ...]]:
            evidence, harvest = await pipeline.survey(fetcher, subject, comparison.rule, comparison.now)
            undecided = [piece.reason for piece in evidence if piece.undecided]
            return evidence, (*harvest.unavailable, *undecided)

        (kept, _), (now, unavailable) = await all_of([survey(stored), survey(online)])
        if unavailable and not any(piece.accepted for piece in kept):
            reasons = "; ".join(dict.fromkeys(unavailable))
            comparison.unknown[f"who signed {comparison.repository}@{fetched.digest} cannot be told now: {reasons[:500]}"] = None
            return None
        return (*kept, *now)

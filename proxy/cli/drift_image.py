"""What ``tagstone drift`` compares with: an approved image, and the file list of its verified layers."""

from __future__ import annotations

import asyncio
import os
import platform as machine
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, TypeVar

from proxy.cli import common
from proxy.drift.disk import Disk
from proxy.drift.layers import CONFIGS, MAX_CONFIG, LayerBlob, choose, host_platform, layer_blobs, links_followed, read_layer
from proxy.drift.model import Bounds
from proxy.drift.sbom import listed
from proxy.drift.tree import FileList, Image, Layer, Node
from proxy.drift.unpacking import Budget
from proxy.errors import EvidenceMalformed, LayerRefused, ManifestRefused, Unexaminable, UpstreamError
from proxy.manifest import Manifest, parse
from storage.digest import Digest
from storage.records import Descriptor, PinState
from storage.reference import Reference, Repository

if TYPE_CHECKING:
    from proxy.cli.common import House
    from proxy.configuration import Configuration
    from proxy.services.ingest import Ingest

_T = TypeVar("_T")
#: Indexes within indexes.
_MAX_DEPTH = 4
#: Which image of an index another one of its entries speaks about.
_ABOUT = "vnd.docker.reference.digest"
#: Seconds that a fetch under way is given when the command ends early.
_DRAIN = 0.0


@dataclass(frozen=True, slots=True)
class Approved:
    """An image that this data directory vouches for. ``manifest`` is that of the platform, ``digest`` what was approved."""

    reference: Reference
    digest: Digest
    platform: str
    manifest: Digest
    layers: tuple[LayerBlob, ...]
    warnings: tuple[str, ...]
    attestations: tuple[Digest, ...] = ()  #: manifests in its own index that speak about it, as BuildKit makes them

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        return {
            "name": str(self.reference),
            "digest": str(self.digest),
            "platform": self.platform,
            "manifest": str(self.manifest),
            "layers": [str(layer.descriptor.digest) for layer in self.layers],
        }


@dataclass(frozen=True, slots=True)
class _Chosen:
    digest: Digest
    manifest: Manifest
    platform: str
    attestations: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Images:
    """Where approved images come from."""

    house: House
    configuration: Configuration
    ingest: Ingest | None  #: None: what is not stored is not fetched

    async def approved(self, reference: Reference, platform: str | None) -> Approved:
        """The image that a name stands for here. Raises :class:`Unexaminable`, LayerRefused, StorageError."""
        repository = reference.repository
        wanted = platform or host_platform(machine.machine())
        try:
            digest, warnings = await self._digest(reference)
            chosen = await self._chosen(repository, digest, wanted)
            config = None
            described = chosen.manifest.config
            if described is not None and described.media_type in CONFIGS:
                config = await self._config(repository, described)
        except (UpstreamError, ManifestRefused) as error:
            raise Unexaminable(f"the image {reference} cannot be had: {error}") from error
        layers = layer_blobs([entry.descriptor for entry in chosen.manifest.layers], config)
        return Approved(reference, digest, chosen.platform, chosen.digest, layers, warnings, chosen.attestations)

    async def file_list(self, approved: Approved, disk: Disk | None, progress: Callable[[int, int], None]) -> FileList:
        """What its layers give. ``disk``: where they were unpacked to, which tells how. ``progress``: how many are read, of all.

        Raises :class:`Unexaminable`, LayerRefused, StorageError.
        """
        files = await self._assemble(approved, progress, follow=False)
        if disk is not None and files.crossings and links_followed(disk, files.crossings):
            files = await self._assemble(approved, progress, follow=True)
        return files

    async def sboms(self, approved: Approved) -> tuple[Mapping[bytes, str], tuple[str, ...]]:
        """What SBOMs about an image list: SHA-256 → the digest of the attestation; and what could not be read, in words.

        These are the attestations that were stored with it, and those that its own index names.
        """
        repository, limits = approved.reference.repository, self.configuration.settings.limits
        subjects = tuple(dict.fromkeys((approved.digest, approved.manifest)))
        evidence = [each.digest for subject in subjects for each in await self.house.catalog.evidence(repository, subject)]
        found: dict[bytes, str] = {}
        troubles: list[str] = []
        left = limits.evidence_total
        for digest in dict.fromkeys((*approved.attestations, *evidence[: limits.referrers])):
            try:
                held = await self.house.admission.holdings.hold(repository, digest)
                manifest = await asyncio.to_thread(parse, held.body, held.descriptor.media_type, limits.bounds())
                for layer in (entry.descriptor for entry in manifest.layers):
                    left -= layer.size
                    if layer.size > limits.attestation_size or left < 0:
                        troubles.append(f"the attestation {digest} is too large to be read")
                        continue
                    async with self._blob(repository, layer) as fd:
                        body = await asyncio.to_thread(_whole, fd, layer)
                    hashes = await asyncio.to_thread(listed, body, subjects)
                    found |= dict.fromkeys(hashes, str(digest))
            except (UpstreamError, ManifestRefused, EvidenceMalformed, Unexaminable) as error:
                troubles.append(f"the attestation {digest} is not heeded: {error}")
        return found, tuple(troubles)

    async def _digest(self, reference: Reference) -> tuple[Digest, tuple[str, ...]]:
        house, repository = self.house, reference.repository
        rule = house.revision.rule(repository)
        if reference.digest is not None:
            verdict = await house.admission.of_digest(house.revision, rule, repository, reference.digest)
            if not verdict.accepted:
                raise Unexaminable(f"{reference} is not admitted here: {'; '.join(verdict.reasons)}")
            return reference.digest, ()
        tag = reference.tag or "latest"
        pin = await house.pins.get(repository, tag)
        if pin is None:
            told = "nothing says what it should be. Pull it through Tagstone, or name an admitted digest"
            raise Unexaminable(f"{reference} is not pinned in this data directory: {told}")
        verdict = await house.admission.of_pin(house.revision, rule, repository, pin.digest)
        warnings = [] if verdict.accepted else [f"the pinned digest would not be served now: {each}" for each in verdict.reasons]
        if pin.state is not PinState.PINNED:
            warnings.append(f"the pin is {pin.state.value}; what is compared with is what it holds")
        return pin.digest, tuple(warnings)

    async def _chosen(self, repository: Repository, digest: Digest, wanted: str) -> _Chosen:
        found = wanted
        attestations: tuple[Digest, ...] = ()
        for _ in range(_MAX_DEPTH):
            held = await self.house.admission.holdings.hold(repository, digest)
            bounds = self.configuration.settings.limits.bounds()
            manifest = await asyncio.to_thread(parse, held.body, held.descriptor.media_type, bounds)
            if not manifest.is_index:
                return _Chosen(digest, manifest, found, attestations)
            platforms = [entry.platform for entry in manifest.manifests]
            place = choose(platforms, wanted)
            if place is None:
                there = ", ".join(sorted({each for each in platforms if each and not each.startswith("unknown")})) or "none"
                raise Unexaminable(f"{repository}@{digest} has no image for {wanted} (--platform); it has: {there}")
            digest, found = manifest.manifests[place].descriptor.digest, platforms[place]
            attestations = tuple(
                entry.descriptor.digest for entry in manifest.manifests if entry.annotations.get(_ABOUT) == str(digest)
            )
        raise Unexaminable(f"{repository}@{digest}: indexes within indexes within indexes")

    async def _config(self, repository: Repository, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_CONFIG:
            raise LayerRefused(f"the image's config has {descriptor.size} bytes; the limit is {MAX_CONFIG}")
        async with self._blob(repository, descriptor) as fd:
            return await asyncio.to_thread(_whole, fd, descriptor)

    @asynccontextmanager
    async def _blob(self, repository: Repository, descriptor: Descriptor) -> AsyncIterator[int]:
        """A descriptor of the whole blob's file: stored, or fetched and stored by the one ingest. Raises UpstreamError."""
        if self.ingest is None:
            stored = await self.house.blobs.open(descriptor.digest)
            if stored is None:
                told = "is not stored, and this data directory cannot be written to, so it is not fetched"
                raise Unexaminable(f"{descriptor.digest} {told}")
            try:
                yield stored.fileno()
            finally:
                stored.close()
            return
        async with await self.ingest.open(repository, descriptor) as source:
            offset = 0
            while offset < source.size:
                offset = await source.available(offset)
            await source.ready()
            yield source.fileno()

    async def _assemble(self, approved: Approved, progress: Callable[[int, int], None], *, follow: bool) -> FileList:
        """Read the layers: side by side, or one by one where each needs what is below it."""
        budget, image = Budget(Bounds()), Image()
        done = 0
        progress(0, len(approved.layers))

        async def one(blob: LayerBlob, lower: Node | None) -> Layer:
            nonlocal done
            layer = await self._layer(approved.reference.repository, blob, budget, lower)
            done += 1
            progress(done, len(approved.layers))
            return layer

        if follow:
            for blob in approved.layers:
                image.lay(await one(blob, image.root))
        else:
            turns = asyncio.Semaphore(max(1, os.cpu_count() or 1))

            async def in_turn(blob: LayerBlob) -> Layer:
                async with turns:
                    return await one(blob, None)

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(in_turn(blob)) for blob in approved.layers]
            except BaseExceptionGroup as failed:
                raise _first_of(failed) from None
            for task in tasks:
                image.lay(task.result())
        return image.file_list()

    async def _layer(self, repository: Repository, blob: LayerBlob, budget: Budget, lower: Node | None) -> Layer:
        stopped = Flag()
        try:
            async with self._blob(repository, blob.descriptor) as fd:
                reader = _Reader(fd, blob.descriptor.size, stopped)
                return await in_thread(lambda: read_layer(blob, reader.read, budget, lower), stopped.set)
        except UpstreamError as error:
            raise Unexaminable(f"{blob} cannot be fetched: {error}") from error


def _whole(fd: int, descriptor: Descriptor) -> bytes:
    """A small blob, hashed again. Raises :class:`Unexaminable`."""
    body = os.pread(fd, descriptor.size, 0)
    if not descriptor.digest.matches(body):
        raise Unexaminable(f"{descriptor.digest} is damaged in the store")
    return body


class _Reader:
    """A blob's file, read from its beginning to its end."""

    def __init__(self, fd: int, size: int, stopped: Flag) -> None:
        self._fd = fd
        self._left = size
        self._offset = 0
        self._stopped = stopped

    def read(self, most: int) -> bytes:
        if self._stopped.is_set():
            raise Unexaminable("it was broken off")
        piece = os.pread(self._fd, min(most, self._left), self._offset)
        self._offset += len(piece)
        self._left -= len(piece)
        return piece


async def in_thread(work: Callable[[], _T], stop: Callable[[], None]) -> _T:
    """Run in a thread that is told to stop, and waited for, when the caller is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # what became of it is of no interest any more
        raise


@asynccontextmanager
async def images(configuration: Configuration, data_dir: Path | None) -> AsyncIterator[Images]:
    """Open the data directory: for reading and fetching where it can be written to, else for reading alone."""
    from proxy.app import DATABASE
    from proxy.services.ingest import Ingest

    root = data_dir or configuration.settings.data_dir
    writable = os.access(root / DATABASE, os.W_OK) and os.access(root, os.W_OK)
    async with common.house(configuration, data_dir, dry=not writable) as house, AsyncExitStack() as exits:
        ingest: Ingest | None = None
        if writable:
            ingest = Ingest(house.blobs, house.upstreams)
            await ingest.start()
            exits.push_async_callback(ingest.close, _DRAIN)
        yield Images(house, configuration, ingest)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that the first of several tasks ended with."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

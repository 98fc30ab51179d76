"""The files of two images, for ``tagstone pins diff --files``: from stored layers, else fetched into a folder that goes again."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from proxy.drift.between import FileChange, between
from proxy.drift.layers import LayerBlob, layer_blobs, read_layer
from proxy.drift.model import Bounds
from proxy.drift.tree import FileList, Image, Layer
from proxy.drift.unpacking import Budget
from proxy.errors import LayerRefused, UpstreamError
from proxy.policy.rules import Never
from storage.errors import DigestMismatch

if TYPE_CHECKING:
    from proxy.cli.common import House
    from proxy.policy.changes import PlatformChange
    from proxy.services.snapshots import Snapshots
    from storage.digest import Digest
    from storage.records import Descriptor
    from storage.reference import Repository

#: Packed bytes that are fetched at most, for both images together.
MOST = 2 << 30
_BOUNDS = Bounds(unpacked=32 << 30)
_WRITES = 4 << 20


class Unlisted(Exception):
    """The files cannot be listed; ``str(error)`` says why, in one line."""


@dataclass(slots=True)
class FileLists:
    """Reads the layers of images of one repository."""

    house: House
    snapshots: Snapshots
    repository: Repository
    left: int = field(default_factory=lambda: MOST)

    async def between(self, one: PlatformChange) -> list[FileChange]:
        """The files that differ for a platform. Raises :class:`Unlisted`, StorageError."""
        if one.before is None or one.after is None:
            raise Unlisted("only one of the images is for this platform")
        with tempfile.TemporaryDirectory(prefix="tagstone-") as folder:
            before, after = [await self._files(digest, Path(folder)) for digest in (one.before, one.after)]
            return await asyncio.to_thread(lambda: list(between(before, after)))

    async def _files(self, digest: Digest, folder: Path) -> FileList:
        image, unknown = await self.snapshots.image(self.house.revision, self.repository, digest, datetime.now(UTC))
        if image is None:
            raise Unlisted("; ".join(unknown) or f"{digest} is no image")
        budget, whole = Budget(_BOUNDS), Image()
        try:
            for blob in layer_blobs(image.layers, None):
                async with self._blob(blob.descriptor, folder) as fd:
                    layer = await _in_thread(blob, fd, budget)
                whole.lay(layer)
        except (LayerRefused, DigestMismatch) as error:
            raise Unlisted(f"the layers of {digest} cannot be read: {error}") from error
        return whole.file_list()

    @asynccontextmanager
    async def _blob(self, layer: Descriptor, folder: Path) -> AsyncIterator[int]:
        """A descriptor of a file with the layer's bytes, which are checked as they are read."""
        stored = await self.house.blobs.open(layer.digest)
        if stored is not None:
            try:
                yield stored.fileno()
            finally:
                stored.close()
            return
        file = folder / layer.digest.hex
        if not file.exists():
            await self._fetch(layer, file)
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    async def _fetch(self, layer: Descriptor, file: Path) -> None:
        rule = self.house.revision.rule(self.repository)
        if isinstance(rule.require, Never):
            raise Unlisted(f"{layer.digest} is not stored, and its upstream is not asked: {rule} allows nothing here")
        if layer.size > self.left:
            raise Unlisted(f"{layer.digest} has {layer.size} bytes; at most {MOST} are fetched in all")
        self.left -= layer.size
        part = file.with_suffix(".part")
        try:
            with part.open("wb") as out:
                async with self.house.upstreams.blob(self.repository, layer) as stream:
                    pieces: list[bytes] = []
                    async for piece in stream.chunks():
                        pieces.append(piece)
                        if sum(map(len, pieces)) >= _WRITES:
                            await asyncio.to_thread(out.writelines, pieces)
                            pieces = []
                    await asyncio.to_thread(out.writelines, pieces)
        except UpstreamError as error:
            raise Unlisted(f"{layer.digest} cannot be fetched: {error}") from error
        part.rename(file)


async def _in_thread(blob: LayerBlob, fd: int, budget: Budget) -> Layer:
    """Read a layer in a thread, which is told to stop, and waited for, when nobody wants it any more."""
    stopped, offset = Event(), 0

    def read(most: int) -> bytes:
        nonlocal offset
        if stopped.is_set():
            raise LayerRefused("it was broken off")
        piece = os.pread(fd, most, offset)
        offset += len(piece)
        return piece

    task = asyncio.ensure_future(asyncio.to_thread(read_layer, blob, read, budget))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.gather(task, return_exceptions=True)
        raise


def chosen(changed: Sequence[PlatformChange]) -> PlatformChange | None:
    """The platform whose files are compared where nobody says: the only one, else this machine's; None: that has to be said."""
    import platform

    from proxy.drift.layers import host_platform
    from proxy.policy.changes import canonical

    both = [each for each in changed if each.before is not None and each.after is not None]
    if len(both) == 1:
        return both[0]
    here = canonical(host_platform(platform.machine()))
    return next((each for each in both if each.platform == here), None)

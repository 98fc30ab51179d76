"""What the tests of ingest share: an ingest over a real store and an upstream in memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from proxy.services.ingest import Ingest, Source
from storage.files import Files
from storage.filesystem import FilesystemBlobStore
from storage.records import Descriptor
from storage.reference import Repository
from tests.simulator.origin import Origin
from tests.tools import PATIENCE

REPOSITORY = Repository.of("one.example", "acme/app")
OTHER = Repository.of("two.example", "acme/app")
HOLDBACK = 4096
PIECE = 16384
#: Larger than the hold-back, not a multiple of anything.
DATA = os.urandom(100_003)


class Bench:
    """One process: store, ingest, upstream. Several benches may share a folder."""

    def __init__(self, root: Path, origin: Origin, *, files: Files | None = None, **pace: Any) -> None:
        self.root = root
        self.origin = origin
        self.store = FilesystemBlobStore(root, files=files)
        self.told: list[tuple[Repository, Descriptor, str]] = []
        settings = {"holdback": HOLDBACK, "piece": PIECE, "backoff": 0.001, "poll": 0.002, **pace}
        self.ingest = Ingest(self.store, origin, on_tampered=self._tampered, **settings)

    async def _tampered(self, repository: Repository, descriptor: Descriptor, reason: str) -> None:
        self.told.append((repository, descriptor, reason))

    async def pull(self, descriptor: Descriptor, repository: Repository = REPOSITORY) -> bytes:
        """What a client gets."""
        async with await self.ingest.open(repository, descriptor) as source:
            return await drain(source)

    async def joined(self, descriptor: Descriptor, readers: int) -> None:
        """Wait until so many clients share the fetch."""
        arrivals = self.ingest._arrivals
        key = (descriptor.digest, descriptor.size)
        await until(lambda: key in arrivals and arrivals[key]._readers == readers)

    def spools(self) -> list[str]:
        """Names in the spool folder."""
        folder = self.root / "spool"
        return os.listdir(folder) if folder.exists() else []

    async def close(self) -> None:
        """End it without waiting."""
        await self.ingest.close(0)
        await self.store.close()


MakeBench: TypeAlias = Callable[..., Awaitable[Bench]]


async def drain(source: Source) -> bytes:
    """Read a source as the web layer does: as soon as something may be sent, no further than that."""
    await source.ready()
    data = b""
    while len(data) < source.size:
        limit = await source.available(len(data))
        assert len(data) < limit <= source.size
        data += os.pread(source.fileno(), limit - len(data), len(data))
        assert len(data) == limit, "less was in the file than was said to be available"
    assert await source.available(len(data)) == source.size
    return data


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Return when ``condition()`` holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.002)

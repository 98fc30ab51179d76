"""An upstream's blobs without the network: :class:`proxy.services.download.BlobOpener`, honest until it is told otherwise."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.errors import UpstreamAbsent, UpstreamError, UpstreamUnavailable
from storage.digest import Digest
from storage.records import Descriptor
from storage.reference import Repository

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(slots=True)
class Behaviour:
    """How one request is answered. Positions are counted in bytes of this answer's body."""

    refuse: UpstreamError | None = None  #: instead of an answer
    break_at: int | None = None  #: the connection breaks
    end_at: int | None = None  #: the body ends as if it were whole
    flip_at: int | None = None  #: this byte is altered
    extra: int = 0  #: bytes that follow the blob
    whole: bool = False  #: a Range is ignored: the answer begins at 0
    ahead: int = 0  #: the answer begins this much after what was asked for
    hold_at: int | None = None  #: the body waits here until ``release`` is set
    opening: bool = False  #: the answer itself waits until ``release`` is set
    release: asyncio.Event | None = None


class Origin:
    """Serves what :meth:`add` gave it, in chunks of ``chunk`` bytes, and remembers who asked for what."""

    def __init__(self, chunk: int = 16 << 10) -> None:
        self.chunk = chunk
        self.requests: list[tuple[Repository, Digest, int]] = []  #: repository, digest, offset
        self.sent = 0  #: bytes handed to whoever reads
        self.open = 0  #: answers being read now
        self.most_open = 0
        self._blobs: dict[tuple[Repository, Digest], bytes] = {}
        self._scripts: dict[Repository, deque[Behaviour]] = {}

    def add(self, repository: Repository, data: bytes, algorithm: str = "sha256") -> Descriptor:
        """Have ``data`` in ``repository``; its descriptor."""
        digest = Digest.of(data, algorithm)
        self._blobs[repository, digest] = data
        return Descriptor(LAYER, digest, len(data))

    def script(self, repository: Repository, *behaviours: Behaviour) -> None:
        """Answer the next requests to ``repository`` like this, one after the other; then honestly again."""
        self._scripts.setdefault(repository, deque()).extend(behaviours)

    def fetches(self, digest: Digest) -> int:
        """How often this blob was asked for."""
        return sum(1 for _, asked, _ in self.requests if asked == digest)

    @asynccontextmanager
    async def blob(self, repository: Repository, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[_Answer]:
        """Answer a request for a blob."""
        self.requests.append((repository, descriptor.digest, offset))
        script = self._scripts.get(repository)
        how = script.popleft() if script else Behaviour()
        if how.opening and how.release is not None:
            await how.release.wait()
        if how.refuse is not None:
            raise how.refuse
        data = self._blobs.get((repository, descriptor.digest))
        if data is None:
            raise UpstreamAbsent(f"{repository} has no {descriptor.digest}")
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            yield _Answer(self, data, 0 if how.whole else offset + how.ahead, how)
        finally:
            self.open -= 1


class _Answer:
    def __init__(self, origin: Origin, data: bytes, offset: int, how: Behaviour) -> None:
        self.offset = offset
        self._origin = origin
        self._data = data
        self._how = how

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as this answer's behaviour has it."""
        how = self._how
        body = self._data[self.offset :] + bytes(how.extra)
        if how.flip_at is not None:
            body = body[: how.flip_at] + bytes([body[how.flip_at] ^ 1]) + body[how.flip_at + 1 :]
        stops = {len(body), how.break_at, how.end_at, how.hold_at} - {None}
        position = 0
        while True:
            await asyncio.sleep(0)
            if position == how.hold_at and how.release is not None:
                await how.release.wait()
            if position == how.break_at:
                raise UpstreamUnavailable("the connection was reset")
            if position in (how.end_at, len(body)):
                return
            end = min([position + self._origin.chunk, *(stop for stop in stops if stop is not None and stop > position)])
            self._origin.sent += end - position
            yield body[position:end]
            position = end

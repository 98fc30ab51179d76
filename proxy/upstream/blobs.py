"""A blob on its way from the upstream: raw network pieces, counted against the size that its descriptor promises.

Not hashed here: whoever stores the bytes hashes them.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator

from proxy.errors import UpstreamMisbehaved, UpstreamUnavailable
from proxy.upstream.transport import Reply
from storage.records import Descriptor

_CONTENT_RANGE = re.compile(r"bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII | re.IGNORECASE)


class BlobStream:
    """The body of a blob's answer. ``offset`` is where its bytes start: what was asked for, or 0 when the whole blob came."""

    def __init__(self, reply: Reply, descriptor: Descriptor, offset: int, *, stall: float, min_rate: int) -> None:
        """Check the head of a 200 or 206. Raises :class:`UpstreamMisbehaved` when it does not fit what was asked for."""
        self._reply = reply
        self._name = f"blob {descriptor.digest.short}"
        self._stall = stall
        self._min_rate = min_rate
        self.offset = offset if reply.status == 206 else 0
        self._left = descriptor.size - self.offset
        reply.refuse_encoding()
        if reply.status == 206:
            self._check_range(offset, descriptor.size)
        if reply.length is not None and reply.length != self._left:
            if reply.html:
                raise UpstreamUnavailable(f"{reply.host} sent a web page instead of {self._name}")
            raise UpstreamMisbehaved(f"{reply.host} announced {reply.length} bytes of {self._name}, {self._left} are due")

    def _check_range(self, offset: int, size: int) -> None:
        text = self._reply.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(text.strip())
        wanted = (offset, size - 1)
        if found is None or (int(found[1]), int(found[2])) != wanted or found[3] not in {"*", str(size)}:
            raise UpstreamMisbehaved(f"{self._reply.host} answered another range of {self._name} than bytes {offset}-{size - 1}")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come from the network, in pieces of up to a few hundred KiB.

        Raises :class:`UpstreamUnavailable` when they stop coming, come slower than a trickle, or end early (a new request can
        resume), and :class:`UpstreamMisbehaved` when there are more than the descriptor says.
        """
        waited, since = 0.0, self._left  # over the window that is being watched
        while True:
            began = time.monotonic()
            piece = await self._reply.piece(self._stall)
            if not piece:
                break
            self._left -= len(piece)
            if self._left < 0:
                raise UpstreamMisbehaved(f"{self._reply.host} sent more bytes of {self._name} than its descriptor says")
            yield piece
            # Only time spent waiting for the upstream counts: a slow reader of ours is not its fault.
            waited += time.monotonic() - began
            if waited >= self._stall:
                if since - self._left < waited * self._min_rate:
                    raise UpstreamUnavailable(
                        f"{self._reply.host} sends {self._name} slower than {self._min_rate} bytes a second"
                    )
                waited, since = 0.0, self._left
        if self._left:
            raise UpstreamUnavailable(f"{self._reply.host} cut {self._name} short by {self._left} bytes")

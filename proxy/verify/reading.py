"""Reading manifests of strangers without holding up the loop: what is long is read in a thread, one document at a time.

JSON of bad will swells in memory, and holds up every thread while it is read: side by side, several such documents would do that
several times over.
"""

from __future__ import annotations

import asyncio

from proxy.content import FetchedManifest
from proxy.manifest import Bounds, Manifest, parse

#: Manifests up to this size are read on the loop: a thread would take longer to start than the reading takes.
_INLINE = 16 << 10


class Reader:
    """Reads manifests; whoever shares a reader waits for the others."""

    def __init__(self) -> None:
        self._busy = asyncio.Lock()

    async def read(self, fetched: FetchedManifest, bounds: Bounds) -> Manifest:
        """Read a manifest strictly (:func:`proxy.manifest.parse`). Raises :class:`proxy.errors.ManifestRefused`."""
        if len(fetched.body) <= _INLINE:
            return parse(fetched.body, fetched.media_type, bounds)
        async with self._busy:
            return await asyncio.to_thread(parse, fetched.body, fetched.media_type, bounds)

"""The hosts that registries redirect to: object storage and content delivery networks with signed URLs.

A :class:`Storage` serves the blobs of a registry under URLs that it signed before, each exactly as it was signed: path and query
are compared byte for byte, so a client that re-quotes ``%2F`` is refused, as by the real ones.
"""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass

from storage.digest import Digest
from tests.simulator.behaviours import redirect
from tests.simulator.registry import Registry, blob_answer
from tests.simulator.server import Answer, Behaviour, Seen, Site

#: A signature with every character that careless clients re-quote or decode.
SIGNATURE = "sig=a%2Bb%2F%3D&X-Amz-Credential=AKIA%2F20260101%2Fus-east-1&note=~a%7Eb+c%20d"


@dataclass(slots=True)
class _Signed:
    repository: str
    digest: Digest
    expires: float
    uses: int


class Storage(Site):
    """Signed URLs over a registry's blobs. An unknown, expired or used-up URL is a 403 with an XML body."""

    def __init__(self, registry: Registry, *, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        super().__init__(address=address, tls=tls)
        self._registry = registry
        self._signed: dict[str, _Signed] = {}

    def sign(self, repository: str, digest: Digest, *, prefix: str = "", life: float = 300.0, uses: int = 1 << 30) -> str:
        """Mint a URL's path and query for a blob, good for ``life`` seconds and ``uses`` requests."""
        number = len(self._signed) + 1
        target = f"{prefix}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data?{SIGNATURE}&n={number}"
        self._signed[target] = _Signed(repository, digest, time.monotonic() + life, uses)
        return target

    def expire(self) -> None:
        """Let every URL minted so far be expired."""
        for signed in self._signed.values():
            signed.uses = 0

    def redirect(
        self,
        code: int = 307,
        *,
        life: float = 300.0,
        uses: int = 1 << 30,
        prefix: str = "",
        relative: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Behaviour:
        """A behaviour for the registry: send blob requests here, each to a fresh URL (without the host if ``relative``)."""

        def location(seen: Seen) -> str:
            target = self.sign(seen.repository, Digest.parse(seen.reference), prefix=prefix, life=life, uses=uses)
            return target if relative else self.url + target

        return redirect(location, code, headers=headers)

    async def answer(self, seen: Seen) -> Answer:
        """The blob, or its range, to exactly the URL that was signed."""
        signed = self._signed.get(seen.target)
        if signed is None or time.monotonic() > signed.expires or signed.uses <= 0:
            return Answer(403, body=b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')
        signed.uses -= 1
        data = self._registry.stored(signed.repository, signed.digest)
        return Answer(404) if data is None else blob_answer(seen, data)

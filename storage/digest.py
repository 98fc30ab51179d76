"""Content digests (OCI image specification, "Digests"): ``sha256`` and ``sha512``, lower-case hex, nothing else.

A :class:`Digest` is only ever built through :meth:`Digest.parse` (from text) or :meth:`Digest.of` (from bytes), so that a
value of this type is safe to use in a path or a URL.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from storage.errors import MalformedName

#: Registered algorithms and the length of their hex form.
HEX_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)


class Hasher(Protocol):
    """The part of :mod:`hashlib`'s objects that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Feed more bytes."""
        ...

    def hexdigest(self) -> str:
        """Lower-case hex of what was fed so far."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """``algorithm:hex``, with both parts known to be well-formed."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<64 hex>`` or ``sha512:<128 hex>``. Raises :class:`MalformedName` for anything else."""
        algorithm, colon, value = text.partition(":")
        length = HEX_LENGTHS.get(algorithm)
        if not colon or length is None:
            raise MalformedName(f"{text[:100]!r} is not a digest: write sha256:<64 hex> or sha512:<128 hex>")
        if len(value) != length or not _HEX.fullmatch(value):
            raise MalformedName(f"{text[:160]!r} is not a digest: {algorithm} takes {length} lower-case hex characters")
        return cls(algorithm, value)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Digest:
        """Compute the digest of ``data``."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> Hasher:
        """Return a fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes | bytearray | memoryview) -> bool:
        """Whether ``data`` hashes to this digest."""
        return Digest.of(data, self.algorithm) == self

    @property
    def short(self) -> str:
        """``sha256:`` and the first twelve hex characters: for people, never for look-ups."""
        return f"{self.algorithm}:{self.hex[:12]}"

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

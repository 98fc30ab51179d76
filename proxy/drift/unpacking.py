"""A layer's bytes: hashed as they are read, unpacked, counted. One pass, a piece at a time.

What a layer is packed with is told by its first bytes, as container runtimes do; its media type only says that it is a tar
archive at all. Gzip may have several members (RFC 1952 §2.2), zstd several frames (RFC 8878 §3.1).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from proxy.drift.model import Bounds
from proxy.errors import LayerRefused
from storage.digest import Digest, Hasher
from storage.errors import DigestMismatch

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Bytes read, and unpacked, at a time.
PIECE = 1 << 18
_GZIP = b"\x1f\x8b\x08"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_FOREIGN = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "lz4"}
#: A window of 128 MiB: what any zstd decoder must be asked for explicitly to go beyond.
_WINDOW_LOG = 27


class Budget:
    """What of an image's bounds is left; shared by its layers, which may be read at the same time."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._unpacked = 0
        self._entries = 0
        self._names = 0

    def unpack(self, count: int) -> None:
        """Count unpacked bytes. Raises :class:`LayerRefused`."""
        self._unpacked += count
        if self._unpacked > self.bounds.unpacked:
            raise LayerRefused(f"the layers unpack to more than {self.bounds.unpacked} bytes")

    def name(self, name: bytes) -> None:
        """Count what is kept of a name, or of a link's target. Raises :class:`LayerRefused`."""
        self._names += len(name)
        if self._names > self.bounds.names:
            raise LayerRefused(f"the names in the layers have more than {self.bounds.names} bytes")

    def enter(self) -> None:
        """Count an entry, or a folder that one needs. Raises :class:`LayerRefused`."""
        self._entries += 1
        if self._entries > self.bounds.entries:
            raise LayerRefused(f"the layers have more than {self.bounds.entries} entries")


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def unpack(self, data: bytes) -> tuple[bytes, bytes]:
        """At most a piece unpacked, and the packed bytes that are left over."""
        ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def unpack(self, data: bytes) -> tuple[bytes, bytes]:
        plain = self._inner.decompress(data, PIECE)
        return plain, self._inner.unconsumed_tail


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def unpack(self, data: bytes) -> tuple[bytes, bytes]:
        return self._inner.decompress(data, max_length=PIECE), b""


def verified(read: Callable[[int], bytes], digest: Digest) -> Iterator[bytes]:
    """The pieces that ``read`` gives until it gives none. Raises :class:`DigestMismatch` at the end if they are not the blob."""
    hasher = digest.hasher()
    while piece := read(PIECE):
        hasher.update(piece)
        yield piece
    if hasher.hexdigest() != digest.hex:
        raise DigestMismatch(str(digest), f"{digest.algorithm}:{hasher.hexdigest()}")


def unpacked(pieces: Iterator[bytes], budget: Budget) -> Iterator[bytes]:
    """What a packed layer holds, a piece at a time. Raises :class:`LayerRefused`."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= 8:
            break
    made: Callable[[], _Unpacker] | None
    if head.startswith(_GZIP):
        made = _Gzip
    elif head.startswith(_ZSTD) or int.from_bytes(head[:4], "little") in _SKIPPABLE:
        made = _Zstd
    else:
        made = None
        for magic, name in _FOREIGN.items():
            if head.startswith(magic):
                raise LayerRefused(f"it is packed with {name}; layers are packed with gzip or zstd, or not at all")

    def all_pieces() -> Iterator[bytes]:
        if head:
            yield head
        yield from pieces

    if made is None:
        for piece in all_pieces():
            budget.unpack(len(piece))
            yield piece
    else:
        yield from _unpacked(all_pieces(), made, budget)


def _unpacked(pieces: Iterator[bytes], made: Callable[[], _Unpacker], budget: Budget) -> Iterator[bytes]:
    unpacker: _Unpacker | None = made()  # None: between members
    padded = False
    consumed = produced = 0
    for piece in pieces:
        consumed += len(piece)
        data = piece
        while True:
            if unpacker is None:
                if not data.strip(b"\0"):
                    padded = padded or bool(data)
                    break
                if padded:
                    raise LayerRefused("something stands behind its end")
                unpacker = made()
            try:
                plain, data = unpacker.unpack(data)
            except (zlib.error, zstd.ZstdError) as error:
                raise LayerRefused(f"it cannot be unpacked: {error}") from error
            produced += len(plain)
            budget.unpack(len(plain))
            if produced > budget.bounds.free and produced > consumed * budget.bounds.ratio:
                raise LayerRefused(f"it unpacks to more than {budget.bounds.ratio} times its size")
            if plain:
                yield plain
            if unpacker.eof:
                data, unpacker = unpacker.unused_data, None
            elif not data and len(plain) < PIECE:
                break  # it waits for more; a whole piece may have been all that was asked for
    if unpacker is not None:
        raise LayerRefused("it ends in the middle")


def hashed(pieces: Iterator[bytes], hasher: Hasher) -> Iterator[bytes]:
    """The same pieces, fed to ``hasher`` on the way."""
    for piece in pieces:
        hasher.update(piece)
        yield piece


class Plain:
    """Unpacked bytes, read as a tar archive needs them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def some(self, most: int) -> memoryview:
        """Between one and ``most`` bytes; none at the end."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return memoryview(b"")
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:most], self._rest[most:]
        return taken

    def read(self, count: int) -> bytes:
        """``count`` bytes, fewer only at the end. For what is small: they are held in memory."""
        taken = bytearray(self.some(count))
        while len(taken) < count and (more := self.some(count - len(taken))):
            taken += more
        return bytes(taken)

    def pieces(self, count: int) -> Iterator[memoryview]:
        """``count`` bytes as they come. Raises :class:`LayerRefused` where there are fewer."""
        while count:
            taken = self.some(count)
            if not taken:
                raise LayerRefused("it ends in the middle of a file")
            count -= len(taken)
            yield taken

    def skip(self, count: int) -> None:
        """Read past ``count`` bytes. Raises :class:`LayerRefused` where there are fewer."""
        for _ in self.pieces(count):
            pass

    def drain(self) -> None:
        """Read what is left."""
        while self.some(PIECE):
            pass

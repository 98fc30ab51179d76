"""Tiles: how a log is laid out in static pieces of 256 hashes or entries (C2SP tlog-tiles), and how proofs are read from them.

Pure. A tile of level L holds nodes of level 8 * L of the tree; what lies between is hashed again by whoever reads it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from storage.entries import MAX_ENTRY
from storage.merkle import HASH_SIZE, Node, node_hash

#: Hashes, or entries, in a full tile, and the height of the subtree that it is.
WIDTH = 256
HEIGHT = 8
MAX_LEVEL = 63
#: Bytes of the largest bundle of entries.
MAX_BUNDLE = WIDTH * (2 + MAX_ENTRY)
_PATH = re.compile(
    r"tile/(?:entries|(?P<level>0|[1-9][0-9]?))/(?P<number>(?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?",
    re.ASCII,
)


class MalformedTile(ValueError):
    """A tile, a bundle, or the path of one that is not as the specification says."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Which tile: its level (None: a bundle of entries), its number on the level, and how many hashes it has."""

    level: int | None
    number: int
    width: int = WIDTH

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read the path of a tile, below the log's prefix. Raises :class:`MalformedTile`."""
        found = _PATH.fullmatch(path)
        if found is None:
            raise MalformedTile("this is not the path of a tile")
        level = None if found["level"] is None else int(found["level"])
        number = int(found["number"].replace("x", "").replace("/", ""))
        tile = cls(level, number, int(found["width"] or WIDTH))
        if (
            (level or 0) > MAX_LEVEL or tile.width > WIDTH or tile.path() != path
        ):  # numbers have one spelling, full tiles no width
            raise MalformedTile("this is not the path of a tile")
        return tile

    def path(self) -> str:
        """Its path below the log's prefix."""
        groups = [f"{self.number % 1000:03}"]
        rest = self.number // 1000
        while rest:
            groups.insert(0, f"x{rest % 1000:03}")
            rest //= 1000
        kind = "entries" if self.level is None else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{kind}/{'/'.join(groups)}{partial}"

    def within(self, size: int) -> bool:
        """Whether a tree of this size has it."""
        return self.number * WIDTH + self.width <= size >> (HEIGHT * (self.level or 0))


def tile_at(level: int | None, number: int, size: int) -> Tile:
    """The tile of this level and number as a tree of ``size`` has it, full or partial."""
    there = size >> (HEIGHT * (level or 0))
    return Tile(level, number, min(WIDTH, there - number * WIDTH))


def tiles_of(nodes: Iterable[Node], size: int) -> set[Tile]:
    """The tiles in which nodes of a tree of ``size`` leaves are found."""
    return {_place(node, size)[0] for node in nodes}


def nodes_from(nodes: Iterable[Node], size: int, tiles: Mapping[Tile, bytes]) -> dict[Node, bytes]:
    """The hashes of nodes, from their tiles' bytes. Raises :class:`MalformedTile` for a tile of another length."""
    found: dict[Node, bytes] = {}
    for node in nodes:
        tile, first, count = _place(node, size)
        data = tiles[tile]
        if len(data) != tile.width * HASH_SIZE:
            raise MalformedTile(f"{tile.path()} has {len(data)} bytes, not {tile.width * HASH_SIZE}")
        hashes = [data[start * HASH_SIZE : (start + 1) * HASH_SIZE] for start in range(first, first + count)]
        while len(hashes) > 1:
            hashes = [node_hash(*pair) for pair in zip(hashes[::2], hashes[1::2], strict=True)]
        found[node] = hashes[0]
    return found


def bundle(entries: Iterable[bytes]) -> bytes:
    """Entries in the form in which they are served."""
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


def entries_of(data: bytes, width: int) -> list[bytes]:
    """The ``width`` entries of a bundle. Raises :class:`MalformedTile` where they are not exactly that many."""
    entries: list[bytes] = []
    position = 0
    while position < len(data):
        if len(entries) == width:
            raise MalformedTile(f"a bundle has more than {width} entries")
        start = position + 2
        position = start + int.from_bytes(data[position:start])
        if start > len(data) or position > len(data):
            raise MalformedTile("a bundle ends within an entry")
        entries.append(data[start:position])
    if len(entries) != width:
        raise MalformedTile(f"a bundle has {len(entries)} entries, not {width}")
    return entries


def _place(node: Node, size: int) -> tuple[Tile, int, int]:
    """In which tile a node is, and which of its hashes make it."""
    level, index = node
    above = level % HEIGHT
    first = index << above
    return tile_at(level // HEIGHT, first // WIDTH, size), first % WIDTH, 1 << above

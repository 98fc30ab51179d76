"""Tiles: where they are, what is in them, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.merkle import Frontier, Node, consistency_spans, inclusion_spans, leaf_hash, nodes_of, span_hash
from storage.tiles import MalformedTile, Tile, bundle, entries_of, nodes_from, tile_at, tiles_of


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(1, 1234067, 17), "tile/1/x001/x234/067.p/17"),
        (Tile(None, 5, 3), "tile/entries/005.p/3"),
        (Tile(None, 1000), "tile/entries/x001/000"),
        (Tile(63, 999), "tile/63/999"),
    ],
)
def test_paths_are_those_of_the_specification(tile: Tile, path: str) -> None:
    """Groups of three digits, all but the last behind an x; the first two are what Go's own code writes."""
    assert tile.path() == path
    assert Tile.parse(path) == tile


@given(level=st.none() | st.integers(0, 63), number=st.integers(0, 10**18 - 1), width=st.integers(1, 256))
def test_every_tile_has_one_path(level: int | None, number: int, width: int) -> None:
    """And that path means this tile."""
    tile = Tile(level, number, width)
    assert Tile.parse(tile.path()) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/001",
        "tile/0/x1/001",
        "tile/0/001/001",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000/",
        "tile/data/000",
        "tile/0/٠٠٠",
        "tile/0/" + "x999/" * 6 + "999",
    ],
)
def test_other_spellings_are_no_paths(path: str) -> None:
    """One tile has one address, so that it is cached once; what is too far off is not even counted to."""
    with pytest.raises(MalformedTile):
        Tile.parse(path)


def test_a_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    """273 full and one of 112; one full and one of 17; one of 1. A tree of 256: one full, one of width 1 above."""
    size = 70_000
    assert [tile_at(level, number, size).width for level, number in ((0, 272), (0, 273), (1, 0), (1, 1), (2, 0))] == [
        256,
        112,
        256,
        17,
        1,
    ]
    assert Tile(0, 273, 112).within(size)
    assert not Tile(0, 273, 113).within(size)
    assert not Tile(3, 0, 1).within(size)
    assert Tile(None, 273, 112).within(size)
    assert Tile(0, 0).within(256)
    assert Tile(1, 0, 1).within(256)
    assert not Tile(1, 0, 1).within(255)


def test_proofs_can_be_read_from_tiles() -> None:
    """Every node that any proof over a tree of 70,000 needs comes out of the tiles as the tree has it."""
    size, nodes, frontier = 70_000, dict[Node, bytes](), Frontier()
    for index in range(size):
        frontier, completed = frontier.grown(leaf_hash(b"%d" % index))
        nodes.update({(level, index >> level): value for level, value in enumerate(completed)})
    spans = [span for old in (1, 255, 256, 257, 65_536, 69_999) for span in consistency_spans(old, size)]
    spans += [span for index in (0, 255, 65_535, 65_536, 69_999) for span in inclusion_spans(index, size)]
    wanted = [node for span in [*spans, (0, size)] for node in nodes_of(span)]
    tiles: dict[Tile, bytes] = {}
    for tile in tiles_of(wanted, size):
        assert tile.within(size)
        assert tile.level is not None
        places = range(tile.number * 256, tile.number * 256 + tile.width)
        tiles[tile] = b"".join(nodes[8 * tile.level, index] for index in places)
    read = nodes_from(wanted, size, tiles)
    assert read == {node: nodes[node] for node in wanted}
    assert span_hash((0, size), read) == frontier.root()
    one = next(iter(tiles))
    with pytest.raises(MalformedTile, match="bytes, not"):
        nodes_from(wanted, size, tiles | {one: tiles[one][:-1]})


@given(entries=st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_reads_back(entries: list[bytes]) -> None:
    """Entry by entry, empty ones too."""
    assert entries_of(bundle(entries), len(entries)) == entries


@pytest.mark.parametrize(
    ("data", "width"),
    [(b"", 1), (b"\x00", 1), (b"\x00\x05abc", 1), (b"\x00\x01a", 2), (b"\x00\x01a\x00\x01b", 1), (b"\x00\x01a\x00", 1)],
)
def test_what_is_no_bundle_of_that_many_is_refused(data: bytes, width: int) -> None:
    """Cut off, too few, too many."""
    with pytest.raises(MalformedTile):
        entries_of(data, width)

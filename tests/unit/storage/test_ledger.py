"""The ledger: appended with what it tells of, searched, and read as proofs and tiles."""

from __future__ import annotations

import sqlite3
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from storage.catalog import Catalog
from storage.database import Database
from storage.entries import Entry, EntryKind
from storage.errors import DatabaseUnavailable, LedgerDamaged, PinConflict
from storage.ledger import PAGE, Ledger
from storage.merkle import EMPTY_ROOT, leaf_hash, node_hash, verify_consistency, verify_inclusion
from storage.pins import PinStore
from storage.records import Block, PinAction, PinChange
from storage.tiles import Tile
from tests.unit.storage.older import database_of_0002
from tests.unit.storage.test_merkle import tree_hash
from tests.unit.storage.values import APP, AT, LATER, OTHER, digest, first_pin, overwrite, pinned, revert, unpin


@pytest.fixture
def ledger(database: Database) -> Ledger:
    """The ledger on it."""
    return Ledger(database)


def notes(count: int, start: int = 0) -> list[Entry]:
    """Entries without a story."""
    return [Entry("import", f"image {index}", AT, "test", "") for index in range(start, start + count)]


async def bodies(ledger: Ledger, count: int) -> list[bytes]:
    """The bytes of the first entries."""
    return [each.body for start in range(0, count, PAGE) for each in await ledger.entries(start, count)][:count]


def edit(database: Database, *statements: str) -> None:
    """What somebody does to the file behind our back."""
    with sqlite3.connect(database.path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


async def test_every_change_of_a_pin_is_in_the_ledger_in_the_same_transaction(database: Database, ledger: Ledger) -> None:
    """One entry for each line of history; a lost race and a write that finds itself done leave none."""
    pins = PinStore(database)
    first = first_pin()
    pin = await pinned(pins, first)
    await pins.apply(first)
    with pytest.raises(PinConflict):
        await pins.apply(first_pin(what="two"))
    pin = await pinned(pins, overwrite(pin, "two"))
    pin = await pinned(pins, revert(pin))
    assert await pins.apply(unpin(pin)) is None
    entries = [each.read() for each in await ledger.entries(0, 10)]
    assert [entry.kind for entry in entries] == ["pin.pinned", "pin.overwritten", "pin.reverted", "pin.unpinned"]
    assert {entry.subject for entry in entries} == {"ghcr.io/acme/app:v1"}
    assert [entry.facts["pin"]["version"] for entry in entries] == [1, 2, 3, 3]
    assert (entries[1].from_, entries[1].to) == (str(digest("one")), str(digest("two")))


async def test_blocks_and_their_end_are_in_the_ledger(database: Database, ledger: Ledger) -> None:
    """A block that is said again in the same words, and the end of one that there is not, leave no entry."""
    catalog = Catalog(database)
    block = Block(digest("one"), "miner", "olga", AT)
    await catalog.block(block)
    await catalog.block(block)
    await catalog.block(replace(block, reason="miner, certainly"))
    assert await catalog.unblock(digest("one"), by="otto", reason="cleared", at=LATER)
    assert not await catalog.unblock(digest("one"), by="otto", reason="cleared", at=LATER)
    entries = [each.read() for each in await ledger.entries(0, 10)]
    assert [(entry.kind, entry.reason, entry.by) for entry in entries] == [
        ("block", "miner", "olga"),
        ("block", "miner, certainly", "olga"),
        ("unblock", "cleared", "otto"),
    ]


async def test_the_tree_is_that_of_rfc_6962_over_the_bytes_of_the_entries(ledger: Ledger) -> None:
    """Whether entries come one by one or many at once: roots, proofs, tiles and bundles all follow from the same bytes."""
    assert (await ledger.size(), (await ledger.frontier(0)).root()) == (0, EMPTY_ROOT)
    assert await ledger.append(*notes(3)) == 0
    assert await ledger.append(*notes(1, 3)) == 3
    assert await ledger.append(*notes(596, 4)) == 4
    leaves = await bodies(ledger, 600)
    assert len(leaves) == await ledger.size() == 600
    root = tree_hash(leaves)
    assert (await ledger.frontier(600)).root() == root
    for index, each in enumerate(await ledger.entries(0, 40)):
        assert each.root == tree_hash(leaves[: index + 1])
    for index in (0, 255, 256, 599):
        proof = await ledger.inclusion(index, 600)
        assert verify_inclusion(leaf_hash(leaves[index]), index, 600, proof, root)
    for old in (0, 1, 257, 512, 600):
        proof = await ledger.consistency(old, 600)
        assert verify_consistency(old, 600, tree_hash(leaves[:old]), root, proof)
    assert await ledger.tile(Tile(0, 1)) == b"".join(map(leaf_hash, leaves[256:512]))
    assert await ledger.tile(Tile(1, 0, 2)) == tree_hash(leaves[:256]) + tree_hash(leaves[256:512])
    assert await ledger.tile(Tile(None, 2, 88)) == b"".join(struct.pack(">H", len(leaf)) + leaf for leaf in leaves[512:])


async def test_entries_are_found_by_kind_image_and_time(database: Database, ledger: Ledger) -> None:
    """A kind stands for all below it, a repository for all its tags and digests, and pages follow one another."""
    pins = PinStore(database)
    pin = await pinned(pins, first_pin())
    await pins.apply(first_pin("v10", at=LATER))
    await pins.apply(overwrite(pin, "two"))
    await pins.apply(first_pin(repository=OTHER))
    await Catalog(database).block(Block(digest("one"), "miner", "olga", LATER))
    await ledger.append(Entry("refusal", f"{APP}@{digest('two')}", LATER, "server", "no"))

    async def found(kinds: tuple[str, ...] = (), **where: object) -> list[int]:
        return [each.index for each in await ledger.find(kinds=kinds, **where)]  # type: ignore[arg-type]  # as they come

    assert await found() == [0, 1, 2, 3, 4, 5]
    assert await found(("pin",)) == [0, 1, 2, 3]
    assert await found(("pin.pinned", "block")) == [0, 1, 3, 4]
    assert await found(image="ghcr.io/acme/app:v1") == [0, 2]
    assert await found(image="ghcr.io/acme/app") == [0, 1, 2, 5]
    assert await found(image="ghcr.io/acme") == []
    assert await found(since=LATER) == [1, 2, 4, 5]
    assert await found(after=2, limit=2) == [3, 4]
    assert [each.index for each in await ledger.newest("pin.pinned", 2)] == [3, 1]
    assert await ledger.entry(6) is None


async def test_a_tree_that_cannot_be_gone_on_with_stops_what_must_be_recorded(database: Database, ledger: Ledger) -> None:
    """Where a node that the next entry needs is gone or spoiled, a pin is not written either; the message says where to look."""
    pins = PinStore(database)
    await ledger.append(*notes(3))
    edit(database, "UPDATE ledger SET hashes = substr(hashes, 1, 20) WHERE number = 2")
    with pytest.raises(DatabaseUnavailable, match="entry 2: the hashes"):
        await ledger.tile(Tile(0, 0, 3))
    edit(database, "DELETE FROM ledger WHERE number = 1")
    with pytest.raises(LedgerDamaged, match=r"damaged at entry 1: it is missing .*tagstone ledger verify"):
        await pins.apply(first_pin())
    assert await pins.get(APP, "v1") is None
    assert await pins.history(APP, "v1") == []
    with pytest.raises(LedgerDamaged, match="entry 1: it is missing"):
        await ledger.tile(Tile(None, 0, 3))


async def test_an_entry_that_was_edited_does_not_read(database: Database, ledger: Ledger) -> None:
    """Neither one out of its form nor one from another place."""
    await ledger.append(*notes(3))
    edit(database, "UPDATE ledger SET body = body || ' ' WHERE number = 1")
    edit(database, "UPDATE ledger SET body = (SELECT body FROM ledger WHERE number = 0) WHERE number = 2")
    first, second, third = await ledger.entries(0, 3)
    assert first.read().subject == "image 0"
    with pytest.raises(LedgerDamaged, match="entry 1: it is not in canonical form"):
        second.read()
    with pytest.raises(LedgerDamaged, match="entry 2: it says that it is entry 0"):
        third.read()


async def test_the_ledger_of_an_older_database_begins_with_what_it_holds(tmp_path: Path) -> None:
    """A database from before the ledger is migrated: its pins and blocks are entered, and what comes then follows on."""
    path = tmp_path / "tagstone.db"
    change = PinChange(APP, "v1", PinAction.PINNED, AT, "rule **", "first use", None, digest("one"))
    write = replace(first_pin(), change=change)
    assert write.new is not None
    database_of_0002(path, [write.new], [change], [Block(digest("bad"), "miner", "olga", AT)])
    database = Database(path)
    await database.open()
    ledger = Ledger(database)
    await PinStore(database).apply(overwrite(write.new, "two"))
    entries = [each.read() for each in await ledger.entries(0, 10)]
    assert [entry.kind for entry in entries] == [
        EntryKind.BEGUN,
        EntryKind.KNOWN_PIN,
        EntryKind.KNOWN_BLOCK,
        "pin.overwritten",
    ]
    assert entries[0].facts == {"changes": 1}
    assert datetime.now(UTC) - entries[0].at < timedelta(hours=1)
    assert (entries[1].subject, entries[1].to) == ("ghcr.io/acme/app:v1", str(digest("one")))
    assert (entries[2].subject, entries[2].by, entries[2].at) == (str(digest("bad")), "olga", AT)
    await database.close()
    await database.open()
    assert await ledger.size() == 4
    await database.close()


async def test_a_new_database_begins_with_an_empty_ledger(tmp_path: Path) -> None:
    """Nor does an older one that holds nothing leave an entry."""
    path = tmp_path / "tagstone.db"
    database_of_0002(path, [], [], [])
    database = Database(path)
    await database.open()
    assert await Ledger(database).size() == 0
    await database.close()


def test_a_node_is_what_rfc_6962_says() -> None:
    """The prefixes that keep leaves and nodes apart."""
    assert node_hash(leaf_hash(b"a"), leaf_hash(b"b")) == sha256(b"\x01" + leaf_hash(b"a") + leaf_hash(b"b")).digest()

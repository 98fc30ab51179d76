"""The audit finds whatever was edited behind the ledger's back, and names the entry."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from storage.audit import Audit, audit
from storage.catalog import Catalog
from storage.checkpoints import Checkpoints, Kept
from storage.database import Database
from storage.entries import Entry, EntryKind
from storage.ledger import Ledger
from storage.merkle import Frontier, leaf_hash
from storage.notes import Checkpoint, Note, SignerKey, VerifierKey
from storage.pins import PinStore
from storage.records import Approval, Block
from tests.unit.storage.older import database_of_0002
from tests.unit.storage.values import APP, AT, LATER, OTHER, digest, first_pin, overwrite, pinned, revert, unpin

KEY = SignerKey.generate("log")
#: What :func:`filled` enters, by index.
KINDS = (
    "ledger.key",
    "pin.pinned",  # app:v1
    "pin.pinned",  # app:v2
    "pin.overwritten",  # app:v1
    "block",
    "pin.pinned",  # nginx:v1
    "pin.reverted",  # app:v1
    "block",
    "unblock",
    "pin.unpinned",  # nginx:v1
    "refusal",
)
SIGNED = (3, 7, 10)
MORE_HISTORY = (
    "INSERT INTO pin_changes SELECT 99, repository, tag, action, at, by, reason, from_digest, to_digest "
    "FROM pin_changes WHERE action = 'reverted'"
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a database with a life behind it: pins, blocks, and three checkpoints."""
    path = tmp_path_factory.mktemp("audit") / "tagstone.db"

    async def make() -> None:
        database = Database(path)
        await database.open()
        await filled(database)
        await database.close()

    asyncio.run(make())
    return path


@pytest.fixture
async def database(template: Path, tmp_path: Path) -> AsyncIterator[Database]:
    """A database of one's own with that life behind it."""
    shutil.copy(template, tmp_path / "tagstone.db")
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    yield database
    await database.close()


async def filled(database: Database) -> None:
    """Enter :data:`KINDS`, and sign at :data:`SIGNED`."""
    pins, catalog, ledger = PinStore(database), Catalog(database), Ledger(database)
    await ledger.append(Entry(EntryKind.KEY, "log", AT, "server", "the first key", None, str(KEY.verifier)))
    pin = await pinned(pins, first_pin())
    await pins.apply(first_pin("v2", "other"))
    await sign(database)
    pin = await pinned(pins, overwrite(pin, "two"))
    await catalog.block(Block(digest("bad"), "miner", "olga", AT))
    gone = await pinned(pins, first_pin(repository=OTHER))
    await pins.apply(revert(pin))
    await sign(database)
    await catalog.block(Block(digest("worse"), "worm", "olga", AT))
    await catalog.unblock(digest("worse"), by="otto", reason="cleared", at=LATER)
    await pins.apply(unpin(gone))
    await sign(database)
    await ledger.append(Entry(EntryKind.REFUSAL, f"{APP}:v1", LATER, "server", "no"))


async def sign(database: Database, key: SignerKey = KEY) -> None:
    """Keep a checkpoint over what there is."""
    ledger = Ledger(database)
    size = await ledger.size()
    text = Checkpoint("log", size, (await ledger.frontier(size)).root()).text()
    await Checkpoints(database).keep(Kept(size, AT, bytes(Note.signed(text, [key]))))


async def audited(database: Database, trusted: Sequence[VerifierKey] = (KEY.verifier,)) -> Audit:
    """What the audit says."""
    return await database.snapshot(audit, trusted)


def edit(database: Database, *statements: str, **values: object) -> None:
    """What somebody does with sqlite3."""
    with sqlite3.connect(database.path) as connection:
        for statement in statements:
            connection.execute(statement, values)
    connection.close()


def rewrite(database: Database, start: int, change: tuple[str, str]) -> None:
    """What somebody does who knows the format: change an entry, and hash everything from there on anew."""
    with sqlite3.connect(database.path) as connection:
        frontier = Frontier()
        for number, written in connection.execute("SELECT number, body FROM ledger ORDER BY number").fetchall():
            assert number != start or change[0] in written
            body = written.replace(*change) if number == start else written
            frontier, completed = frontier.grown(leaf_hash(body.encode()))
            connection.execute(
                "UPDATE ledger SET body = ?, hashes = ?, root = ? WHERE number = ?",
                (body, b"".join(completed), frontier.root(), number),
            )
    connection.close()


async def test_what_nobody_touched_fits(database: Database) -> None:
    """Everything is counted, and how far the ledger is signed for."""
    seen: list[tuple[int, int]] = []
    result = await database.snapshot(audit, [KEY.verifier], lambda done, total: seen.append((done, total)))
    assert result.finding is None
    assert (result.size, result.checkpoints, result.signed, result.pins, result.blocks) == (11, 3, 10, 2, 1)
    assert result.root == (await Ledger(database).frontier(11)).root()
    assert result.keys == (KEY.verifier,)
    assert seen == [(11, 11)]
    assert [each.kind for each in await Ledger(database).entries(0, 20)] == list(KINDS)


async def test_an_empty_database_fits(tmp_path: Path) -> None:
    """Nothing was ever decided."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    result = await audited(database)
    assert (result.finding, result.size, result.checkpoints) == (None, 0, 0)
    await database.close()


@pytest.mark.parametrize(
    ("statement", "index", "problem"),
    [
        ("UPDATE ledger SET body = replace(body, 'first use', 'audited') WHERE number = 2", 2, "its bytes are not"),
        ("UPDATE ledger SET body = '' WHERE number = 5", 5, "Expecting value"),
        ("UPDATE ledger SET hashes = zeroblob(32) WHERE number = 4", 4, "its bytes are not"),
        ("UPDATE ledger SET root = zeroblob(32) WHERE number = 4", 4, "its bytes are not"),
        ("UPDATE ledger SET kind = 'policy' WHERE number = 3", 3, "beside it"),
        ("UPDATE ledger SET subject = 'docker.io/library/nginx:v2' WHERE number = 3", 3, "beside it"),
        ("UPDATE ledger SET at = '2027-01-01T00:00:00.000000Z' WHERE number = 3", 3, "beside it"),
        ("DELETE FROM ledger WHERE number = 0", 0, "missing"),
        ("DELETE FROM ledger WHERE number = 6", 6, "missing"),
        ("DELETE FROM ledger WHERE number > 8", 9, "missing: a checkpoint was signed for 10 entries, and there are 9"),
        ("DELETE FROM ledger WHERE number = 10", None, ""),
        (f"UPDATE pins SET digest = '{digest('evil')}' WHERE tag = 'v2'", 2, "not as it left"),
        ("UPDATE pins SET state = 'overwritten' WHERE tag = 'v1'", 6, "state is overwritten, it said pinned"),
        ("UPDATE pins SET rejected = digest WHERE tag = 'v1'", 6, "rejected is sha256:.*, it said not set"),
        ("UPDATE pins SET version = 7 WHERE tag = 'v1'", 6, "version is 7, it said 3"),
        ("UPDATE pins SET signers = '[\"key mine\"]' WHERE tag = 'v1'", 6, "signers"),
        ("UPDATE pins SET name = 'ghcr.io/acme/app:v3' WHERE tag = 'v1'", 6, "no entry says so"),
        ("DELETE FROM pins WHERE tag = 'v2'", 2, "not pinned any more"),
        ("UPDATE pin_changes SET to_digest = from_digest WHERE action = 'overwritten'", 3, "the history tells otherwise: to"),
        ("UPDATE pin_changes SET by = 'mallory' WHERE action = 'unpinned'", 9, "the history tells otherwise: by"),
        ("DELETE FROM pin_changes WHERE action = 'overwritten'", 3, "the history tells otherwise"),
        ("DELETE FROM pin_changes WHERE action = 'unpinned'", 9, "does not tell of it"),
        (MORE_HISTORY, 11, "missing: the history has pin.reverted"),
        ("DELETE FROM blocks", 4, "not blocked any more"),
        ("UPDATE blocks SET by = 'mallory'", 4, "by whom"),
        ("UPDATE blocks SET digest = 'sha256:' || substr(digest, 8, 32) || substr(digest, 8, 32)", 4, "not blocked any more"),
        ("UPDATE checkpoints SET note = replace(note, 'log', 'dog') WHERE size = 7", 6, "checkpoint"),
        ("UPDATE checkpoints SET note = 'nothing' WHERE size = 10", 9, "checkpoint"),
        ("UPDATE checkpoints SET size = 6 WHERE size = 7", 5, "it is one of size 7"),
        ("INSERT INTO checkpoints SELECT 0, at, note FROM checkpoints WHERE size = 3", 0, "it is one of size 3"),
    ],
)  # fmt: skip
async def test_whatever_is_edited_is_found_at_its_entry(
    database: Database, statement: str, index: int | None, problem: str
) -> None:
    """One statement of SQL, wherever it strikes; only what nobody signed for and nothing else tells of can go unnoticed."""
    edit(database, statement)
    finding = (await audited(database)).finding
    if index is None:
        assert finding is None
        return
    assert finding is not None
    assert finding.index == index
    assert re.search(problem, finding.problem), finding.problem


async def test_entries_that_change_places_are_found_at_the_first(database: Database) -> None:
    """Whether their bytes are exchanged, or their numbers."""
    swap = "UPDATE ledger SET number = CASE number WHEN -2 THEN 5 ELSE 2 END WHERE number IN (-2, 5)"
    edit(
        database,
        "UPDATE ledger SET number = -2 WHERE number = 2",
        "UPDATE ledger SET number = 2 WHERE number = 5",
        swap.replace("5 ELSE 2", "5 ELSE 5"),
    )
    finding = (await audited(database)).finding
    assert finding is not None
    assert (finding.index, finding.problem) == (2, "it says that it is entry 5")


async def test_a_pin_that_no_entry_tells_of_is_found(database: Database) -> None:
    """Written into the table by hand: the missing entry would be the next."""
    edit(
        database,
        "CREATE TEMPORARY TABLE copied AS SELECT * FROM pins WHERE tag = 'v2'",
        "UPDATE copied SET name = 'ghcr.io/acme/app:v9', tag = 'v9'",
        "INSERT INTO pins SELECT * FROM copied",
    )
    finding = (await audited(database)).finding
    assert finding is not None
    assert finding.index == 11
    assert "app:v9 is pinned to" in finding.problem
    block = f"INSERT INTO blocks VALUES ('{digest('x')}', 'why', 'me', '2026-01-01T00:00:00.000000Z')"
    edit(database, "DELETE FROM pins WHERE tag = 'v9'", block)
    finding = (await audited(database)).finding
    assert finding is not None
    assert "is blocked, and no entry says so" in finding.problem


async def test_who_hashes_anew_is_caught_by_the_history_or_by_the_checkpoint(database: Database) -> None:
    """An entry whose tree was made to fit: the history still tells the truth at that entry; else the next signed root does."""
    rewrite(database, 9, ("retired", "rotated"))
    finding = (await audited(database)).finding
    assert finding is not None
    assert finding.index == 9
    assert "the history tells otherwise: reason" in finding.problem
    edit(database, "UPDATE pin_changes SET reason = 'rotated' WHERE action = 'unpinned'")
    finding = (await audited(database)).finding
    assert finding is not None
    assert (finding.index, finding.until) == (7, 10)
    assert "not what was signed for" in finding.problem
    rewrite(database, 9, ("rotated", "retired"))
    edit(database, "UPDATE pin_changes SET reason = 'retired' WHERE action = 'unpinned'")
    assert (await audited(database)).finding is None
    rewrite(database, 10, ('"no"', '"yes"'))
    assert (await audited(database)).finding is None, "nobody had signed for the last entry"


async def test_checkpoints_count_only_by_keys_that_are_known(database: Database) -> None:
    """One by a stranger is no checkpoint; nor does a key that the ledger hands over to stand for the operator's own."""
    mallory = SignerKey.generate("log")
    await sign(database, mallory)
    finding = (await audited(database)).finding
    assert finding is not None
    assert (finding.index, "no key that is known signed it" in finding.problem) == (10, True)
    edit(database, "DELETE FROM checkpoints WHERE size = 11")
    handed = Entry(EntryKind.KEY, "log", LATER, "mallory", "", str(KEY.verifier), str(mallory.verifier))
    await Ledger(database).append(handed)
    await sign(database, mallory)
    finding = (await audited(database)).finding
    assert finding is not None
    assert (finding.index, "the newest checkpoint" in finding.problem) == (11, True)
    assert (await audited(database, [mallory.verifier])).finding is None
    without = await audited(database, ())
    assert (without.finding, without.keys) == (None, (KEY.verifier, mallory.verifier))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (Entry(EntryKind.KEY, "log", AT, "x", "", None, str(KEY.verifier)), "hands over from None"),
        (Entry(EntryKind.KEY, "log", AT, "x", "", str(KEY.verifier), "nonsense"), "names no key"),
        (Entry(EntryKind.BEGUN, "ledger", AT, "x", "", facts={"changes": 0}), "begins with its first"),
        (Entry(EntryKind.UNBLOCK, str(digest("q")), AT, "x", ""), "was not blocked"),
        (Entry("pin.pinned", "ghcr.io/acme/app:v1", AT, "x", ""), "does not tell of it"),
    ],
)
async def test_entries_that_cannot_be_are_found(database: Database, entry: Entry, problem: str) -> None:
    """Well-formed and hashed, but nothing that Tagstone would have written."""
    await Ledger(database).append(entry)
    finding = (await audited(database)).finding
    assert finding is not None
    assert finding.index == 11
    assert problem in finding.problem


async def test_a_pin_with_everything_about_its_candidate_fits(database: Database) -> None:
    """Approvals are covered: one that was slipped in is found."""
    pins = PinStore(database)
    pin = await pins.get(APP, "v1")
    assert pin is not None
    write = overwrite(pin, "three")
    assert write.new is not None
    approvals = tuple(Approval(digest("three"), f"olga {each}", "x" * 900, AT) for each in range(9))
    new = replace(write.new, approvals=approvals, signers=("key mine",), stale_at=LATER)
    await pins.apply(replace(write, new=new))
    assert (await audited(database)).finding is None
    edit(database, "UPDATE pins SET approvals = replace(approvals, 'olga 3', 'otto') WHERE tag = 'v1'")
    finding = (await audited(database)).finding
    assert finding is not None
    assert (finding.index, "approvals" in finding.problem) == (11, True)


async def test_an_older_database_is_held_to_what_it_held_when_its_ledger_began(tmp_path: Path) -> None:
    """Pins, blocks and history from before are taken as they were; what became of them since is proven."""
    path = tmp_path / "tagstone.db"
    write = first_pin()
    assert write.new is not None
    database_of_0002(path, [write.new], [write.change], [Block(digest("bad"), "miner", "olga", AT)])
    database = Database(path)
    await database.open()
    await PinStore(database).apply(overwrite(write.new, "two"))
    assert (await audited(database)).finding is None
    edit(database, "UPDATE blocks SET reason = 'none'")
    finding = (await audited(database)).finding
    assert finding is not None
    assert finding.index == 2
    await database.close()

"""Signing checkpoints: what is signed was looked at, and what does not fit is not signed any more."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from proxy.services.checkpoints import KEY_FILE, Signer
from storage import keyring
from storage.audit import audit
from storage.checkpoints import Checkpoints
from storage.database import Database
from storage.entries import Entry, EntryKind
from storage.errors import KeyUnusable, LedgerDamaged
from storage.events import EventStore
from storage.keyring import Keyring
from storage.ledger import Ledger
from storage.notes import UnverifiedNote
from storage.records import EventType
from tests.tools import PATIENCE
from tests.unit.storage.values import AT

DAY = timedelta(days=1)


class House:
    """A signer on a database of its own, at a time of its own."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "tagstone.db")
        self.ledger, self.checkpoints = Ledger(self.database), Checkpoints(self.database)
        self.events = EventStore(self.database)
        self.key_file = folder / KEY_FILE
        self.now = AT
        self.signer = self.other()

    def clock(self) -> datetime:
        """The time that tests move."""
        return self.now

    def other(self, origin: str | None = "log.example", interval: float = 3600.0) -> Signer:
        """Another signer on the same."""
        return Signer(self.ledger, self.checkpoints, self.events, self.key_file, self.clock, origin=origin, interval=interval)

    async def enter(self, count: int) -> None:
        """Append entries."""
        await self.ledger.append(*(Entry("import", f"image {each}", AT, "test", "") for each in range(count)))

    def edit(self, statement: str) -> None:
        """What somebody does with sqlite3."""
        with sqlite3.connect(self.database.path) as connection:
            connection.execute(statement)
        connection.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """An open one."""
    house = House(tmp_path)
    await house.database.open()
    yield house
    await house.database.close()


async def test_a_checkpoint_is_signed_where_there_is_something_new(house: House) -> None:
    """The first makes the key, and enters it; the next waits for entries; each is over all that there is."""
    first = await house.signer.sign()
    assert first is not None
    ring = keyring.load(house.key_file)
    assert ring is not None
    [entry] = [each.read() for each in await house.ledger.entries(0, 10)]
    assert (entry.kind, entry.from_, entry.to) == (EntryKind.KEY, None, str(ring.current.verifier))
    assert await house.signer.sign() is None
    await house.enter(600)
    second = await house.other().sign()
    assert second is not None
    note, checkpoint = second.read()
    assert note.verified_by(ring.verifiers) == (ring.current.verifier,)
    assert (checkpoint.origin, checkpoint.size) == ("log.example", 601)
    assert checkpoint.root == (await house.ledger.frontier(601)).root()
    assert (await house.checkpoints.newest()) == second


async def test_two_signers_at_once_sign_one_tree(house: House) -> None:
    """A lease does not prove that there is one: what two sign is the same."""
    await house.signer.sign()
    await house.enter(10)
    signed = [each for each in await asyncio.gather(house.signer.sign(), house.other().sign()) if each is not None]
    roots = {each.read()[1] for each in signed}
    assert len(roots) == 1


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("UPDATE ledger SET body = replace(body, 'test', 'nobody') WHERE number = 7", 7),
        ("UPDATE ledger SET root = zeroblob(32) WHERE number = 7", 7),
        ("UPDATE ledger SET body = 'x' WHERE number = 8", 8),
        ("DELETE FROM ledger WHERE number = 5", 5),
        ("DELETE FROM ledger WHERE number > 2", 3),
        ("UPDATE ledger SET hashes = zeroblob(64) WHERE number = 3", 3),
        ("UPDATE checkpoints SET note = replace(note, 'log.example', 'dog.example')", 3),
    ],
)
async def test_what_was_edited_is_not_signed_for(house: House, statement: str, index: int) -> None:
    """Neither new entries that are not what was hashed, nor a tree that is not the one of the last checkpoint."""
    await house.enter(3)
    await house.signer.sign()
    await house.enter(6)
    house.edit(statement)
    with pytest.raises(LedgerDamaged) as caught:
        await house.signer.sign()
    assert caught.value.index == index
    newest = await house.checkpoints.newest()
    assert newest is not None
    assert newest.size == 4


async def test_a_rolled_back_database_whose_checkpoints_stayed_is_not_signed_for(house: House) -> None:
    """Entries that were exchanged for others, hashed as they should be, are another tree."""
    await house.signer.sign()
    await house.database.close()
    shutil.copy(house.database.path, house.database.path.with_suffix(".old"))
    await house.database.open()
    await house.enter(3)
    await house.signer.sign()
    with sqlite3.connect(house.database.path) as connection:
        checkpoints = connection.execute("SELECT * FROM checkpoints").fetchall()
    connection.close()
    await house.database.close()
    house.database.path.with_suffix(".old").replace(house.database.path)
    await house.database.open()
    await house.ledger.append(*(Entry("import", f"other {each}", AT, "test", "") for each in range(9)))
    with sqlite3.connect(house.database.path) as connection:
        connection.executemany("INSERT OR IGNORE INTO checkpoints VALUES (?, ?, ?)", checkpoints)
    connection.close()
    with pytest.raises(LedgerDamaged, match="not the one that was signed"):
        await house.signer.sign()


async def test_damage_is_told_once_and_its_end_too(house: House) -> None:
    """An event stays open until a checkpoint can be signed again; an outage of the key is no damage."""
    await house.signer.sign()
    await house.enter(3)
    house.edit("UPDATE ledger SET body = replace(body, 'test', 'TEST') WHERE number = 2")
    await house.signer.attempt()
    await house.signer.attempt()
    [event] = await house.events.list()
    assert (event.type, event.subject, event.closed_at) == (EventType.LEDGER_DAMAGED, "ledger", None)
    assert "entry 2" in event.message
    house.edit("UPDATE ledger SET body = replace(body, 'TEST', 'test') WHERE number = 2")
    await house.signer.attempt()
    [event] = await house.events.list()
    assert event.closed_at is not None
    newest = await house.checkpoints.newest()
    assert newest is not None
    assert newest.size == 4
    house.key_file.write_text("nonsense")
    await house.signer.attempt()
    [event, _] = await house.events.list()
    assert (event.type, event.closed_at) == (EventType.LEDGER_UNSIGNED, None)


async def test_a_key_is_handed_over_by_an_entry_that_both_sign_for(house: House) -> None:
    """The old key's last word is the new key's name; when its time is over, only the new one signs."""
    await house.signer.sign()
    old = keyring.load(house.key_file)
    assert old is not None
    await house.enter(2)
    ring = await house.signer.rotate(by="olga", reason="yearly", overlap=DAY)
    entry = (await house.ledger.newest(EntryKind.KEY))[0].read()
    assert (entry.by, entry.reason) == ("olga", "yearly")
    assert (entry.from_, entry.to) == (str(old.current.verifier), str(ring.current.verifier))
    newest = await house.checkpoints.newest()
    assert newest is not None
    assert newest.size == await house.ledger.size()
    assert len(newest.read()[0].verified_by(ring.verifiers)) == 2
    house.now += 2 * DAY
    await house.enter(1)
    last = await house.signer.sign()
    assert last is not None
    assert last.read()[0].verified_by(ring.verifiers) == (ring.current.verifier,)
    with pytest.raises(UnverifiedNote):
        last.read()[0].verified_by([old.current.verifier])


async def test_a_rotation_that_broke_off_is_entered_by_whoever_signs_next(house: House) -> None:
    """The file has another key, and the ledger does not say so yet."""
    await house.signer.sign()
    ring = keyring.load(house.key_file)
    assert ring is not None
    keyring.store(house.key_file, ring.rotated(AT, AT + DAY))
    assert await house.signer.sign() is not None
    entry = (await house.ledger.newest(EntryKind.KEY))[0].read()
    assert (entry.from_, entry.by) == (str(ring.current.verifier), "server")


async def test_a_key_is_entered_once_however_many_sign_first(house: House) -> None:
    """A server that starts and a command beside it: what the second says would contradict the first, and no audit would pass."""
    await asyncio.gather(house.signer.sign(), house.other().sign(), house.other().sign())
    assert len(await house.ledger.newest(EntryKind.KEY, 10)) == 1
    assert (await house.database.snapshot(audit, ())).finding is None


@pytest.mark.parametrize("overlap", [DAY, timedelta()])
async def test_a_server_that_signs_while_the_key_is_rotated_leaves_it_to_say_who_did_it_and_why(
    house: House, monkeypatch: pytest.MonkeyPatch, overlap: timedelta
) -> None:
    """Between the file and the entry: it waits, enters nothing of its own, and the ledger fits."""
    await house.signer.sign()
    store, changing, others = keyring.store, keyring.changing, list[asyncio.Task[object]]()
    loop, waits = asyncio.get_running_loop(), asyncio.Event()

    def waited(path: Path) -> AbstractAsyncContextManager[None]:
        waits.set()
        return changing(path)

    async def begin() -> None:
        monkeypatch.setattr(keyring, "changing", waited)
        others.append(asyncio.create_task(house.other().sign()))
        await asyncio.wait_for(waits.wait(), PATIENCE)
        await asyncio.sleep(0.05)
        assert not others[0].done()

    def stored(path: Path, ring: Keyring) -> None:
        store(path, ring)
        asyncio.run_coroutine_threadsafe(begin(), loop).result(PATIENCE)

    monkeypatch.setattr(keyring, "store", stored)
    ring = await house.signer.rotate(by="olga", reason="yearly", overlap=overlap)
    await asyncio.gather(*others)
    first, second = (each.read() for each in reversed(await house.ledger.newest(EntryKind.KEY, 10)))
    assert (second.from_, second.to, second.by, second.reason) == (first.to, str(ring.current.verifier), "olga", "yearly")
    assert (await house.database.snapshot(audit, ring.verifiers)).finding is None


async def test_of_keys_that_several_rotate_at_once_none_is_lost(house: House) -> None:
    """One after the other: each hands over to the next, and all are in the file."""
    await house.signer.sign()
    rotations = (house.other().rotate(by=f"olga-{each}", reason="", overlap=DAY) for each in range(4))
    made = {str(ring.current.verifier) for ring in await asyncio.gather(*rotations)}
    entries = [each.read() for each in reversed(await house.ledger.newest(EntryKind.KEY, 10))]
    assert {entry.to for entry in entries[1:]} == made
    assert [entry.from_ for entry in entries[1:]] == [entry.to for entry in entries[:-1]]
    ring = keyring.load(house.key_file)
    assert ring is not None
    assert [str(each) for each in ring.verifiers] == [entry.to for entry in reversed(entries)]
    assert (await house.database.snapshot(audit, ring.verifiers)).finding is None


async def test_a_key_that_somebody_else_keeps_changing_is_not_changed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says what it waited for; the server, whose key nobody changed, goes on signing."""
    await house.signer.sign()
    monkeypatch.setattr(keyring, "CHANGE_WAIT", 0.1)
    async with keyring.changing(house.key_file):
        with pytest.raises(KeyUnusable, match=r"changed by another process for 0\.1 s"):
            await house.other().rotate(by="olga", reason="", overlap=DAY)
        await house.enter(1)
        assert await house.signer.sign() is not None
    assert len(await house.ledger.newest(EntryKind.KEY, 10)) == 1


@pytest.mark.parametrize("overlap", [DAY, timedelta()])
async def test_a_server_that_has_just_read_the_old_key_does_not_take_a_rotation_back(
    house: House, monkeypatch: pytest.MonkeyPatch, overlap: timedelta
) -> None:
    """It looks at the file again before it says that the ledger is wrong, and signs by the new key."""
    await house.signer.sign()
    await house.enter(1)
    loop, load, busy = asyncio.get_running_loop(), keyring.load_or_make, list[bool]()

    def loaded(path: Path, name: str | None) -> Keyring:
        ring = load(path, name)
        if not busy:
            busy.append(True)
            rotation = house.other().rotate(by="olga", reason="yearly", overlap=overlap)
            asyncio.run_coroutine_threadsafe(rotation, loop).result(PATIENCE)
        return ring

    monkeypatch.setattr(keyring, "load_or_make", loaded)
    await house.signer.sign()
    assert [each.read().by for each in await house.ledger.newest(EntryKind.KEY, 10)] == ["olga", "server"]
    ring = keyring.load(house.key_file)
    newest = await house.checkpoints.newest()
    assert ring is not None
    assert newest is not None
    assert newest.size == await house.ledger.size()
    assert ring.current.verifier in newest.read()[0].verified_by(ring.verifiers)
    assert (await house.database.snapshot(audit, ring.verifiers)).finding is None


async def test_damage_that_was_mended_meanwhile_ends_with_the_next_process(house: House) -> None:
    """Whoever mended it stopped the server for that: the one that starts closes what the other told."""
    await house.signer.sign()
    await house.enter(3)
    house.edit("UPDATE ledger SET body = replace(body, 'test', 'TEST') WHERE number = 2")
    await house.signer.attempt()
    house.edit("UPDATE ledger SET body = replace(body, 'TEST', 'test') WHERE number = 2")
    await house.other().attempt()
    [event] = await house.events.list()
    assert event.closed_at is not None


async def test_a_key_that_is_gone_is_news_and_another_can_take_its_place(house: House) -> None:
    """None is made in secret, which could sign nothing; the ledger is not called damaged; and there is a way on."""
    await house.signer.sign()
    await house.enter(3)
    old = keyring.load(house.key_file)
    assert old is not None
    with pytest.raises(KeyUnusable, match="not lost"):
        await house.signer.replace(by="olga", reason="disk failure")
    house.key_file.unlink()
    await house.signer.attempt()
    await house.signer.attempt()
    assert not house.key_file.exists()
    [event] = await house.events.list()
    assert (event.type, event.closed_at) == (EventType.LEDGER_UNSIGNED, None)
    assert "rotate --lost" in event.message
    ring = await house.other(origin=None).replace(by="olga", reason="disk failure")
    assert (ring.current.name, ring.former) == ("log.example", (old.current.verifier,))
    entry = (await house.ledger.newest(EntryKind.KEY))[0].read()
    assert (entry.from_, entry.to, entry.by) == (str(old.current.verifier), str(ring.current.verifier), "olga")
    newest = await house.checkpoints.newest()
    assert newest is not None
    assert (newest.size, newest.read()[0].verified_by(ring.verifiers)) == (5, (ring.current.verifier,))
    assert (await house.database.snapshot(audit, ring.verifiers)).finding is None
    await house.signer.attempt()
    [event] = await house.events.list()
    assert event.closed_at is not None


async def test_a_key_is_not_replaced_in_a_ledger_that_does_not_fit(house: House) -> None:
    """A new one would vouch for what somebody wrote anew."""
    await house.enter(3)
    await house.signer.sign()
    house.key_file.unlink()
    house.edit("UPDATE ledger SET hashes = zeroblob(64) WHERE number = 3")
    with pytest.raises(LedgerDamaged):
        await house.signer.replace(by="olga", reason="")
    assert not house.key_file.exists()


async def test_a_checkpoint_that_vanished_is_missed_by_whoever_signed_it(house: House) -> None:
    """Without it entries could be written anew and signed once more: the process that remembers does not."""
    await house.signer.sign()
    await house.enter(3)
    await house.signer.sign()
    house.edit("DELETE FROM checkpoints WHERE size > 1")
    with pytest.raises(LedgerDamaged, match="a checkpoint over 4 entries was signed"):
        await house.signer.sign()


async def test_a_log_of_another_name_is_not_signed(house: House) -> None:
    """An origin that was changed in the configuration is said to be wrong, and nothing is entered."""
    await house.signer.sign()
    with pytest.raises(KeyUnusable, match="keeps its name"):
        await house.other("another.example").sign()
    assert await house.ledger.size() == 1

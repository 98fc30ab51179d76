"""How workers hear that something they remember is no longer true."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection, func, select

from storage import notices as notices_module
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.notices import EVERYTHING, Notices, notify
from storage.records import Notice
from storage.tables import notices as notices_table
from tests.tools import SOON


def leave(connection: Connection, *subjects: str) -> None:
    """Leave notices."""
    for subject in subjects:
        notify(connection, "pin", subject)


async def test_notices_that_are_there_come_at_once_and_in_order(database: Database) -> None:
    """What is newer than the given number, oldest first."""
    notices = Notices(database)
    assert await notices.latest() == 0
    await database.write(leave, "a", "b", "c")
    assert await notices.latest() == 3
    assert await notices.wait(1) == (Notice(2, "pin", "b"), Notice(3, "pin", "c"))


async def test_a_waiting_worker_hears_of_a_commit_in_another_process(database: Database) -> None:
    """Waiting ends soon after anybody commits a notice, through whichever connection."""
    waiting = asyncio.create_task(Notices(database).wait(0, poll=0.005))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    other = Database(database.path)
    await other.open()
    try:
        await other.write(leave, "a")
        async with asyncio.timeout(SOON):
            assert await waiting == (Notice(1, "pin", "a"),)
    finally:
        await other.close()


async def test_other_commits_do_not_end_the_wait(database: Database) -> None:
    """A commit without a notice is looked at and waited past; one that is undone is never heard of."""
    waiting = asyncio.create_task(Notices(database).wait(0, poll=0.001))

    def undone(connection: Connection) -> None:
        leave(connection, "never")
        raise KeyError("no")

    before = await database.commit_mark()
    with pytest.raises(KeyError):
        await database.write(undone)
    assert await database.commit_mark() == before
    await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE other (x)").close())
    assert await database.commit_mark() != before
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await database.write(leave, "a")
    async with asyncio.timeout(SOON):
        assert await waiting == (Notice(1, "pin", "a"),)


async def test_several_waits_share_one_look(database: Database) -> None:
    """Waits in parallel do not disturb each other."""
    notices = Notices(database)
    waiting = [asyncio.create_task(notices.wait(0, poll=0.001)) for _ in range(5)]
    await asyncio.sleep(0.02)
    await database.write(leave, "a")
    async with asyncio.timeout(SOON):
        assert await asyncio.gather(*waiting) == [(Notice(1, "pin", "a"),)] * 5


async def test_old_notices_are_pruned_and_who_missed_them_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are kept; a worker that is further behind is told to forget everything, once."""
    monkeypatch.setattr(notices_module, "KEPT", 20)
    monkeypatch.setattr(notices_module, "PRUNE_EVERY", 10)
    notices = Notices(database)
    await database.write(leave, *map(str, range(100)))
    assert (
        await database.read(lambda connection: connection.execute(select(func.count()).select_from(notices_table)).scalar()) == 20
    )
    assert await notices.wait(5) == (Notice(100, EVERYTHING, ""),)
    assert await notices.wait(79) == (Notice(100, EVERYTHING, ""),)
    assert [notice.sequence for notice in await notices.wait(80)] == list(range(81, 101))
    await database.write(leave, "next")
    assert await notices.wait(100) == (Notice(101, "pin", "next"),)


async def test_numbers_are_never_given_twice(database: Database) -> None:
    """Also when every notice was removed, the next number is a new one."""
    await database.write(leave, "a", "b")
    await database.write(lambda connection: connection.execute(notices_table.delete()).close())
    await database.write(leave, "c")
    assert await Notices(database).latest() == 3


async def test_a_wait_ends_with_the_database(database: Database) -> None:
    """When the database is closed, whoever waits is told that it cannot be asked any more."""
    waiting = asyncio.create_task(Notices(database).wait(0, poll=0.001))
    await asyncio.sleep(0.02)
    await database.close()
    with pytest.raises(DatabaseUnavailable):
        await waiting

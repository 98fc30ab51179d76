"""What enters the ledger beside changes of pins: bounded, once, and off everybody's way."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from proxy.policy.decision import Cause, Refusal
from proxy.services import bookkeeper
from proxy.services.bookkeeper import Bookkeeper
from storage.database import Database
from storage.ledger import Ledger
from tests.harness import until
from tests.tools import PATIENCE
from tests.unit.storage.values import AT, digest


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> datetime:
        return self.now


async def subjects(database: Database) -> list[str]:
    """What was entered."""
    return [each.subject for each in await Ledger(database).find()]


def refusal(what: object, cause: Cause = Cause.VERDICT) -> Refusal:
    """A digest that was refused."""
    return Refusal(digest(what), cause)


async def test_a_refusal_is_entered_once_for_its_image_digest_and_cause(database: Database) -> None:
    """By however many workers, and again after a restart; another digest, cause or image is another."""
    for _ in range(2):
        books = [Bookkeeper(database, Clock(), 100) for _ in range(2)]
        for each in books:
            await each.start()
            each.refused("reg/app:v1", refusal("one"), "unsigned")
            each.refused("reg/app:v1", refusal("one"), "unsigned, in other words")
            each.refused("reg/app:v1", refusal("two"), "unsigned")
            each.refused("reg/app:v1", refusal("one", Cause.OVERWRITTEN), "overwritten")
            each.refused("reg/app:v2", refusal("one"), "unsigned")
        for each in books:
            await each.close()
    entries = [each.read() for each in await Ledger(database).find()]
    told = sorted((entry.subject, entry.to, entry.facts["cause"]) for entry in entries)
    one, two = str(digest("one")), str(digest("two"))
    expected = [("reg/app:v1", one, "overwritten"), ("reg/app:v1", one, "verdict"), ("reg/app:v1", two, "verdict")]
    assert told == sorted([*expected, ("reg/app:v2", one, "verdict")])
    assert {(entry.kind, entry.by) for entry in entries} == {("refusal", "server")}


async def test_an_hour_has_room_for_so_many_and_the_next_for_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room is entered when it comes again later; a worker that knows that there is none does not ask."""
    monkeypatch.setattr(bookkeeper, "_PAUSE", 0.0)
    clock = Clock()
    books = Bookkeeper(database, clock, 3)
    await books.start()
    for number in range(6):
        books.refused(f"reg/app:v{number}", refusal("one"), "unsigned")
    await asyncio.wait_for(books._queue.join(), PATIENCE)
    assert len(await subjects(database)) == 3
    clock.now += timedelta(hours=2)
    books.refused("reg/app:v5", refusal("one"), "unsigned")
    await books.close()
    assert await subjects(database) == ["reg/app:v0", "reg/app:v1", "reg/app:v2", "reg/app:v5"]


async def test_with_no_room_at_all_nothing_is_entered(database: Database) -> None:
    """``ledger.refusals: 0``."""
    books = Bookkeeper(database, Clock(), 0)
    await books.start()
    books.refused("reg/app:v1", refusal("one"), "unsigned")
    await books.close()
    assert await subjects(database) == []


async def test_a_flood_neither_waits_nor_grows(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into the queue is counted and left out; what is known to be told is remembered in bounds."""
    monkeypatch.setattr(bookkeeper, "_WAITING", 5)
    monkeypatch.setattr(bookkeeper, "_TOLD", 3)
    books = Bookkeeper(database, Clock(), 1000)
    await books.start()
    for number in range(50):
        books.refused(f"reg/app:v{number}", refusal("one"), "unsigned")
    assert books._unrecorded == 45
    assert len(books._told) <= 3
    await books.close()
    assert len(await subjects(database)) == 5


async def test_a_database_that_cannot_be_written_loses_only_what_was_on_its_way(tmp_path: Path) -> None:
    """The refusal is logged, and entered when it comes again."""
    database = Database(tmp_path / "tagstone.db")
    books = Bookkeeper(database, Clock(), 10)
    await books.start()
    books.refused("reg/app:v1", refusal("one"), "unsigned")
    await until(lambda: not books._told)
    await books.close()
    await database.open()
    again = Bookkeeper(database, Clock(), 10)
    await again.start()
    again.refused("reg/app:v1", refusal("one"), "unsigned")
    await again.close()
    assert await subjects(database) == ["reg/app:v1"]
    await database.close()


async def test_a_policy_is_entered_where_it_differs_from_the_last(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once per change and not once per worker; also one that has to wait for the database."""
    first, second = Bookkeeper(database, Clock(), 10), Bookkeeper(database, Clock(), 10)
    for books in (first, second):
        await books.start()

    async def policies() -> list[tuple[str | None, str | None]]:
        return [(each.read().from_, each.read().to) for each in await Ledger(database).find(kinds=("policy",))]

    async def entered(expected: list[tuple[str | None, str | None]]) -> None:
        async def so() -> bool:
            return await policies() == expected

        await until(so)

    first.decides_by("a", "started", {"rules": 1})
    second.decides_by("a", "started", {"rules": 1})
    await entered([(None, "a")])
    first.decides_by("b", "reloaded", {"rules": 2})
    await entered([(None, "a"), ("a", "b")])
    second.decides_by("b", "reloaded", {"rules": 2})
    second.decides_by("c", "reloaded", {"rules": 3})
    await entered([(None, "a"), ("a", "b"), ("b", "c")])
    for books in (first, second):
        await books.close()
    monkeypatch.setattr(bookkeeper, "_PAUSE", 0.05)
    late = Database(tmp_path / "late.db")
    waiting = Bookkeeper(late, Clock(), 10)
    await waiting.start()
    waiting.decides_by("a", "started", {})
    await until(lambda: not waiting._wake.is_set())
    await late.open()

    async def there() -> bool:
        return await Ledger(late).size() == 1

    await until(there)
    await waiting.close()
    await late.close()

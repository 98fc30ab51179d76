"""Which overwrites are classified, and what their events say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from storage.classifications import SETTLED, ClassificationStore, Classified
from storage.database import Database
from storage.deliveries import Deliveries
from storage.events import EventStore
from storage.pins import PinStore
from storage.records import Severity
from tests.unit.storage.values import APP, AT, LATER, OTHER, digest, first_pin, overwrite, revert

ONE, TWO = digest("one"), digest("two")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A fresh database with one overwritten tag, and one that is not."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    pins = PinStore(database)
    await pins.apply(first_pin("v2"))
    pin = await pins.apply(first_pin("v1"))
    assert pin is not None
    await pins.apply(overwrite(pin, "two"))
    yield database
    await database.close()


async def test_a_classification_is_kept_until_a_newer_one_comes(database: Database) -> None:
    """Of one pair in one direction."""
    store = ClassificationStore(database)
    assert await store.get(APP, ONE, TWO) is None
    for number, at in ((1, AT), (2, LATER)):
        await store.put(APP, ONE, TWO, Classified({"number": number}, at))
        assert await store.get(APP, ONE, TWO) == Classified({"number": number}, at)
    assert await store.get(APP, TWO, ONE) is None


async def test_open_events_wait_until_they_say_what_changed(database: Database) -> None:
    """What is told is added to what is there; as long as it is not settled, the event waits on."""
    store, events = ClassificationStore(database), EventStore(database)
    (waiting,) = await store.unclassified(10)
    assert (waiting.repository, waiting.before, waiting.after, waiting.at) == (APP, ONE, TWO, LATER)
    assert await store.tell(waiting.number, None, {"change": "not known", SETTLED: False}, LATER)
    assert await store.unclassified(10) == [waiting]
    (event,) = await events.list()
    assert event.severity is Severity.WARNING
    assert await store.tell(waiting.number, Severity.CRITICAL, {"kinds": ["entrypoint"], SETTLED: True}, LATER)
    assert await store.unclassified(10) == []
    (event,) = await events.list()
    assert event.severity is Severity.CRITICAL
    assert event.details == {"change": "not known", "kinds": ["entrypoint"], SETTLED: True}


async def test_what_is_over_is_not_told(database: Database) -> None:
    """An event that was closed meanwhile stays as it was, and no overwrite is pinned down by its name any more."""
    store, pins = ClassificationStore(database), PinStore(database)
    (waiting,) = await store.unclassified(10)
    assert await store.pinned(f"{APP}:v1", TWO) == (APP, ONE)
    pin = await pins.get(APP, "v1")
    assert pin is not None
    await pins.apply(revert(pin))
    assert await store.unclassified(10) == []
    assert not await store.tell(waiting.number, Severity.INFO, {"change": "x"}, LATER)
    assert await store.pinned(f"{APP}:v1", TWO) is None


async def test_what_turns_out_to_be_graver_is_told_once_more(tmp_path: Path) -> None:
    """A sink that passed it over is asked again; not where it is no graver, nor while the first message says it by itself."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    store, pins, sinks = ClassificationStore(database), PinStore(database), Deliveries(database)
    await sinks.register(("pager",), AT)
    pin = await pins.apply(first_pin())
    assert pin is not None
    await pins.apply(overwrite(pin, "two"))
    (waiting,) = await store.unclassified(10)
    assert await store.tell(waiting.number, Severity.CRITICAL, {SETTLED: False}, LATER)
    (first,) = await sinks.unassigned(("pager",), 10)
    assert first.event.severity is Severity.CRITICAL
    assert await store.tell(waiting.number, Severity.WARNING, {SETTLED: False}, LATER)
    await sinks.assign(("pager",), first, [])
    assert await store.tell(waiting.number, Severity.INFO, {SETTLED: False}, LATER)
    assert await store.tell(waiting.number, None, {"change": "x", SETTLED: False}, LATER)
    assert await sinks.unassigned(("pager",), 10) == []
    assert await store.tell(waiting.number, Severity.CRITICAL, {SETTLED: True}, LATER)
    (second,) = await sinks.unassigned(("pager",), 10)
    assert (second.number, second.resolved, second.event.severity) == (first.number, False, Severity.CRITICAL)
    assert second.id != first.id
    assert await store.tell(waiting.number, Severity.CRITICAL, {SETTLED: True}, LATER)
    assert await sinks.unassigned(("pager",), 10) == [second]
    await database.close()


async def test_of_a_repository_the_newest_are_kept(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often its tags are overwritten; of other repositories nothing goes."""
    monkeypatch.setattr("storage.classifications.KEPT", 3)
    store = ClassificationStore(database)
    await store.put(OTHER, ONE, TWO, Classified({}, AT))
    for number in range(6):
        await store.put(APP, ONE, digest(number), Classified({}, AT + timedelta(seconds=number)))
    kept = [await store.get(APP, ONE, digest(number)) is not None for number in range(6)]
    assert kept == [False, False, False, True, True, True]
    assert await store.get(OTHER, ONE, TWO) is not None

"""What is told, and when it is over."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from storage import events as module
from storage.database import Database
from storage.deliveries import Deliveries
from storage.events import EventStore
from storage.pins import PinStore
from storage.records import ACTS, Event, EventType, Severity
from storage.tables import events as events_table
from tests.unit.storage.values import APP, AT, LATER, digest, first_pin, overwrite, pinned, revert


@pytest.fixture
def events(database: Database) -> EventStore:
    """Its events."""
    return EventStore(database)


async def test_promise_03_an_overwrite_that_is_reverted_closes_its_event(pins: PinStore, events: EventStore) -> None:
    """A→B→A: told once, closed with its time when the upstream is back; a second overwrite is news again."""
    pin = await pinned(pins, first_pin())
    moved = await pinned(pins, overwrite(pin, "two"))
    assert [event.subject for event in await events.list(open_only=True)] == [pin.name]
    back = await pinned(pins, revert(moved))
    assert await events.list(open_only=True) == []
    (event,) = await events.list()
    assert event.closed_at == LATER
    await pins.apply(overwrite(back, "two"))
    assert [event.closed_at for event in await events.list()] == [None, LATER]


async def test_promise_01_an_open_event_is_told_once(pins: PinStore, events: EventStore) -> None:
    """The same overwrite seen again opens nothing; one with another digest does, and leaves the first open."""
    pin = await pinned(pins, first_pin())
    pin = await pinned(pins, overwrite(pin, "two"))
    pin = await pinned(pins, overwrite(pin, "two", LATER + timedelta(seconds=1)))
    await pins.apply(overwrite(pin, "three"))
    assert [event.digest for event in await events.list(open_only=True)] == [digest("three"), digest("two")]


async def test_closing_concerns_one_pin_and_the_named_types(pins: PinStore, events: EventStore) -> None:
    """Events about other tags and of other types stay open."""
    one, two = await pinned(pins, first_pin()), await pinned(pins, first_pin("v2"))
    one = await pinned(pins, overwrite(one, "two"))
    await pins.apply(overwrite(two, "two"))
    await events.record(Event(EventType.PIN_REVOKED, one.name, one.digest, "key expired", AT))
    await pins.apply(revert(one))
    still = {(event.type, event.subject) for event in await events.list(open_only=True)}
    assert still == {(EventType.TAG_OVERWRITTEN, two.name), (EventType.PIN_REVOKED, one.name)}


async def test_content_events_are_news_once(events: EventStore) -> None:
    """Recording says whether it is news; with and without a digest; newest first and bounded."""
    event = Event(EventType.BLOB_TAMPERED, str(APP), digest("x"), "the upstream sent other bytes", AT)
    assert await events.record(event)
    assert not await events.record(replace(event, at=LATER))
    unspecific = replace(event, digest=None)
    assert await events.record(unspecific)
    assert not await events.record(unspecific)
    assert await events.record(replace(event, type=EventType.BLOB_DAMAGED))
    assert [found.type for found in await events.list(limit=1)] == [EventType.BLOB_DAMAGED]
    assert await events.list(limit=10) == [replace(event, type=EventType.BLOB_DAMAGED), unspecific, event]


async def test_states_are_closed_by_subject_and_type(events: EventStore) -> None:
    """How many ended is said; what is closed already, or about something else, is not counted."""
    await events.record(Event(EventType.UPSTREAM_UNREACHABLE, "docker.io", None, "no route", AT))
    await events.record(Event(EventType.UPSTREAM_UNREACHABLE, "ghcr.io", None, "no route", AT))
    assert await events.close("docker.io", {EventType.UPSTREAM_UNREACHABLE}, LATER) == 1
    assert await events.close("docker.io", {EventType.UPSTREAM_UNREACHABLE}, LATER) == 0
    assert [event.subject for event in await events.list(open_only=True)] == ["ghcr.io"]


async def test_an_act_is_over_as_it_is_told(events: EventStore) -> None:
    """Acts never stay open, and the same one may happen again."""
    assert all(Event(act, "subject", None, "done", AT).closed_at == AT for act in ACTS)
    act = Event(EventType.TAG_CREATED, str(APP), digest("x"), "a new tag", AT, details={"tags": ["v2"]})
    assert await events.record(act)
    assert await events.record(act)
    assert await events.list() == [act, act]
    assert await events.list(open_only=True) == []


async def test_events_have_the_severity_of_their_type_unless_they_say(events: EventStore) -> None:
    """Severity and details are kept as they were told; events of older versions have those of their type."""
    grave = Event(EventType.TAG_OVERWRITTEN, "a", None, "m", AT, severity=Severity.CRITICAL, details={"kinds": ["user"], "n": 1})
    plain = Event(EventType.TAG_OVERWRITTEN, "b", None, "m", AT)
    assert plain.severity is Severity.WARNING
    await events.record(grave)
    await events.record(plain)
    assert await events.list() == [plain, grave]


async def test_an_event_of_an_older_version_is_read(events: EventStore, database: Database) -> None:
    """Before severities there were none: what was recorded then has that of its type, and no details."""
    event = Event(EventType.PIN_REVOKED, "a", None, "m", AT)
    await events.record(event)
    await database.write(lambda connection: connection.execute(update(events_table).values(severity=None, details=None)))
    assert await events.list() == [event]
    assert event.severity is Severity.CRITICAL


async def test_events_are_kept_for_a_while_after_their_end(
    events: EventStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open stays however old it is, and so does what a sink is still to hear of; not more than so many go at a time."""
    monkeypatch.setattr(module, "PRUNED", 2)
    for number in range(5):
        await events.record(Event(EventType.TAG_CREATED, f"old {number}", None, "m", AT))
    await events.record(Event(EventType.PIN_REVOKED, "open", None, "m", AT))
    await Deliveries(database).register(("a",), AT)
    await events.record(Event(EventType.TAG_CREATED, "to be told", None, "m", AT))
    await events.record(Event(EventType.TAG_CREATED, "young", None, "m", LATER))
    assert [await events.prune(LATER) for _ in range(4)] == [2, 2, 1, 0]
    assert [event.subject for event in await events.list()] == ["young", "to be told", "open"]


async def test_a_number_is_never_given_twice(events: EventStore) -> None:
    """Receivers know the end of an event by the number of its beginning: the newest stays, so that the next is above it."""
    for _ in range(2):
        await events.record(Event(EventType.TAG_CREATED, "a", None, "m", AT))
    assert await events.prune(LATER) == 1
    await events.record(Event(EventType.PIN_REVOKED, "b", None, "m", AT))
    assert [number for number, _ in await events.open_after(0, 10)] == [3]

"""From the outbox to the sinks: what is told, to whom, when again, and what is kept."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, Table, func, select

from storage import tables
from storage.database import Database
from storage.deliveries import GONE, Assignment, Deliveries, Patience, Work
from storage.events import EventStore
from storage.notices import Notices
from storage.outbox import OUTBOX_NOTICE
from storage.pins import PinStore
from storage.records import Delivery, DeliveryState, Event, EventType, Message, Severity, sink_subject
from tests.unit.storage.values import AT, LATER, digest, first_pin, overwrite, pinned, revert

FAR = timedelta(minutes=15)
DAY = timedelta(days=1)
PATIENCE = Patience(7 * DAY, 600)


@pytest.fixture
def events(database: Database) -> EventStore:
    """Its events."""
    return EventStore(database)


@pytest.fixture
def deliveries(database: Database) -> Deliveries:
    """Its deliveries."""
    return Deliveries(database)


def act(number: int, at: datetime = AT) -> Event:
    """Something that is over as it is told."""
    return Event(EventType.TAG_CREATED, f"docker.io/library/nginx:{number}", digest(number), "created", at)


def state(number: int, at: datetime = AT) -> Event:
    """Something that stays open."""
    return Event(EventType.TAG_OVERWRITTEN, f"docker.io/library/nginx:{number}", digest(number), "overwritten", at)


async def assign(deliveries: Deliveries, *sinks: str, due: datetime | None = None) -> list[Message]:
    """Give everything to everybody."""
    page = await deliveries.unassigned(sinks, 100)
    if page:
        await deliveries.assign(sinks, page[-1], [Assignment(sink, each, due) for each in page for sink in sinks])
    return page


async def work(
    deliveries: Deliveries, sink: str = "a", now: datetime = LATER, limit: int = 100, *, in_order: bool = True
) -> Work:
    """What a sink has to do."""
    return await deliveries.work(sink, now, now + FAR, limit, in_order=in_order)


def subjects(batch: tuple[Delivery, ...]) -> list[str]:
    """The tags that messages are about, with ``!`` where they are over."""
    return [each.message.event.subject.rpartition(":")[2] + ("!" if each.message.resolved else "") for each in batch]


async def rows(database: Database) -> dict[str, int]:
    """How many rows the tables have."""
    found = {}
    for name, table in (("outbox", tables.outbox), ("deliveries", tables.deliveries), ("sinks", tables.alert_sinks)):
        found[name] = await database.read(_count, table)
    return found


def _count(connection: Connection, table: Table) -> int:
    found: int = connection.execute(select(func.count()).select_from(table)).scalar_one()
    return found


# -- the outbox ---------------------------------------------------------------------------------------------------------


async def test_nothing_is_kept_where_nobody_is_told(database: Database, events: EventStore) -> None:
    """Without a sink the outbox stays empty: it would grow for nobody."""
    await events.record(state(1))
    assert await rows(database) == {"outbox": 0, "deliveries": 0, "sinks": 0}


async def test_promise_58_a_pin_and_its_message_are_one_transaction(
    database: Database, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a pin's change opens and closes is in the outbox when it commits; where it fails, neither is there."""
    pins = PinStore(database)
    await deliveries.register(("a",), AT)
    pin = await pinned(pins, first_pin())
    moved = await pinned(pins, overwrite(pin, "two"))
    await pins.apply(revert(moved, LATER + timedelta(seconds=1)))
    opened, closed = await deliveries.unassigned(("a",), 10)
    assert (opened.resolved, opened.at, closed.resolved, closed.at) == (False, LATER, True, LATER + timedelta(seconds=1))
    assert opened.number == closed.number
    assert opened.id != closed.id
    assert "." not in opened.id + closed.id

    def fail(*_: object) -> None:
        raise RuntimeError("the last step of the transaction")

    again = await pins.get(moved.repository, moved.tag)
    assert again is not None
    monkeypatch.setattr("storage.pins.notify", fail)
    with pytest.raises(RuntimeError):
        await pins.apply(overwrite(again, "three"))
    assert len(await deliveries.unassigned(("a",), 10)) == 2
    assert await pins.get(moved.repository, moved.tag) == again


async def test_the_same_news_is_one_message(deliveries: Deliveries, events: EventStore) -> None:
    """A state that is open already leaves no second message; an act does each time."""
    await deliveries.register(("a",), AT)
    for event in (state(1), state(1), act(2), act(2)):
        await events.record(event)
    assert [each.event.type.value for each in await deliveries.unassigned(("a",), 10)] == [
        "tag.overwritten",
        "tag.created",
        "tag.created",
    ]


async def test_every_message_leaves_a_notice(database: Database, deliveries: Deliveries, events: EventStore) -> None:
    """So that the worker with the duty hears of what another one wrote."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    async with asyncio.timeout(60):
        assert [notice.kind for notice in await Notices(database).wait(0)] == [OUTBOX_NOTICE]


# -- to the sinks -------------------------------------------------------------------------------------------------------


async def test_a_sink_hears_of_what_happens_from_its_first_day_on(deliveries: Deliveries, events: EventStore) -> None:
    """One that comes later is not told what was told before; registering again changes nothing."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    await deliveries.register(("a", "b"), AT)
    await events.record(act(2))
    assert len(await assign(deliveries, "a", "b")) == 2
    assert subjects((await work(deliveries, "a")).batch) == ["1", "2"]
    assert subjects((await work(deliveries, "b")).batch) == ["2"]


async def test_messages_are_assigned_once(deliveries: Deliveries, events: EventStore) -> None:
    """Handing out the same page again, after a crash or by two workers, changes nothing."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    page = await deliveries.unassigned(("a",), 10)
    for _ in range(2):
        await deliveries.assign(("a",), page[-1], [Assignment("a", each) for each in page])
    assert await deliveries.unassigned(("a",), 10) == []
    assert subjects((await work(deliveries)).batch) == ["1"]


async def test_what_is_not_wanted_is_passed_by(deliveries: Deliveries, events: EventStore) -> None:
    """A message that no sink wants is looked at once."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    (page,) = await deliveries.unassigned(("a",), 10)
    await deliveries.assign(("a",), page, [])
    assert await deliveries.unassigned(("a",), 10) == []
    assert (await work(deliveries)).batch == ()


async def test_what_more_is_known_of_an_event_is_kept(deliveries: Deliveries, events: EventStore) -> None:
    """Severity, message and details as they were found before it was told hold for everything that is told later."""
    await deliveries.register(("a",), AT)
    await events.record(state(1))
    (message,) = await deliveries.unassigned(("a",), 10)
    graver = Event(
        EventType.TAG_OVERWRITTEN, "ignored", None, "more", AT, severity=Severity.CRITICAL, details={"kinds": ["user"]}
    )
    await deliveries.assign(("a",), message, [Assignment("a", message)], [(message, graver)])
    (waiting,) = (await work(deliveries)).batch
    event = waiting.message.event
    assert (event.severity, event.message, event.details) == (Severity.CRITICAL, "more", {"kinds": ["user"]})
    assert event.subject == state(1).subject
    assert await events.list() == [event]


# -- one sink -----------------------------------------------------------------------------------------------------------


async def test_the_end_of_an_event_waits_for_its_beginning(deliveries: Deliveries, events: EventStore) -> None:
    """While the beginning is put off its end is not due, others are; for a digest, order is no matter."""
    await deliveries.register(("a",), AT)
    await events.record(state(1))
    await events.record(state(2))
    await events.close(state(1).subject, (EventType.TAG_OVERWRITTEN,), LATER)
    await assign(deliveries, "a")
    first = await work(deliveries)
    assert subjects(first.batch) == ["1", "2"]
    later = LATER + timedelta(seconds=30)
    await deliveries.postponed("a", {first.batch[0].id: later}, LATER, LATER, "no", PATIENCE)
    assert subjects((await work(deliveries)).batch) == ["2"]
    assert subjects((await work(deliveries, in_order=False)).batch) == ["2", "1!"]
    assert (await work(deliveries)).next_at == later
    assert subjects((await work(deliveries, now=later)).batch) == ["2", "1"]
    await deliveries.delivered("a", [first.batch[0].id], later)
    assert subjects((await work(deliveries, now=later)).batch) == ["2", "1!"]


async def test_promise_55_what_a_wrong_clock_put_off_is_due(deliveries: Deliveries, events: EventStore) -> None:
    """A time further ahead than anything is ever put off was written by a clock that has been set back since."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    await assign(deliveries, "a")
    (waiting,) = (await work(deliveries)).batch
    due = {waiting.id: LATER + timedelta(days=365)}
    await deliveries.postponed("a", due, LATER, LATER, "no", PATIENCE)
    assert subjects((await work(deliveries)).batch) == ["1"]


async def test_a_failure_is_counted_and_told_once_and_so_is_the_recovery(deliveries: Deliveries, events: EventStore) -> None:
    """The sink's numbers, the event about it, and what was put off is due at once when it is back."""
    await deliveries.register(("a", "b"), AT)
    await events.record(act(1))
    await events.record(act(2))
    await assign(deliveries, "a", "b")
    one, two = (await work(deliveries)).batch
    tell = Event(EventType.SINK_FAILING, sink_subject("a"), None, "a fails", LATER)
    for number, expected in ((1, True), (2, False)):
        due = {one.id: LATER + timedelta(seconds=60)}
        retry = LATER + timedelta(seconds=number)
        assert await deliveries.postponed("a", due, LATER, retry, f"no {number}", PATIENCE, tell) == (0, expected)
    found = await work(deliveries)
    assert (found.failures, found.failing_since, found.retry_at) == (2, LATER, LATER + timedelta(seconds=2))
    assert [each.id for each in found.batch] == [two.id]
    status, other = await deliveries.status()
    assert (status.name, status.waiting, status.failures, status.error) == ("a", 2, 2, "no 2")
    assert (other.name, other.waiting, other.failures, other.error) == ("b", 2, 0, None)
    assert [each.event.type for each in await deliveries.unassigned(("b",), 10)] == [EventType.SINK_FAILING]
    assert await deliveries.delivered("a", [two.id], LATER)
    assert not await deliveries.delivered("a", [], LATER)
    found = await work(deliveries)
    assert (found.failures, found.failing_since, found.retry_at) == (0, None, None)
    assert [(each.id, each.attempts, each.due_at) for each in found.batch] == [(one.id, 2, None)]
    assert [each.resolved for each in await deliveries.unassigned(("b",), 10)] == [False, True]
    assert await events.list(open_only=True) == []
    (status, _) = await deliveries.status()
    assert (status.waiting, status.delivered, status.delivered_at, status.oldest) == (1, 1, LATER, AT)


async def test_what_is_refused_has_failed_and_can_be_tried_again(deliveries: Deliveries, events: EventStore) -> None:
    """It is listed with the reason, counted, told, and waits again when somebody says so."""
    await deliveries.register(("a", "b"), AT)
    await events.record(act(1))
    await assign(deliveries, "a", "b")
    (one,) = (await work(deliveries)).batch
    tell = Event(EventType.SINK_FAILING, sink_subject("a"), None, "a refuses", LATER)
    assert await deliveries.refused("a", [one.id], LATER, "400: no", tell)
    assert (await work(deliveries)).batch == ()
    (failed,) = await deliveries.list("a")
    assert (failed.state, failed.error, failed.attempts, failed.ended_at) == (DeliveryState.FAILED, "400: no", 1, LATER)
    assert [each.sink for each in await deliveries.list()] == ["a", "b"]
    (status, _) = await deliveries.status()
    assert (status.waiting, status.failed, status.rejected) == (0, 1, 1)
    assert await deliveries.retry("b") == 0
    assert await deliveries.retry() == 1
    (again,) = (await work(deliveries)).batch
    assert (again.id, again.attempts, again.message.id) == (one.id, 0, one.message.id)


async def test_retrying_does_not_wait_for_the_sink(deliveries: Deliveries, events: EventStore) -> None:
    """An operator who mended a sink need not wait until it would be asked again."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    await assign(deliveries, "a")
    (one,) = (await work(deliveries)).batch
    due = {one.id: LATER + timedelta(seconds=60)}
    await deliveries.postponed("a", due, LATER, LATER + DAY, "no", PATIENCE)
    assert await deliveries.retry("a") == 1
    found = await work(deliveries)
    assert found.retry_at is None
    assert subjects(found.batch) == ["1"]


async def test_what_waited_too_long_is_given_up_at_the_next_failure(deliveries: Deliveries, events: EventStore) -> None:
    """All of it, and only then: a sink that is back in time gets everything, however old. What is newer waits on."""
    await deliveries.register(("a",), AT)
    await events.record(act(1, AT))
    await events.record(act(2, LATER + DAY))
    await assign(deliveries, "a")
    now, day = LATER + DAY, Patience(DAY, 600)
    _, two = (await work(deliveries, now=now)).batch
    half = now + DAY / 2
    assert await deliveries.postponed("a", {two.id: now}, now, half, "down", day) == (0, False)
    assert await deliveries.postponed("a", {two.id: now}, now, half, "down", day) == (1, False)
    assert subjects((await work(deliveries, now=now)).batch) == ["2"]
    (given_up, _) = await deliveries.list()
    assert (given_up.state, given_up.error, given_up.ended_at) == (DeliveryState.FAILED, "down", now)


async def test_promise_55_a_clock_that_leaps_makes_nothing_old(deliveries: Deliveries, events: EventStore) -> None:
    """What was told before the clock was mended is not given up at the next failure: nobody has waited that long for it."""
    await deliveries.register(("a",), AT)
    await events.record(act(1, AT - 365 * DAY))
    await assign(deliveries, "a")
    (one,) = (await work(deliveries)).batch
    assert await deliveries.postponed("a", {one.id: LATER}, LATER, LATER, "down", PATIENCE) == (0, False)


async def test_what_only_this_message_does_ends_too(deliveries: Deliveries, events: EventStore) -> None:
    """A sink that takes all others, and fails at this one again and again: it is given up after so many attempts."""
    await deliveries.register(("a",), AT)
    await events.record(act(1, LATER))
    await assign(deliveries, "a")
    (one,) = (await work(deliveries)).batch
    outcomes = []
    for _ in range(3):
        outcomes.append(await deliveries.postponed("a", {one.id: LATER}, LATER, LATER, "500", Patience(DAY, 3)))
        await deliveries.delivered("a", [], LATER)
    assert outcomes == [(0, False), (0, False), (1, False)]


# -- looking after ------------------------------------------------------------------------------------------------------


async def test_what_ended_is_kept_for_a_while(database: Database, deliveries: Deliveries, events: EventStore) -> None:
    """Then the delivery goes, and its message when nobody needs it; what waits stays however old it is."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    await events.record(act(2))
    await assign(deliveries, "a")
    one, _ = (await work(deliveries)).batch
    await deliveries.delivered("a", [one.id], LATER)
    assert await deliveries.prune(LATER, ended_before=LATER, unseen_since=AT - DAY) == 0
    assert await rows(database) == {"outbox": 2, "deliveries": 2, "sinks": 1}
    now = LATER + DAY
    assert await deliveries.prune(now, ended_before=now, unseen_since=AT - DAY) == 1
    assert await rows(database) == {"outbox": 1, "deliveries": 1, "sinks": 1}


async def test_what_was_not_handed_out_is_not_removed(database: Database, deliveries: Deliveries, events: EventStore) -> None:
    """An old message that a sink has still to look at stays."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    now = LATER + DAY
    await deliveries.prune(now, ended_before=now, unseen_since=AT - DAY)
    assert (await rows(database))["outbox"] == 1


async def test_a_sink_that_nobody_has_any_more_is_forgotten(
    database: Database, deliveries: Deliveries, events: EventStore
) -> None:
    """What waited for it has failed; that it was failing is over; without any sink nothing is kept for one."""
    await deliveries.register(("a",), AT)
    await events.record(act(1))
    await assign(deliveries, "a")
    (one,) = (await work(deliveries)).batch
    tell = Event(EventType.SINK_FAILING, sink_subject("a"), None, "a fails", AT)
    await deliveries.postponed("a", {one.id: LATER}, LATER, LATER, "no", PATIENCE, tell)
    now = AT + 2 * DAY
    await deliveries.prune(now, ended_before=AT, unseen_since=now - DAY)
    (failed,) = await deliveries.list()
    assert (failed.state, failed.error) == (DeliveryState.FAILED, GONE)
    assert await events.list(open_only=True) == []
    assert await deliveries.status() == []
    assert await deliveries.retry() == 0
    await events.record(act(2))
    later = now + DAY
    await deliveries.prune(later, ended_before=later, unseen_since=now)
    assert await rows(database) == {"outbox": 0, "deliveries": 0, "sinks": 0}

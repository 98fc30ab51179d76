"""The deliverer of one sink, with a clock and a sink of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.policy.alerts import FAILING_AFTER, CloudEvents, Digest, Filter, Http, SinkPolicy
from proxy.policy.patterns import Pattern
from proxy.services import delivery
from proxy.services.delivery import Deliverer
from proxy.sinks.model import Answer, Kind
from storage.database import Database
from storage.deliveries import Assignment, Deliveries, Patience
from storage.errors import DatabaseUnavailable
from storage.events import EventStore
from storage.records import DeliveryState, Event, EventType, Message, sink_subject

START = datetime(2026, 3, 14, 9, tzinfo=UTC)
TAKEN, REFUSED = Answer(Kind.TAKEN, "ok"), Answer(Kind.REFUSED, "400: bad label")
PATIENCE = Patience(timedelta(days=7), 100)
DOWN, GONE = Answer(Kind.FAILED, "refuses connections"), Answer(Kind.GONE, "410")


class FakeSink:
    """Answers as it is told; remembers what it was sent."""

    def __init__(self, batch: int = 1, resend: float | None = None) -> None:
        self.batch = batch
        self.resend = resend
        self.sent: list[tuple[Message, ...]] = []
        self.reminded: list[tuple[Event, ...]] = []
        self.answer: Callable[[Sequence[Message]], Answer] = lambda _: TAKEN
        self.hold: asyncio.Event | None = None
        self.begun = asyncio.Event()

    async def send(self, messages: Sequence[Message]) -> Answer:
        self.begun.set()
        if self.hold is not None:
            await self.hold.wait()
        self.sent.append(tuple(messages))
        return self.answer(messages)

    async def remind(self, events: Sequence[Event]) -> Answer:
        self.reminded.append(tuple(events))
        return self.answer(())

    async def close(self) -> None:
        """Nothing to close."""


class House:
    """A database with one sink and its deliverer; the time is the test's."""

    def __init__(self, database: Database, sink: FakeSink, policy: SinkPolicy, give_up: timedelta = timedelta(days=7)) -> None:
        self.now = START
        self.sink = sink
        self.policy = policy
        self.events = EventStore(database)
        self.deliveries = Deliveries(database)
        self.deliverer = Deliverer(
            policy, sink, self.deliveries, self.events, lambda: self.now, give_up=give_up, chance=lambda: 0.999999
        )

    async def tell(self, *numbers: int, kind: EventType = EventType.TAG_OVERWRITTEN) -> None:
        """Events, given to the sink."""
        for number in numbers:
            await self.events.record(Event(kind, f"docker.io/library/nginx:{number}", None, "m", self.now))
        await self.hand_out()

    async def hand_out(self) -> None:
        """Give the sink what it wants of the outbox."""
        names = (self.policy.name,)
        if page := await self.deliveries.unassigned(names, 1000):
            due = None if self.policy.digest is None else self.policy.digest.after(self.now)
            plan = [Assignment(self.policy.name, each, due) for each in page if self.policy.wants(each.event)]
            await self.deliveries.assign(names, page[-1], plan)

    async def step(self, times: int = 1) -> None:
        """Let the deliverer work; it is woken at once where it would wait."""
        for _ in range(times):
            step = asyncio.create_task(self.deliverer.step())
            while not step.done():
                self.deliverer.wake()
                await asyncio.wait((step,), timeout=0.002)
            await step

    async def run(self, times: int = 30) -> None:
        """Let the deliverer work while the time moves to when it wants to work again; until nothing waits, or so many times."""
        for _ in range(times):
            await self.step()
            (status,) = await self.deliveries.status()
            if status.waiting == 0:
                return
            waiting = [each for each in await self.deliveries.list() if each.state is DeliveryState.WAITING]
            first = min(each.due_at or self.now for each in waiting)
            self.now = max(self.now, first, status.retry_at or first)

    @property
    def tags(self) -> list[str]:
        """What was sent, by tags, ``!`` where it was over."""
        return [
            each.event.subject.rpartition(":")[2] + ("!" if each.resolved else "") for batch in self.sink.sent for each in batch
        ]


def policy_of(**more: object) -> SinkPolicy:
    """The policy of the sink ``a``."""
    return replace(SinkPolicy("a", CloudEvents(Http("https://a.example"))), **more)  # type: ignore[arg-type]  # fields by name


@pytest.fixture
async def database(database: Database) -> Database:
    """A fresh database that knows the sink."""
    await Deliveries(database).register(("a",), START)
    return database


async def test_what_is_told_is_sent_once_in_order(database: Database) -> None:
    """Then nothing is left, and it is noted."""
    house = House(database, FakeSink(), policy_of())
    await house.tell(1, 2, 3)
    await house.step(5)
    assert house.tags == ["1", "2", "3"]
    (status,) = await house.deliveries.status()
    assert (status.waiting, status.delivered, status.delivered_at) == (0, 3, START)


async def test_promise_58_a_sink_that_is_down_is_asked_less_and_less(database: Database) -> None:
    """1, 2, 4, … seconds, a quarter of an hour at most; when it is back, everything goes out at once."""
    house = House(database, FakeSink(), policy_of())
    house.sink.answer = lambda _: DOWN
    await house.tell(*range(5))
    pauses = []
    for _ in range(14):
        await house.step(3)
        before, status = house.now, (await house.deliveries.status())[0]
        assert status.retry_at is not None
        pauses.append(round((status.retry_at - before).total_seconds()))
        house.now = status.retry_at
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]
    assert len(house.sink.sent) == 14
    house.sink.answer = lambda _: TAKEN
    house.sink.sent.clear()
    await house.step(8)
    assert sorted(house.tags) == ["0", "1", "2", "3", "4"]


async def test_a_failing_sink_is_an_event_and_so_is_its_recovery(database: Database) -> None:
    """After so many failures, once; the log says so, too; over with the first success."""
    house = House(database, FakeSink(), policy_of())
    house.sink.answer = lambda _: DOWN
    await house.tell(1)
    with capture_logs() as logs:
        for number in range(FAILING_AFTER + 2):
            open_now = [event.type for event in await house.events.list(open_only=True)]
            assert (EventType.SINK_FAILING in open_now) == (number >= FAILING_AFTER)
            await house.step()
            house.now += timedelta(hours=1)
        house.sink.answer = lambda _: TAKEN
        await house.step()
    said = [line["event"] for line in logs if line["event"].startswith("alerts.sink")]
    assert said == ["alerts.sink_failing", "alerts.sink_recovered"]
    event = next(event for event in await house.events.list() if event.type is EventType.SINK_FAILING)
    assert (event.subject, event.closed_at) == (sink_subject("a"), house.now)
    assert event.message == "the alert sink a has not taken alerts 5 times in a row: refuses connections"
    assert event.details == {"sink": "a", "failing_since": "2026-03-14T09:00:00+00:00"}


async def test_retry_after_is_obeyed(database: Database) -> None:
    """The sink is left alone for as long as it asks, also by what comes meanwhile."""
    house = House(database, FakeSink(), policy_of())
    house.sink.answer = lambda _: Answer(Kind.FAILED, "429", 300)
    await house.tell(1)
    await house.step()
    await house.tell(2)
    house.now += timedelta(seconds=299)
    await house.step(2)
    assert len(house.sink.sent) == 1
    house.now += timedelta(seconds=1)
    house.sink.answer = lambda _: TAKEN
    await house.step(3)
    assert sorted(house.tags) == ["1", "1", "2"]


async def test_what_is_refused_is_told_and_not_tried_again(database: Database) -> None:
    """The others go on; the refusal is an event, over with the next success."""
    house = House(database, FakeSink(), policy_of())
    house.sink.answer = lambda messages: REFUSED if messages[0].event.subject.endswith(":1") else TAKEN
    await house.tell(1)
    with capture_logs() as logs:
        await house.step()
    assert [line["log_level"] for line in logs] == ["error", "error"]
    (event, _) = await house.events.list(open_only=True)
    assert event.message == "the alert sink a refused an alert, and it is not tried again: 400: bad label"
    await house.tell(2)
    await house.step(4)
    assert house.tags == ["1", "2"]
    assert [event.type for event in await house.events.list(open_only=True)] == [EventType.TAG_OVERWRITTEN] * 2
    (failed,) = await house.deliveries.list()
    assert (failed.state, failed.error) == (DeliveryState.FAILED, "400: bad label")


async def test_who_is_gone_is_asked_once_a_day(database: Database) -> None:
    """410: told at once, nothing lost, tried again tomorrow or when somebody says so."""
    house = House(database, FakeSink(), policy_of())
    house.sink.answer = lambda _: GONE
    await house.tell(1)
    await house.step()
    (newest,) = await house.events.list(open_only=True, limit=1)
    assert newest.type is EventType.SINK_FAILING
    house.now += timedelta(hours=23)
    await house.step()
    assert len(house.sink.sent) == 1
    house.sink.answer = lambda _: TAKEN
    await house.deliveries.retry("a")
    await house.step(2)
    assert house.tags == ["1", "1"]


async def test_one_message_that_a_sink_stumbles_over_holds_up_no_other(database: Database) -> None:
    """A receiver with a bug answers 500 to one of them: the rest is delivered, and that one is tried less and less."""
    house = House(database, FakeSink(), policy_of())
    house.sink.answer = lambda messages: DOWN if messages[0].event.subject.endswith(":3") else TAKEN
    await house.tell(*range(10))
    await house.run(60)
    assert {tag for tag in house.tags if tag != "3"} == set("012456789")
    assert len([tag for tag in house.tags if tag != "3"]) == 9
    assert house.tags.count("3") > 3
    (waiting,) = [each for each in await house.deliveries.list() if each.message.event.type is EventType.TAG_OVERWRITTEN]
    assert waiting.state is DeliveryState.WAITING


async def test_of_a_batch_that_is_refused_the_good_ones_are_taken(database: Database) -> None:
    """Alertmanager takes what it can and answers 400: each is then sent by itself."""
    house = House(database, FakeSink(batch=100), policy_of())
    house.sink.answer = lambda messages: REFUSED if any(each.event.subject.endswith(":1") for each in messages) else TAKEN
    await house.tell(0, 1, 2)
    await house.step()
    assert [len(batch) for batch in house.sink.sent] == [3, 1, 1, 1]
    states = {each.message.event.subject[-1]: each.state for each in await house.deliveries.list()}
    assert states == {"1": DeliveryState.FAILED}
    assert (await house.deliveries.status())[0].delivered == 2


async def test_what_waited_too_long_is_given_up(database: Database) -> None:
    """A sink that is down for longer than ``give_up``: it is logged, counted, and can be tried again."""
    house = House(database, FakeSink(), policy_of(), give_up=timedelta(minutes=1))
    house.sink.answer = lambda _: DOWN
    await house.tell(1, 2)
    with capture_logs() as logs:
        for _ in range(8):
            await house.step()
            house.now += timedelta(seconds=64)
    assert [line["messages"] for line in logs if line["event"] == "alerts.given_up"] == [2]
    (status,) = await house.deliveries.status()
    assert (status.waiting, status.failed, status.rejected) == (0, 2, 2)


async def test_promise_55_a_clock_that_is_set_back_holds_nothing_up(database: Database) -> None:
    """A year back, with a sink and its messages put off: they are due, the sink too."""
    house = House(database, FakeSink(), policy_of())
    house.sink.answer = lambda _: DOWN
    await house.tell(1)
    await house.step(2)
    house.now -= timedelta(days=365)
    house.sink.answer = lambda _: TAKEN
    await house.step(2)
    assert house.tags == ["1", "1"]
    assert (await house.deliveries.status())[0].waiting == 0


async def test_promise_55_a_clock_that_leaps_ahead_loses_nothing_that_is_taken(database: Database) -> None:
    """A year ahead: what waits is old then, and sent all the same."""
    house = House(database, FakeSink(), policy_of())
    await house.tell(1)
    house.now += timedelta(days=365)
    await house.step()
    assert house.tags == ["1"]


async def test_a_digest_gathers_what_came(database: Database) -> None:
    """One attempt with everything, when it is due; what came later is for the next; an end does not wait for its beginning."""
    house = House(database, FakeSink(batch=5000), policy_of(digest=Digest.parse("daily at 08:00")))
    await house.tell(1, 2)
    await house.events.close("docker.io/library/nginx:1", (EventType.TAG_OVERWRITTEN,), house.now)
    await house.hand_out()
    await house.step(2)
    assert house.sink.sent == []
    house.now = datetime(2026, 3, 15, 8, tzinfo=UTC)
    await house.tell(3)
    await house.step(2)
    assert house.tags == ["1", "2", "1!"]
    assert len(house.sink.sent) == 1
    house.now += timedelta(days=1)
    await house.step(2)
    assert house.tags == ["1", "2", "1!", "3"]


async def test_a_digest_that_failed_is_tried_again_soon(database: Database) -> None:
    """Not tomorrow; and what is for tomorrow's is not sent with it."""
    house = House(database, FakeSink(batch=5000), policy_of(digest=Digest.parse("daily at 08:00")))
    house.sink.answer = lambda _: DOWN
    await house.tell(1)
    house.now = datetime(2026, 3, 15, 8, tzinfo=UTC)
    await house.tell(2)
    await house.step()
    house.sink.answer = lambda _: TAKEN
    house.now += timedelta(seconds=2)
    await house.step(2)
    assert house.tags == ["1", "1"]


async def test_what_is_open_is_sent_again_and_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches, what the sink wants of it; from the start on, whether it was told before or not."""
    monkeypatch.setattr(delivery, "PAGE", 3)
    wanted = Filter((Pattern.compile("tag.overwritten"),))
    house = House(database, FakeSink(batch=2, resend=0.001), policy_of(filter=wanted))
    await house.tell(*range(5))
    await house.tell(6, kind=EventType.TAG_DELETED)
    await house.tell(7, kind=EventType.TAG_CREATED)
    await house.step(3)
    await asyncio.sleep(0.002)
    await house.step()
    assert [[event.subject[-1] for event in each] for each in house.sink.reminded[:3]] == [["0", "1"], ["2"], ["3", "4"]]


async def test_a_reminder_that_fails_counts_and_one_that_is_taken_ends_it(database: Database) -> None:
    """So that a sink that nothing new is for is known to be down, too."""
    house = House(database, FakeSink(batch=10, resend=0.001), policy_of())
    await house.tell(1)
    await house.step()
    house.sink.answer = lambda _: DOWN
    for _ in range(FAILING_AFTER):
        await asyncio.sleep(0.002)
        await house.step(2)
        house.now += timedelta(hours=1)
    assert (await house.deliveries.status())[0].failures == FAILING_AFTER
    (newest,) = await house.events.list(open_only=True, limit=1)
    assert newest.type is EventType.SINK_FAILING
    house.sink.answer = lambda _: TAKEN
    await asyncio.sleep(0.002)
    await house.step()
    assert (await house.deliveries.status())[0].failures == 0


async def test_a_sink_that_was_not_asked_has_not_recovered(database: Database) -> None:
    """Where the only thing that is open is its own failure, of which it is not told, a reminder says nothing of it."""
    house = House(database, FakeSink(batch=10, resend=0.001), policy_of())
    house.sink.answer = lambda _: DOWN
    await house.tell(1, kind=EventType.TAG_CREATED)
    await house.step()
    for _ in range(FAILING_AFTER - 1):
        (waiting,), (status,) = await house.deliveries.list(), await house.deliveries.status()
        assert waiting.due_at is not None
        assert status.retry_at is not None
        house.now = max(waiting.due_at, status.retry_at)
        await house.step()
    (waiting,), (status,) = await house.deliveries.list(), await house.deliveries.status()
    assert (status.failures, waiting.attempts) == (FAILING_AFTER, FAILING_AFTER)
    await house.deliveries.postponed("a", {waiting.id: house.now + timedelta(minutes=10)}, house.now, house.now, "x", PATIENCE)
    await asyncio.sleep(0.002)
    await house.step()
    assert house.sink.reminded == []
    assert (await house.deliveries.status())[0].failures == FAILING_AFTER + 1
    (newest,) = await house.events.list(open_only=True)
    assert newest.type is EventType.SINK_FAILING


async def test_an_attempt_under_way_may_end_when_the_server_stops(database: Database) -> None:
    """What was taken is noted, so that it is not sent again."""
    house = House(database, FakeSink(), policy_of())
    house.sink.hold = asyncio.Event()
    await house.tell(1)
    step = asyncio.create_task(house.deliverer.step())
    await house.sink.begun.wait()
    step.cancel()
    await asyncio.sleep(0)
    house.sink.hold.set()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert (await house.deliveries.status())[0].delivered == 1


async def test_an_attempt_that_does_not_end_is_broken_off(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits in the database for the next start."""
    monkeypatch.setattr(delivery, "GRACE", 0.01)
    house = House(database, FakeSink(), policy_of())
    house.sink.hold = asyncio.Event()
    await house.tell(1)
    step = asyncio.create_task(house.deliverer.step())
    await house.sink.begun.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    (status,) = await house.deliveries.status()
    assert (status.waiting, status.failures) == (1, 0)


async def test_promise_53_a_database_that_does_not_answer_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deliverer says so and goes on when it does; what was sent and could not be noted is sent again under its id."""
    house = House(database, FakeSink(), policy_of())
    await house.tell(1)

    async def locked(*_: object) -> bool:
        raise DatabaseUnavailable("another process keeps it locked")

    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(house.deliveries, "delivered", locked)
        await house.step()
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["alerts.database"]
    await house.step(2)
    (first,), (second,) = house.sink.sent
    assert first.id == second.id
    assert (await house.deliveries.status())[0].waiting == 0


@settings(max_examples=12)
@given(
    answers=st.lists(st.sampled_from([TAKEN, DOWN, REFUSED, Answer(Kind.FAILED, "429", 30)]), max_size=25),
    count=st.integers(1, 6),
    batch=st.sampled_from([1, 3]),
)
async def test_promise_58_nothing_is_lost_and_nothing_is_taken_twice(
    tmp_path_factory: pytest.TempPathFactory, answers: list[Answer], count: int, batch: int
) -> None:
    """However a sink answers for a while: in the end every message was taken once, or refused and is listed as failed."""
    database = Database(tmp_path_factory.mktemp("outbox") / "tagstone.db")
    await database.open()
    try:
        await Deliveries(database).register(("a",), START)
        house = House(database, FakeSink(batch=batch), policy_of())
        script = iter(answers)
        taken: list[str] = []

        def answer(messages: Sequence[Message]) -> Answer:
            chosen = next(script, TAKEN)
            if chosen.taken:
                taken.extend(each.id for each in messages)
            return chosen

        house.sink.answer = answer
        await house.tell(*range(count))
        ids = {each.message.id for each in await house.deliveries.list()}
        await house.run(80)
        failed = [each.message.id for each in await house.deliveries.list() if each.state is DeliveryState.FAILED]
        assert len(taken) == len(set(taken))
        assert set(taken) | set(failed) == ids
        assert not set(taken) & set(failed)
    finally:
        await database.close()

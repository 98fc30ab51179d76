"""From the outbox to the sinks that want it: by one worker of all, with what more is known, as it is configured now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from proxy.policy.alerts import AlertPolicy, CloudEvents, Digest, Filter, Http, SinkPolicy
from proxy.services import alerts as module
from proxy.services.alerts import Alerts, Enrich, make_sink, plain
from proxy.sinks.model import Answer, Kind
from storage.classifications import ClassificationStore
from storage.database import Database
from storage.deliveries import Assignment, Deliveries
from storage.errors import DatabaseUnavailable
from storage.events import EventStore
from storage.leases import Leases
from storage.records import Event, EventType, Message, Severity
from storage.tables import deliveries
from tests.harness import until

NOW = datetime(2026, 3, 14, 9, tzinfo=UTC)
Sent = dict[str, list[Message]]


class Recording:
    """A sink that takes everything and remembers it under its name."""

    batch = 1
    resend: float | None = None

    def __init__(self, name: str, sent: Sent) -> None:
        self._name = name
        self._sent = sent

    async def send(self, messages: Sequence[Message]) -> Answer:
        self._sent.setdefault(self._name, []).extend(messages)
        return Answer(Kind.TAKEN, "ok")

    async def remind(self, events: Sequence[Event]) -> Answer:
        raise AssertionError(events)

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What sinks were sent; they are all of the test's own."""
    sent: Sent = {}
    monkeypatch.setattr(module, "make_sink", lambda policy, source, agent: Recording(policy.name, sent))
    return sent


def sink(name: str, **more: object) -> SinkPolicy:
    """A sink."""
    return replace(SinkPolicy(name, CloudEvents(Http(f"https://{name}.example"))), **more)  # type: ignore[arg-type]  # by name


def policy(*sinks: SinkPolicy) -> AlertPolicy:
    """A configuration."""
    return AlertPolicy(sinks)


def service(database: Database, configured: AlertPolicy, enrich: Enrich = plain) -> Alerts:
    """A server's alerts."""
    return Alerts(
        configured,
        Deliveries(database),
        EventStore(database),
        Leases(database),
        lambda: NOW,
        user_agent="t",
        enrich=enrich,
    )


async def tell(database: Database, number: int, kind: EventType = EventType.TAG_OVERWRITTEN) -> None:
    """An event."""
    await EventStore(database).record(Event(kind, f"docker.io/library/nginx:{number}", None, "m", NOW))


def has(sent: Sent, **counts: int) -> Callable[[], bool]:
    """Whether sinks were sent so many."""
    return lambda: {name: len(messages) for name, messages in sent.items()} == counts


async def test_each_sink_is_told_what_it_wants(database: Database, sent: Sent) -> None:
    """By severity, here; an event that came before the duty was taken up is not missed."""
    alerts = service(database, policy(sink("all"), sink("grave", filter=Filter(severity=Severity.CRITICAL))))
    await alerts.start()
    await tell(database, 1)
    await tell(database, 2, EventType.PIN_REVOKED)
    alerts.wake()
    await until(has(sent, all=2, grave=1))
    await alerts.close()
    assert [message.event.type for message in sent["grave"]] == [EventType.PIN_REVOKED]


async def test_an_event_says_what_more_is_known_before_it_is_told(database: Database, sent: Sent) -> None:
    """Graver now, it passes a filter that it would not have passed; the events' list says the same."""

    async def graver(event: Event) -> Event:
        return replace(event, severity=Severity.CRITICAL, details={"kinds": ["user"]})

    alerts = service(database, policy(sink("grave", filter=Filter(severity=Severity.CRITICAL))), graver)
    await alerts.start()
    await tell(database, 1)
    alerts.wake()
    await until(has(sent, grave=1))
    await alerts.close()
    (event,) = await EventStore(database).list()
    assert sent["grave"][0].event == event
    assert (event.severity, event.details) == (Severity.CRITICAL, {"kinds": ["user"]})


async def test_what_more_is_known_is_asked_of_few_events_at_a_time(database: Database, sent: Sent) -> None:
    """When many tags are overwritten at once, each question is some requests to their upstream."""
    asking, most = 0, 0

    async def ask(event: Event) -> Event:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0.001)
        asking -= 1
        return replace(event, details={"asked": True})

    alerts = service(database, policy(sink("all")), ask)
    for number in range(15):
        await tell(database, number)
    await Deliveries(database).register(("all",), NOW)
    for number in range(15, 30):
        await tell(database, number)
    await alerts.start()
    await until(has(sent, all=15))
    await alerts.close()
    assert most == module.ENRICH_AT_A_TIME
    assert all(message.event.details == {"asked": True} for message in sent["all"])


async def test_who_wants_only_what_is_grave_hears_of_it_when_that_is_known(database: Database, sent: Sent) -> None:
    """Whoever overwrites a tag and then answers slowly gets past no filter: what is found out later is told then."""
    grave = sink("grave", filter=Filter(severity=Severity.CRITICAL))
    alerts = service(database, policy(sink("all"), grave))
    await alerts.start()
    await tell(database, 1)
    alerts.wake()
    await until(has(sent, all=1))
    assert await ClassificationStore(database).tell(1, Severity.CRITICAL, {"kinds": ["user"]}, NOW)
    alerts.wake()
    await until(has(sent, all=2, grave=1))
    await alerts.close()
    assert {(message.number, message.event.severity) for message in sent["grave"]} == {(1, Severity.CRITICAL)}


@pytest.mark.parametrize("how", ["slow", "broken"])
async def test_what_cannot_say_more_is_told_as_it_is(
    database: Database, sent: Sent, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """An upstream that hangs, or a mistake of ours, keeps nobody from being told."""
    monkeypatch.setattr(module, "ENRICH_TIMEOUT", 0.05)

    async def fail(event: Event) -> Event:
        if how == "slow":
            await asyncio.sleep(60)
        raise ValueError("oops")

    alerts = service(database, policy(sink("a")), fail)
    with capture_logs() as logs:
        await alerts.start()
        await tell(database, 1)
        alerts.wake()
        await until(has(sent, a=1))
        await alerts.close()
    assert [line["subject"] for line in logs if line["event"] == "alerts.not_enriched"] == ["docker.io/library/nginx:1"]


async def test_one_worker_of_all_delivers_and_another_takes_over(database: Database, sent: Sent) -> None:
    """Two servers on one database send everything once; when the first stops, the second goes on."""
    first, second = service(database, policy(sink("a"))), service(database, policy(sink("a")))
    await first.start()
    await second.start()
    for number in range(3):
        await tell(database, number)
    first.wake()
    second.wake()
    await until(has(sent, a=3))
    await first.close()
    await tell(database, 4)
    second.wake()
    await until(has(sent, a=4))
    await second.close()
    assert len({message.id for message in sent["a"]}) == 4


async def test_another_configuration_holds_from_the_next_event_on(database: Database, sent: Sent) -> None:
    """A sink more, a sink less; the same configuration again changes nothing."""
    alerts = service(database, policy(sink("a"), sink("b")))
    await alerts.start()
    await tell(database, 1)
    alerts.wake()
    await until(has(sent, a=1, b=1))
    alerts.follow(policy(sink("a"), sink("b")))
    alerts.follow(policy(sink("b"), sink("c")))
    await until(lambda: _known(database, "c"))
    await tell(database, 2)
    alerts.wake()
    await until(has(sent, a=1, b=2, c=1))
    await alerts.close()


async def _known(database: Database, name: str) -> bool:
    return name in [status.name for status in await Deliveries(database).status()]


async def test_a_digest_waits_for_its_time(database: Database, sent: Sent) -> None:
    """What it is to hold is given a time; others are told at once."""
    alerts = service(database, policy(sink("now"), sink("later", digest=Digest.parse("daily at 08:00"))))
    await alerts.start()
    await tell(database, 1)
    alerts.wake()
    await until(has(sent, now=1))
    await alerts.close()
    (waiting,) = await Deliveries(database).list()
    assert (waiting.sink, waiting.due_at) == ("later", NOW + timedelta(hours=23))


async def test_the_metrics_are_those_of_the_database(database: Database, sent: Sent) -> None:
    """Also in a worker that does not deliver; without sinks there are none; what cannot be read is as it was."""
    alerts = service(database, policy(sink("a"), sink("b", digest=Digest.parse("daily at 08:00"))))
    assert alerts.readings() == []
    await alerts.look()
    assert alerts.readings() == []
    await alerts.start()
    await tell(database, 1)
    alerts.wake()
    await until(has(sent, a=1))
    await alerts.close()
    other = service(database, policy())
    await other.look()
    found = {gauge.name: dict(gauge.values) for gauge in other.readings()}
    assert found == {
        "alerts_waiting": {("a",): 0.0, ("b",): 1.0},
        "alerts_oldest_seconds": {("a",): 0.0, ("b",): 0.0},
        "alerts_delivered": {("a",): 1.0, ("b",): 0.0},
        "alerts_failed": {("a",): 0.0, ("b",): 0.0},
        "alerts_sink_failures": {("a",): 0.0, ("b",): 0.0},
    }
    await database.close()
    with capture_logs() as logs:
        await other.look()
    assert [line["event"] for line in logs] == ["alerts.status_unread"]
    assert other.readings() != []


async def test_promise_53_a_database_that_does_not_answer_is_waited_for(
    database: Database, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither registering nor handing out ends the duty."""
    monkeypatch.setattr(module, "PAUSE", 0.01)
    alerts = service(database, policy(sink("a")))
    await alerts.start()
    await until(lambda: _known(database, "a"))
    deliveries = alerts._deliveries
    broken = {"unassigned": 2, "register": 2}

    def failing(name: str) -> None:
        real = getattr(deliveries, name)

        async def call(*args: object) -> object:
            if broken[name]:
                broken[name] -= 1
                raise DatabaseUnavailable("another process keeps it locked")
            return await real(*args)

        monkeypatch.setattr(deliveries, name, call)

    with capture_logs() as logs:
        for name in broken:
            failing(name)
        await tell(database, 1)
        alerts.follow(policy(sink("a"), sink("b")))
        await until(lambda: len(sent.get("a", ())) == 1)
        await alerts.close()
    assert broken == {"unassigned": 0, "register": 0}
    assert [line["event"] for line in logs].count("alerts.database") == 4


async def test_old_rows_are_removed(database: Database, sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was delivered longer than ``keep`` ago, by the duty itself."""
    await Deliveries(database).register(("a",), NOW)
    event = Event(EventType.TAG_CREATED, "docker.io/library/nginx:1", None, "m", NOW - timedelta(days=9))
    await EventStore(database).record(event)
    (message,) = await Deliveries(database).unassigned(("a",), 1)
    await Deliveries(database).assign(("a",), message, [Assignment("a", message)])
    (work,) = (await Deliveries(database).work("a", NOW, NOW, 1)).batch
    await Deliveries(database).delivered("a", [work.id], NOW - timedelta(days=8))
    alerts = service(database, policy(sink("a")))
    await alerts.start()

    async def removed() -> bool:
        return await database.read(lambda connection: connection.execute(select(deliveries.c.id)).first()) is None

    await until(removed)
    await alerts.close()


async def test_events_that_are_long_over_are_removed(database: Database) -> None:
    """Also where nobody has a sink."""
    for days in (400, 300, 0):
        at = NOW - timedelta(days=days)
        await EventStore(database).record(Event(EventType.TAG_CREATED, f"docker.io/library/nginx:{days}", None, "m", at))
    alerts = service(database, policy())
    await alerts.start()

    async def removed() -> bool:
        return len(await EventStore(database).list()) == 2

    await until(removed)
    await alerts.close()


def test_every_kind_of_sink_can_be_made() -> None:
    """Nothing is dialled, and what they say of themselves fits: one at a time, a batch, a digest."""
    from proxy.policy.alerts import Alertmanager, Apprise, SecretSource

    http = Http("https://x.example")
    assert make_sink(sink("a"), "/", "t").batch == 1
    assert make_sink(sink("a", target=Alertmanager(http, resend=30)), "/", "t").resend == 30
    apprise = Apprise(SecretSource(variable="URLS"))
    assert make_sink(sink("a", target=apprise), "/", "t").batch == 1
    assert make_sink(sink("a", target=apprise, digest=Digest.parse("daily at 08:00")), "/", "t").batch > 1000

"""What of the trust ends soon is told once, for as long as it is so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from proxy.services.inventory import Ending, Item, endings, worth_telling
from proxy.services.metrics import Metrics
from proxy.services.verifying.endings import Endings
from storage.database import Database
from storage.events import EventStore
from storage.records import Event, EventType, Severity
from tests.unit.storage.values import AT, LATER

DAY = timedelta(days=1)


@pytest.fixture
async def events(tmp_path: Path) -> AsyncIterator[EventStore]:
    """The events of a fresh database."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    yield EventStore(database)
    await database.close()


def item(name: str, days: float | None, kind: str = "key", section: str = "keys", since: float = -100) -> Item:
    """Something that ends in so many days."""
    return Item(section, name, kind, "", "", AT + since * DAY, None if days is None else AT + days * DAY)


async def test_one_event_for_each_entry_while_it_is_so(events: EventStore) -> None:
    """Told once, worse when it has ended, closed when there is a new key; another entry is another event."""
    teller = Endings(events, Metrics(), lambda: LATER)

    async def told(*items: Item) -> list[tuple[str, Severity | None]]:
        await teller.tell(endings(items, AT))
        return [(event.subject, event.severity) for event in await events.open_of(EventType.KEY_EXPIRING)]

    other = Event(EventType.LEDGER_DAMAGED, "trust.keys.acme", None, "of another type", AT)
    await events.record(other)
    assert await told(item("acme", 31), item("corp", None)) == []
    for _ in range(3):
        assert await told(item("acme", 29), item("corp", None)) == [("trust.keys.acme", Severity.WARNING)]
    (event,) = await events.open_of(EventType.KEY_EXPIRING)
    assert event.message == "trust.keys.acme: the last key ends on 2026-01-31 03:04 UTC"
    assert event.details == {"until": (AT + 29 * DAY).isoformat()}
    assert await told(item("acme", -1)) == [("trust.keys.acme", Severity.CRITICAL)]
    assert await told(item("acme", -1), item("acme", 400)) == []
    assert len(await events.list()) == 3
    assert await events.list(open_only=True) == [other]
    both = (item("acme", 3, "log", "roots"), item("acme", 2, "timestamp authority", "roots"), item("acme", 5))
    assert await told(*both) == [("trust.roots.acme", Severity.WARNING), ("trust.keys.acme", Severity.WARNING)]
    (root, _) = await events.open_of(EventType.KEY_EXPIRING)
    assert root.message.count("; the last ") == 1
    assert root.details == {"until": (AT + 2 * DAY).isoformat()}


def test_what_is_not_valid_yet_ends_nothing() -> None:
    """It is told by the command alone; one that is valid beside it suffices, one that ends beside it does not."""
    early = item("acme", 500, since=10)
    assert endings((early,), AT) == ()
    assert worth_telling((early,), AT) == ("trust.keys.acme: no key is valid yet",)
    assert worth_telling((early, item("acme", 100)), AT) == ()
    assert endings((early, item("acme", -5)), AT) == ()
    soon = AT + 3 * DAY
    assert endings((early, item("acme", 3)), AT) == (
        Ending("trust.keys.acme", f"the last key ends on {soon:%Y-%m-%d %H:%M} UTC", soon, ended=False),
    )

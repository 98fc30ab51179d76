"""Which process does what only one should do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from storage.database import Database
from storage.leases import Leases
from tests.unit.storage.values import AT

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def leases(tmp_path: Path) -> AsyncIterator[Leases]:
    """The leases of a fresh database."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    yield Leases(database)
    await database.close()


async def test_one_at_a_time_has_a_lease(leases: Leases) -> None:
    """Whoever came first keeps it by renewing it; others are told no. Another lease is another matter."""
    assert await leases.hold("watch", "one", AT, MINUTE)
    assert not await leases.hold("watch", "two", AT, MINUTE)
    assert await leases.hold("watch", "one", AT + MINUTE / 2, MINUTE)
    assert not await leases.hold("watch", "two", AT + MINUTE, MINUTE), "it was renewed"
    assert await leases.hold("scrub", "two", AT, MINUTE)


async def test_whoever_waited_for_its_turn_takes_no_lease_away(leases: Leases) -> None:
    """Two ask at the same moment; the one that looked at the clock first writes last: the lease is the other's."""
    assert await leases.hold("watch", "one", AT + timedelta(seconds=1), MINUTE)
    assert not await leases.hold("watch", "two", AT, MINUTE)


async def test_a_lease_that_is_not_renewed_ends(leases: Leases) -> None:
    """After its end anybody may take it, and then its holder of before is told no."""
    assert await leases.hold("watch", "one", AT, MINUTE)
    assert await leases.hold("watch", "two", AT + MINUTE, MINUTE)
    assert not await leases.hold("watch", "one", AT + MINUTE, MINUTE)


async def test_a_lease_that_is_released_is_free(leases: Leases) -> None:
    """Only its holder can release it."""
    assert await leases.hold("watch", "one", AT, MINUTE)
    await leases.release("watch", "two")
    assert not await leases.hold("watch", "two", AT, MINUTE)
    await leases.release("watch", "one")
    assert await leases.hold("watch", "two", AT, MINUTE)


async def test_promise_55_a_lease_of_a_clock_that_was_wrong_holds_up_nobody(leases: Leases) -> None:
    """A holder whose clock was a year ahead would keep everybody waiting for that year."""
    assert await leases.hold("watch", "one", AT + timedelta(days=365), MINUTE)
    assert await leases.hold("watch", "two", AT, MINUTE)

"""One worker of all does the work, and another one goes on when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.services import background, duty
from proxy.services.duty import Duty
from proxy.services.revision import utc_now
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.leases import Leases
from tests.harness import until


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long."""
    monkeypatch.setattr(background, "PAUSE", 0.01)
    monkeypatch.setattr(duty, "PAUSE", 0.01)
    monkeypatch.setattr(duty, "RENEWAL", 0.5)


@pytest.fixture
async def leases(tmp_path: Path) -> AsyncIterator[Leases]:
    """The leases of a fresh database."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    yield Leases(database)
    await database.close()


class Work:
    """Counts its steps; ``ended``: how often it was broken off."""

    def __init__(self) -> None:
        self.steps = 0
        self.ended = 0

    async def __call__(self) -> None:
        self.steps += 1
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.ended += 1
            raise


async def test_one_of_two_works_and_the_other_takes_over(leases: Leases) -> None:
    """Closing gives the lease up at once, and leaves no step behind."""
    one, two = Work(), Work()
    first, second = Duty("watch", one, leases, utc_now), Duty("watch", two, leases, utc_now)
    await first.start()
    await until(lambda: one.steps > 1)
    await second.start()
    await asyncio.sleep(0.05)
    assert (first.on, second.on, two.steps) == (True, False, 0)
    await first.close()
    done = one.steps
    await until(lambda: two.steps > 1)
    assert (first.on, second.on, one.steps) == (False, True, done)
    await second.close()
    assert two.ended <= 1
    await second.close()


async def test_work_ends_where_the_lease_is_lost(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever cannot renew its lease, for whatever reason, stops; and goes on once it can."""
    work = Work()
    monkeypatch.setattr(duty, "RENEWAL", 0.02)
    worker = Duty("watch", work, leases, utc_now)
    await worker.start()
    await until(lambda: worker.on)

    async def fail(*_: object) -> bool:
        raise DatabaseUnavailable("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(leases, "hold", fail)
        await until(lambda: not worker.on)
        done = work.steps
        await asyncio.sleep(0.03)
        assert work.steps == done
    await until(lambda: worker.on)
    await worker.close()


async def test_a_step_that_fails_is_repeated(leases: Leases) -> None:
    """What nobody foresaw ends that step, not the duty."""
    steps: list[int] = []

    async def step() -> None:
        steps.append(len(steps))
        if len(steps) == 1:
            raise ZeroDivisionError
        await asyncio.sleep(0.01)

    worker = Duty("watch", step, leases, utc_now)
    await worker.start()
    await until(lambda: len(steps) > 2)
    assert worker.on
    await worker.close()

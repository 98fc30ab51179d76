"""Alerts when something breaks: the process that delivers, the database, the clock."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from storage.database import Database
from storage.deliveries import Deliveries
from storage.events import EventStore
from storage.records import Event, EventType
from tests.harness import Proxy, WallClock, until
from tests.simulator.registry import Registry
from tests.simulator.sink import Post, Receiver, Reply
from tests.unit.storage.values import AT

DELIVERER = """
import asyncio, pathlib, sys
from proxy.policy.alerts import AlertPolicy, CloudEvents, Http, SinkPolicy
from proxy.services import duty
from proxy.services.alerts import Alerts
from proxy.services.revision import utc_now
from storage.database import Database
from storage.deliveries import Deliveries
from storage.events import EventStore
from storage.leases import Leases

async def main(path, url):
    database = Database(pathlib.Path(path))
    await database.open()
    duty.DURATION = duty.timedelta(seconds=1)  # the next one need not wait for long
    duty.RENEWAL = 0.3
    policy = AlertPolicy((SinkPolicy("soc", CloudEvents(Http(url))),))
    alerts = Alerts(policy, Deliveries(database), EventStore(database), Leases(database), utc_now, user_agent="t")
    await alerts.start()
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@asynccontextmanager
async def deliverer(path: Path, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that delivers what is in a database; killed in the end if it was not before."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DELIVERER, str(path), url, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def ids(posts: list[Post]) -> list[str]:
    """By what receivers know messages."""
    return [post.headers["webhook-id"] for post in posts]


async def test_promise_58_a_process_killed_in_mid_delivery_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 while the third of five is under way: after a restart it is sent again, under its id, and the others once."""
    path = tmp_path / "tagstone.db"
    database = Database(path)
    await database.open()
    await Deliveries(database).register(("soc",), AT)
    for number in range(5):
        await EventStore(database).record(Event(EventType.TAG_CREATED, f"docker.io/library/nginx:{number}", None, "m", AT))
    never = asyncio.Event()
    async with Receiver(lambda posts: Reply(wait=never if len(posts) == 3 else None)) as receiver:
        async with deliverer(path, receiver.url) as first:
            await receiver.wait(3)
            first.send_signal(signal.SIGKILL)
            assert await first.wait() == -signal.SIGKILL
        async with deliverer(path, receiver.url):
            await receiver.wait(6)
            await until(lambda: _waiting(database, 0))
        never.set()
        found = ids(receiver.posts)
    await database.close()
    assert found[2] == found[3]
    assert len(found) == 6
    assert len(set(found)) == 5


async def _waiting(database: Database, count: int) -> bool:
    return sum(status.waiting for status in await Deliveries(database).status()) == count


async def test_promise_53_a_locked_database_delays_alerts_and_loses_none(tmp_path: Path) -> None:
    """Another process keeps the database locked while messages are delivered: then everything is noted, once by its id."""
    database = Database(tmp_path / "tagstone.db", busy_timeout=0.1)
    await database.open()
    await Deliveries(database).register(("soc",), AT)
    for number in range(3):
        await EventStore(database).record(Event(EventType.TAG_CREATED, f"docker.io/library/nginx:{number}", None, "m", AT))
    proceed = asyncio.Event()
    async with Receiver(lambda posts: Reply(wait=proceed if len(posts) == 1 else None)) as receiver:
        async with deliverer(tmp_path / "tagstone.db", receiver.url):
            await receiver.wait(1)
            locker = sqlite3.connect(tmp_path / "tagstone.db", isolation_level=None)
            locker.execute("BEGIN IMMEDIATE")
            proceed.set()
            await asyncio.sleep(0.5)  # whatever it does meanwhile
            locker.execute("ROLLBACK")
            locker.close()
            await until(lambda: _waiting(database, 0))
        assert len(set(ids(receiver.posts))) == 3
        (status,) = await Deliveries(database).status()
        assert status.delivered == 3
    await database.close()


@pytest.mark.parametrize("ahead", [timedelta(days=365), timedelta(days=-365)], ids=["ahead", "back"])
async def test_promise_55_a_clock_that_was_wrong_holds_no_alert_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    """An overwrite is seen while the clock is off by a year and the sink is down; the clock is mended, and it is told."""
    clock, down = WallClock(), [True]
    monkeypatch.setattr("proxy.app.utc_now", clock)
    async with Registry() as upstream, Receiver(lambda _: Reply(503 if down[0] else 204)) as receiver:
        upstream.image("open/app", "v1")
        sinks = f'alerts: {{sinks: {{soc: {{cloudevents: {{url: "{receiver.url}"}}}}}}}}'
        async with Proxy(tmp_path, upstream, top=sinks) as proxy:
            await proxy.manifest("open/app", "v1")
            clock.ahead = ahead
            upstream.image("open/app", "v1", seed="2")
            assert (await proxy.manifest("open/app", "v1")).status == 403
            await receiver.wait(1)
            clock.ahead = timedelta()
            down[0] = False
            await until(lambda: _delivered(proxy))
    assert len(set(ids(receiver.posts))) == 1


async def _delivered(proxy: Proxy) -> bool:
    return 'tagstone_alerts_delivered_total{sink="soc"} 1.0' in await proxy.metrics()


async def test_promise_58_a_full_database_refuses_the_pin_and_its_alert_together(tmp_path: Path) -> None:
    """What cannot be written is neither decided nor told; when there is space, both are."""
    async with Registry() as upstream, Receiver() as receiver:
        upstream.image("open/app", "v1")
        sinks = f'alerts: {{sinks: {{soc: {{cloudevents: {{url: "{receiver.url}"}}}}}}}}'
        async with Proxy(tmp_path, upstream, top=sinks) as proxy:
            assert (await proxy.manifest("open/app", "v1")).status == 200
            database = proxy.application.database
            await database.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1"))
            upstream.image("open/app", "v1", seed="2")
            with capture_logs():
                answers = [(await proxy.manifest("open/app", "v1")).status for _ in range(3)]
            told = [event for event in await proxy.events() if event.type is EventType.TAG_OVERWRITTEN]
            assert set(answers) <= {403, 503}
            assert (403 in answers) == (len(told) == 1)  # there may have been a little space left
            await database.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count=1000000"))
            assert (await proxy.manifest("open/app", "v1")).status == 403
            await receiver.wait(1)
            await until(lambda: _delivered(proxy))
    assert len(set(ids(receiver.posts))) == 1

"""Pull records are gathered beside the pulls, written in batches, and neither lost nor doubled without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from proxy.services import recorder as module
from proxy.services.answers import ServedManifest
from proxy.services.recorder import OTHER_AGENTS, Recorder
from proxy.services.revision import utc_now
from proxy.settings import PullRecords
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.leases import Leases
from storage.pulls import PullStore
from storage.records import Descriptor, PullRecord
from tests.harness import until
from tests.tools import PATIENCE
from tests.unit.storage.values import APP, digest

ALICE = "user:alice"
KEPT = PullRecords(keep=60.0)


def manifest(what: str = "one") -> ServedManifest:
    """Something that was served."""
    return ServedManifest(Descriptor("application/vnd.oci.image.manifest.v1+json", digest(what), 2), b"{}")


def pulled(
    recorder: Recorder, served: ServedManifest, *, who: str = ALICE, agent: str = "podman/5", resolved: bool = False
) -> None:
    """One answer."""
    recorder.note(served, APP, "v1", who, "10.0.0.1", agent, resolved=resolved)


async def test_answers_become_records(database: Database) -> None:
    """One for each client and manifest, with how often it was fetched and resolved; closing writes what is left."""
    store, served = PullStore(database), manifest()
    recorder = Recorder(store, Leases(database), KEPT, utc_now)
    await recorder.start()
    before = utc_now()
    pulled(recorder, served, resolved=True)
    pulled(recorder, served)
    pulled(recorder, served)
    pulled(recorder, served, who="anonymous")
    pulled(recorder, manifest("two"), agent="x" * 5000)
    pulled(recorder, manifest("three"), agent="\udca0\x1b")
    recorder.note(manifest(), APP, None, ALICE, None, "", resolved=False)
    await recorder.close()
    found = {(record.principal, record.tag, record.digest, record.fetched, record.resolved) for record in await store.find()}
    assert found == {
        ("user:alice", "v1", digest("one"), 2, 1),
        ("anonymous", "v1", digest("one"), 1, 0),
        ("user:alice", "v1", digest("two"), 1, 0),
        ("user:alice", None, digest("one"), 1, 0),
        ("user:alice", "v1", digest("three"), 1, 0),
    }
    (odd,) = [record for record in await store.find() if record.digest == digest("three")]
    assert odd.agent == "\\udca0\x1b", "what is no text is kept as its numbers"
    (long,) = [record for record in await store.find() if record.digest == digest("two")]
    assert long.agent == "x" * 200
    assert before - timedelta(seconds=1) <= long.first_at <= long.last_at <= utc_now()


async def test_records_are_written_while_the_server_runs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few seconds, and at once where there are many."""
    store = PullStore(database)
    recorder = Recorder(store, Leases(database), KEPT, utc_now)
    monkeypatch.setattr(module, "BATCH", 3)
    await recorder.start()
    for number in range(4):
        pulled(recorder, manifest(str(number)))

    async def written() -> bool:
        return len(await store.find()) == 4

    await until(written)
    await recorder.close()


async def test_nothing_is_recorded_where_nobody_wants_it(database: Database) -> None:
    """With ``record: false`` there are no records, and a reload turns it on and off."""
    store = PullStore(database)
    recorder = Recorder(store, Leases(database), PullRecords(record=False), utc_now)
    await recorder.start()
    pulled(recorder, manifest())
    recorder.adopt(KEPT)
    pulled(recorder, manifest("two"))
    recorder.adopt(PullRecords(record=False))
    pulled(recorder, manifest("three"))
    await recorder.close()
    assert [record.digest for record in await store.find()] == [digest("two")]


class Unsteady(PullStore):
    """A store that cannot be written at first."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.broken = True
        self.tries = 0

    async def add(self, records: Sequence[PullRecord]) -> None:
        """Fail, while it is broken."""
        self.tries += 1
        if self.broken:
            raise DatabaseUnavailable("the disk is full")
        await super().add(records)


async def test_records_wait_for_a_database_that_cannot_be_written(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written when it can be again; what is too many is lost, and said to be."""
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "MOST", 4)
    store = Unsteady(database)
    recorder = Recorder(store, Leases(database), KEPT, utc_now)
    await recorder.start()
    for number in range(3):
        pulled(recorder, manifest(str(number)))
    await until(lambda: store.tries > 0)
    for number in range(3, 6):
        pulled(recorder, manifest(str(number)))
    tries = store.tries
    await until(lambda: store.tries > tries + 1)
    assert recorder.reading().values == (((), 2.0),)
    store.broken = False

    async def written() -> bool:
        return {record.digest for record in await store.find()} == {digest(str(number)) for number in range(4)}

    await until(written)
    await recorder.close()
    assert len(await store.find()) == 4


async def test_closing_in_the_middle_of_a_write_doubles_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction goes on when its caller is cancelled, so its end is waited for."""
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    begun = asyncio.Event()

    class Slow(PullStore):
        async def add(self, records: Sequence[PullRecord]) -> None:
            begun.set()
            writing = asyncio.ensure_future(super().add(records))
            await asyncio.sleep(0.05)
            await writing

    store = Slow(database)
    recorder = Recorder(store, Leases(database), KEPT, utc_now)
    await recorder.start()
    pulled(recorder, manifest())
    await asyncio.wait_for(begun.wait(), PATIENCE)
    await recorder.close()
    assert len(await store.find()) == 1


async def test_a_client_cannot_make_rows_by_making_up_names(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many user agents some are told apart, the others are counted as one; other clients have their own."""
    monkeypatch.setattr(module, "MOST_AGENTS", 3)
    store, served = PullStore(database), manifest()
    recorder = Recorder(store, Leases(database), KEPT, utc_now)
    await recorder.start()
    for number in range(50):
        pulled(recorder, served, agent=f"made up {number}")
    pulled(recorder, served, agent="made up 1")
    pulled(recorder, served, who="anonymous", agent="podman")
    await recorder.close()
    assert {(record.principal, record.agent, record.fetched) for record in await store.find()} == {
        (ALICE, "made up 0", 1),
        (ALICE, "made up 1", 2),
        (ALICE, "made up 2", 1),
        (ALICE, OTHER_AGENTS, 47),
        ("anonymous", "podman", 1),
    }


async def test_old_records_are_forgotten_in_the_background(database: Database) -> None:
    """One worker of all does it, soon after it starts and then every hour; also where no new ones are made."""
    store = PullStore(database)
    now = datetime.now(UTC)
    old = PullRecord(APP, "v1", digest("one"), "anonymous", "", "", now - timedelta(days=2), now - timedelta(days=2), 1, 0)
    await store.add([old, replace(old, last_at=now)])
    recorder = Recorder(store, Leases(database), PullRecords(record=False, keep=86400.0), utc_now)
    await recorder.start()

    async def forgotten() -> bool:
        return len(await store.find()) == 1

    await until(forgotten)
    await recorder.close()

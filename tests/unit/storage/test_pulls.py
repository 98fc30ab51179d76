"""Who was handed what, as it is kept and found again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, func, select

from storage.catalog import Catalog
from storage.database import Database
from storage.pulls import PullStore
from storage.records import Descriptor, Edge, Kind, PullRecord
from storage.tables import clients, pulled
from storage.tables import pulls as pulls_table
from tests.unit.storage.values import APP, AT, LATER, OTHER, digest

INDEX, IMAGE, LAYER, SIGNATURE = digest("index"), digest("image"), digest("layer"), digest("signature")
RECORD = PullRecord(APP, "v1", IMAGE, "user:alice", "10.0.0.1", "containerd/1.7.1", AT, AT, 1, 2)


@pytest.fixture
def pulls(database: Database) -> PullStore:
    """Its pull records."""
    return PullStore(database)


def descriptor(what: str) -> Descriptor:
    """A descriptor; what type and size it gives does not matter here."""
    return Descriptor("application/octet-stream", digest(what), 7)


async def test_records_come_back_as_they_were_written(pulls: PullStore) -> None:
    """Every field survives; the newest comes first; two batches of one client are two records."""
    by_digest = replace(RECORD, tag=None, first_at=LATER, last_at=LATER, agent="", address="")
    await pulls.add([RECORD, by_digest])
    again = replace(RECORD, last_at=LATER + timedelta(seconds=1))
    await pulls.add([again])
    await pulls.add([])
    assert await pulls.find() == [again, by_digest, RECORD]
    assert await pulls.find(limit=1) == [again]


async def test_names_are_kept_once(pulls: PullStore, database: Database) -> None:
    """A hundred records of one client and one image are a hundred rows of numbers."""
    await pulls.add([replace(RECORD, last_at=AT + timedelta(seconds=second)) for second in range(100)])
    await pulls.add([RECORD])

    def count(connection: Connection) -> list[int]:
        tables = (pulls_table, pulled, clients)
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]

    counts = await database.read(count)
    assert counts == [101, 1, 1]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param({"repository": APP}, {"v1", "v2"}, id="repository"),
        pytest.param({"repository": APP, "tag": "v2"}, {"v2"}, id="tag"),
        pytest.param({"digest": IMAGE}, {"v1", "other"}, id="digest"),
        pytest.param({"digest": IMAGE, "repository": OTHER}, {"other"}, id="digest in a repository"),
        pytest.param({"since": LATER}, {"v2"}, id="since"),
        pytest.param({"digest": digest("nobody's")}, set(), id="unknown digest"),
    ],
)
async def test_records_are_found_by_what_is_known(pulls: PullStore, asked: dict[str, object], found: set[str]) -> None:
    """By digest, image and time, and by all of them together."""
    moved = replace(RECORD, tag="v2", digest=digest("two"), last_at=LATER)
    await pulls.add([RECORD, moved, replace(RECORD, repository=OTHER, tag="other")])
    assert {record.tag for record in await pulls.find(**asked)} == found  # type: ignore[arg-type]  # one table for all


async def test_a_digest_is_found_by_what_reaches_it(pulls: PullStore, database: Database) -> None:
    """Whoever was handed an index or an image may have the layer; a signature of it, or the layer elsewhere, says nothing."""
    edges = [
        Edge(INDEX, descriptor("image"), Kind.MANIFEST),
        Edge(IMAGE, descriptor("layer"), Kind.BLOB),
        Edge(IMAGE, descriptor("signature"), Kind.EVIDENCE),
    ]
    await Catalog(database).record(APP, manifest=None, edges=edges, verdict=None)
    await pulls.add([replace(RECORD, digest=INDEX), replace(RECORD, digest=IMAGE), replace(RECORD, digest=SIGNATURE)])
    await pulls.add([replace(RECORD, repository=OTHER, digest=INDEX)])

    async def who(what: str) -> set[tuple[object, bool]]:
        return {(record.digest, record.contains) for record in await pulls.find(digest=digest(what), repository=APP)}

    assert await who("layer") == {(INDEX, True), (IMAGE, True)}
    assert await who("image") == {(INDEX, True), (IMAGE, False)}
    assert await who("signature") == {(SIGNATURE, False)}
    assert [each for each in await pulls.find(digest=LAYER) if each.repository == OTHER] == []


async def test_old_records_are_forgotten_with_the_names_that_nobody_uses(
    pulls: PullStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In short transactions, until none is left; what is young stays whole."""
    monkeypatch.setattr("storage.pulls._PRUNED_AT_ONCE", 10)
    old = [replace(RECORD, agent=f"agent {number}", tag=f"v{number}") for number in range(25)]
    young = replace(RECORD, last_at=LATER)
    await pulls.add([*old, young])
    assert await pulls.prune(LATER, 1000) == (25, 0)
    assert await pulls.find() == [young]
    names = await database.read(lambda connection: connection.execute(select(clients.c.agent)).scalars().all())
    assert names == [RECORD.agent]
    assert await pulls.prune(LATER, 1000) == (0, 0)


async def test_no_more_than_so_many_records_are_kept(pulls: PullStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, whatever their age."""
    monkeypatch.setattr("storage.pulls._PRUNED_AT_ONCE", 4)
    records = [replace(RECORD, tag=f"v{number}", last_at=LATER + timedelta(seconds=number)) for number in range(15)]
    await pulls.add(records)
    assert await pulls.prune(AT, 5) == (0, 10)
    assert await pulls.find() == records[:9:-1]
    await pulls.add([RECORD])
    assert await pulls.prune(AT, 5) == (0, 1)
    assert [record.tag for record in await pulls.find()] == ["v14", "v13", "v12", "v11", "v1"]

"""Questions about thousands of workloads at once."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, event

from storage import running
from storage.catalog import Catalog
from storage.database import Database
from storage.pins import PinStore
from storage.records import Edge, Kind
from storage.reference import Repository
from storage.running import RunningStore
from tests.unit.storage.values import APP, OTHER, block, digest, edge, first_pin, manifest, verdict


async def test_thousands_are_looked_up_in_a_few_statements(database: Database) -> None:
    """Two thousand digests of forty repositories take some dozens of statements; each finds its pin and its verdict."""
    catalog, pins = Catalog(database), PinStore(database)
    places = [Repository.of("ghcr.io", f"acme/app-{number}") for number in range(40)]
    pairs = [(place, digest(f"{place} {number}")) for place in places for number in range(50)]
    for place in places:
        names = [f"{place} {number}" for number in range(50)]
        edges = [Edge(digest(f"index {place}"), manifest(name), Kind.MANIFEST) for name in names]
        judged = verdict(f"index {place}", repository=place)
        below = [manifest(name) for name in names]
        await catalog.record(place, manifest=manifest(f"index {place}"), edges=edges, verdict=judged, below=below)
        await pins.apply(first_pin("v1", f"index {place}", place))
    await catalog.block(block(f"{places[0]} 0"))
    statements: list[str] = []

    def count(connection: Connection) -> Any:
        event.listen(connection, "before_cursor_execute", lambda *args: statements.append(args[2]))
        return running._look(connection, pairs, dict.fromkeys(places, "f"), ())

    picture = await database.read(count)
    assert len(statements) < 60
    assert len(picture.known) == len(pairs)
    for place, each in pairs:
        (known,) = picture.known[place, each]
        assert known.digests == {each, digest(f"index {place}")}
        assert [one.digest for one in known.lineage.verdicts] == [digest(f"index {place}")]
        assert [pin.digest for pin in picture.pins[place]] == [digest(f"index {place}")]
    blocked = [pair for pair, (known,) in picture.known.items() if known.lineage.blocks]
    assert blocked == [pairs[0]]


async def test_only_the_asked_question_counts_and_earlier_acceptance_is_known(database: Database) -> None:
    """A verdict under another fingerprint is none, but says that it was accepted once."""
    catalog = Catalog(database)
    await catalog.record(APP, manifest=manifest("one"), edges=(), verdict=verdict("one", fingerprint="older"))
    picture = await RunningStore(database).look([(APP, digest("one"))], {APP: "f"})
    (known,) = picture.known[APP, digest("one")]
    assert (known.lineage.verdicts, known.recorded, known.once_accepted) == ((), True, True)


async def test_pins_of_repositories_with_like_names_are_not_mixed_up(database: Database) -> None:
    """``acme/app`` is not ``acme/app-x``, ``acme/app/x`` or ``acme/ap``; those of a repository without digests come, too."""
    pins = PinStore(database)
    names = ("acme/ap", "acme/app", "acme/app-x", "acme/app/x", "acme/app0")
    for name in names:
        await pins.apply(first_pin("v1", name, Repository.of("ghcr.io", name)))
        await pins.apply(first_pin("v2", name, Repository.of("ghcr.io", name)))
    picture = await RunningStore(database).look([], {}, [APP])
    assert [pin.name for pin in picture.pins[APP]] == ["ghcr.io/acme/app:v1", "ghcr.io/acme/app:v2"]
    assert list(picture.pins) == [APP]


async def test_places_are_all_repositories_of_a_digest(database: Database) -> None:
    """In the order of recording; nothing for a digest that is nowhere."""
    catalog = Catalog(database)
    for repository in (OTHER, APP):
        await catalog.record(repository, manifest=manifest("one"), edges=[edge("one", "layer")], verdict=None)
    places = await RunningStore(database).places([digest("one"), digest("layer"), digest("nowhere")])
    assert places == {digest("one"): (OTHER, APP), digest("layer"): (OTHER, APP)}


async def test_one_step_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below more indexes than are followed, those beyond are as if they were not known."""
    monkeypatch.setattr(running, "_MOST_ABOVE", 4)
    catalog = Catalog(database)
    for number in range(10):
        above = Edge(digest(f"index {number}"), manifest("one"), Kind.MANIFEST)
        await catalog.record(APP, manifest=manifest(f"index {number}"), edges=[above], verdict=verdict(f"index {number}"))
    picture = await RunningStore(database).look([(APP, digest("one"))], {APP: "f"})
    (known,) = picture.known[APP, digest("one")]
    assert known.digests == {digest("one"), digest("index 9"), digest("index 8"), digest("index 7")}

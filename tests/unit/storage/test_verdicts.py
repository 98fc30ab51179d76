"""For which pins an accepted verdict stands, of many at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Select

from storage import verdicts as module
from storage.catalog import Catalog
from storage.database import Database
from storage.pins import PinStore
from storage.records import Kind, PinAction, PinChange, PinState, PinWrite
from storage.reference import Repository
from storage.verdicts import SKEW, VerdictStore
from tests.unit.storage.values import APP, AT, LATER, OTHER, block, digest, edge, first_pin, manifest, overwrite, pinned, verdict

SECOND = timedelta(seconds=1)


@pytest.fixture
def verdicts(database: Database) -> VerdictStore:
    """What is under test."""
    return VerdictStore(database)


async def accept(catalog: Catalog, *tags: str) -> None:
    """Each tag's digest stands for its name, and is accepted under the question f."""
    for tag in tags:
        await catalog.record(APP, manifest=manifest(tag), edges=(), verdict=verdict(tag))


async def standing(verdicts: VerdictStore, *tags: str, question: str = "f", seconds: float = 0) -> set[str]:
    """Those of these tags for which one stands, so many seconds later."""
    names = {f"{APP}:{tag}": question for tag in tags}
    return {pin.tag for pin in (await verdicts.standing(names, LATER + timedelta(seconds=seconds))).values()}


async def test_only_an_acceptance_that_holds_now_stands(pins: PinStore, catalog: Catalog, verdicts: VerdictStore) -> None:
    """Not a refusal, none that has ended or comes from a clock that is ahead, none under another question or elsewhere."""
    tags = ("good", "refused", "ended", "ahead", "nearly", "unjudged", "elsewhere")
    for tag in tags:
        await pinned(pins, first_pin(tag, tag))
    recorded = [
        verdict("good"),
        verdict("refused", accepted=False),
        verdict("ended", valid_until=LATER),
        replace(verdict("ahead"), decided_at=LATER + SKEW + SECOND),
        replace(verdict("nearly"), decided_at=LATER + SKEW),
        verdict("elsewhere", repository=OTHER),
    ]
    for each in recorded:
        await catalog.record(each.repository, manifest=replace(manifest(1), digest=each.digest), edges=(), verdict=each)
    assert await standing(verdicts, *tags) == {"good", "nearly"}
    assert await standing(verdicts, *tags, seconds=-1) == {"good", "ended"}
    assert await standing(verdicts, *tags, question="g") == set()
    assert await standing(verdicts, "ended", "ahead", seconds=1) == {"ahead"}


async def test_what_is_blocked_does_not_stand(pins: PinStore, catalog: Catalog, verdicts: VerdictStore) -> None:
    """The digest itself, or a blob of its own; not what an index lists, which is asked about when it is pulled."""
    tags = ("good", "itself", "layer", "index")
    for tag in tags:
        await pinned(pins, first_pin(tag, tag))
    await accept(catalog, *tags)
    edges = (edge("layer", "evil"), edge("index", "platform", Kind.MANIFEST), edge("good", "harmless"))
    await catalog.record(APP, manifest=None, edges=edges, verdict=None)
    assert await standing(verdicts, *tags) == set(tags)
    for what in ("itself", "evil", "platform"):
        await catalog.block(block(what))
    assert await standing(verdicts, *tags) == {"good", "index"}


async def test_what_is_revoked_does_not_stand(pins: PinStore, catalog: Catalog, verdicts: VerdictStore) -> None:
    """Whatever its verdict says by now: nobody restores a pin by what was looked up a while ago."""
    await accept(catalog, "good", "revoked")
    await pinned(pins, first_pin("good", "good"))
    before = await pinned(pins, first_pin("revoked", "revoked"))
    change = PinChange(APP, "revoked", PinAction.REVOKED, LATER, "upstream", "blocked", before.digest, before.digest)
    await pins.apply(PinWrite(before, replace(before, state=PinState.REVOKED), change))
    assert await standing(verdicts, "good", "revoked") == {"good"}


async def test_a_pin_is_told_as_it_is_now(pins: PinStore, catalog: Catalog, verdicts: VerdictStore) -> None:
    """With its candidate and version, for the decision that follows; names of which nothing is known are left out."""
    await accept(catalog, "v1")
    pin = await pins.apply(overwrite(await pinned(pins, first_pin("v1", "v1")), "two"))
    assert await verdicts.standing({f"{APP}:v1": "f", f"{APP}:v2": "f"}, LATER) == {f"{APP}:v1": pin}
    assert await verdicts.standing({}, LATER) == {}


async def test_all_pins_of_a_registry_are_gone_through(pins: PinStore, catalog: Catalog, verdicts: VerdictStore) -> None:
    """Page by page in the order of names, each repository under its own question, no other registry's among them."""
    near = Repository.of("ghcr.io:8443", "acme/app")
    other = Repository.of("ghcr.io", "acme/base")
    for write in [*(first_pin(f"t{n}", f"t{n}") for n in range(5)), first_pin(repository=near), first_pin(repository=OTHER)]:
        await pinned(pins, write)
    await pinned(pins, first_pin("x", "x", other))
    await accept(catalog, "t0", "t3")
    await catalog.record(other, manifest=manifest("x"), edges=(), verdict=verdict("x", repository=other, fingerprint="g"))

    async def through(limit: int, questions: dict[Repository, str]) -> tuple[list[str], int]:
        found, pages, after = [], 0, None
        while page := await verdicts.lacking("ghcr.io", after, limit, lambda repository: questions[repository], LATER):
            found += [f"{repository.name}:{tag}" for repository, tag in page.tags]
            pages, after = pages + 1, page.upto
        return found, pages

    lacking = ["acme/app:t1", "acme/app:t2", "acme/app:t4"]
    assert await through(2, {APP: "f", other: "g"}) == (lacking, 3)
    assert await through(100, {APP: "f", other: "f"}) == ([*lacking, "acme/base:x"], 1)
    assert (await pins.get(APP, "t0")).digest == digest("t0")  # type: ignore[union-attr]  # it is there
    assert await verdicts.lacking("quay.io", None, 9, lambda _: "f", AT) is None


async def test_neither_edges_nor_pins_are_gone_through(database: Database) -> None:
    """There may be millions: what is searched is found by an index, and only what was asked for is read in a row."""

    def plan(connection: Connection, statement: Select[Any]) -> list[str]:
        text = str(statement.compile(dialect=connection.dialect))
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", ("{}",) * text.count("?"))]

    for statement, given in ((module._STANDING, "SCAN asked"), (module._LACKING, "SEARCH asked")):
        lines = await database.read(plan, statement)
        assert any("ix_edges_child" in line for line in lines)
        assert "MATERIALIZE asked" in lines
        assert any(line.startswith(given) for line in lines), "what is given is gone through once, or searched"
        scans = [line for line in lines if line.startswith("SCAN") and "asked" not in line and "VIRTUAL TABLE" not in line]
        assert scans == []

"""What the watcher keeps: places in a round, hands, and the tags of repositories."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, update

from storage import migrations, tables
from storage.database import Database
from storage.events import EventStore
from storage.pins import PinStore
from storage.records import Event, EventType, Pin
from storage.watching import PHASES, Hand, NewTags, Round, Seen, Turn, WatchStore, place
from tests.unit.storage.values import APP, AT, LATER, OTHER, digest, first_pin, overwrite, pinned, revert, unpin

GHCR = APP.registry


@pytest.fixture
def watch(database: Database) -> WatchStore:
    """What the watcher keeps on it."""
    return WatchStore(database)


async def placed(database: Database, pins: PinStore, phases: dict[str, int]) -> dict[str, Pin]:
    """Pin these tags at these places of the round."""
    made = {tag: await pinned(pins, first_pin(tag)) for tag in phases}

    def move(connection: Connection) -> None:
        for tag, phase in phases.items():
            connection.execute(update(tables.pins).where(tables.pins.c.tag == tag).values(phase=phase))

    await database.write(move)
    return made


def told(new: NewTags) -> Sequence[Event]:
    """One event with all of it."""
    return [Event(EventType.TAG_CREATED, "new", None, new.overwritten or "", LATER, details={"tags": list(new.tags)})]


# -- rounds --------------------------------------------------------------------------------------------------------------


async def test_turns_come_in_the_order_of_places_and_around_the_end(
    database: Database, pins: PinStore, watch: WatchStore
) -> None:
    """What stands within reach behind a place, with its distance; from the end of the round it goes on at its beginning."""
    await placed(database, pins, {"a": 10, "b": 500, "c": PHASES - 20})
    await pinned(pins, first_pin(repository=OTHER))

    async def due(start: int, reach: int, limit: int = 9) -> list[tuple[str, int]]:
        return [(turn.tag, turn.ahead) for turn in await watch.due(GHCR, Round.PINS, start, reach, limit)]

    assert await due(0, 600) == [("a", 10), ("b", 500)]
    assert await due(0, 10) == [("a", 10)]
    assert await due(10, 489) == [], "its own place has had its turn"
    assert await due(PHASES - 30, 50) == [("c", 10), ("a", 40)]
    assert await due(PHASES - 30, 50, limit=1) == [("c", 10)]
    assert await due(499, PHASES) == [("b", 1), ("c", PHASES - 519), ("a", PHASES - 489)]
    assert await due(500, PHASES) == [("c", PHASES - 520), ("a", PHASES - 490), ("b", PHASES)]
    assert await due(PHASES - 1, 11) == [("a", 11)]
    assert await watch.due(GHCR, Round.PINS, 0, 10, 9) == [Turn(APP, "a", 10, AT)]
    assert await watch.count(GHCR, Round.PINS, PHASES - 30, 50) == 2
    assert await watch.count(GHCR, Round.PINS, 0, 5) == 0
    assert await watch.next(GHCR, Round.PINS, 11) == 489
    assert await watch.next(GHCR, Round.PINS, PHASES - 20) == 30
    assert await watch.next("quay.io", Round.PINS, 0) is None


async def test_a_turn_is_kept_with_where_the_hand_is(database: Database, pins: PinStore, watch: WatchStore) -> None:
    """Checks and new places of many pins, and the hand, in one write; another round has its own hand."""
    await placed(database, pins, {"a": 10, "b": 500, "c": 700})
    assert await watch.hand(GHCR, Round.PINS) is None
    hand = Hand(600, AT)
    seen = {f"{APP}:a": Seen(digest("one"), LATER)}
    await watch.turned(GHCR, Round.PINS, hand, seen, {f"{APP}:a": 900, f"{APP}:b": 20})
    assert await watch.hand(GHCR, Round.PINS) == hand
    assert await watch.hand(GHCR, Round.TAGS) is None
    turns = await watch.due(GHCR, Round.PINS, 0, PHASES, 9)
    assert [(turn.tag, turn.ahead, turn.at) for turn in turns] == [("b", 20, AT), ("c", 700, AT), ("a", 900, LATER)]
    await watch.turned(GHCR, Round.PINS, Hand(601, LATER), {}, {})
    await watch.turned(GHCR, Round.TAGS, Hand(5, AT), {}, {str(APP): 77})
    assert await watch.hand(GHCR, Round.PINS) == Hand(601, LATER)
    assert [turn.ahead for turn in await watch.due(GHCR, Round.TAGS, 0, PHASES, 9)] == [77]


async def test_what_was_said_of_a_digest_is_not_noted_of_another(pins: PinStore, watch: WatchStore) -> None:
    """A pin that has moved since it was asked about, or judged, was not: what the upstream named is not what it holds."""
    moved, same = await pinned(pins, first_pin("moved", "new")), await pinned(pins, first_pin("same"))
    answered = {moved.name: Seen(digest("one"), LATER), same.name: Seen(digest("one"), LATER)}
    await watch.noted(answered)
    assert [(await pins.get(APP, tag)).checked_at for tag in ("moved", "same")] == [AT, LATER]  # type: ignore[union-attr]  # both are there
    await watch.noted(answered, Round.VERDICTS)
    turns = await watch.due(GHCR, Round.VERDICTS, 0, PHASES, 9)
    assert {turn.tag: turn.at for turn in turns} == {"moved": AT, "same": LATER}


async def test_places_are_drawn_and_kept(database: Database, pins: PinStore, watch: WatchStore) -> None:
    """A pin keeps its place through its changes, and draws another when it is pinned anew; the draw is as wide as the round."""
    pin = await pinned(pins, first_pin())
    where = await watch.next(GHCR, Round.PINS, 0)
    pin = await pinned(pins, overwrite(pin, "two"))
    assert await watch.next(GHCR, Round.PINS, 0) == where
    await pins.apply(unpin(pin))
    await pinned(pins, first_pin(at=LATER))
    assert await watch.next(GHCR, Round.PINS, 0) != where
    drawn = [place() for _ in range(200)]
    assert all(0 <= phase < PHASES for phase in drawn)
    assert min(drawn) < PHASES / 8 < 7 * PHASES / 8 < max(drawn)


# -- tags ----------------------------------------------------------------------------------------------------------------


async def test_the_first_list_is_what_was_there_before(pins: PinStore, watch: WatchStore, database: Database) -> None:
    """It is not told; what comes later is told once, and what went is forgotten and may come again."""
    await pinned(pins, first_pin())
    lists: list[tuple[list[str], list[str]]] = [
        (["v1", "v2"], []),
        (["v1", "v2"], []),
        (["v1", "v2", "v3", "v4"], ["v3", "v4"]),
        (["v1"], []),
        (["v1", "v3"], ["v3"]),
    ]
    for number, (tags, new) in enumerate(lists):
        at = AT + timedelta(hours=number)
        events = await watch.listed(APP, tags, complete=True, at=at, lately=AT, tell=told)
        assert [event.details["tags"] for event in events] == ([new] if new else [])
    assert await watch.known(APP) == {"v1": AT, "v3": AT + timedelta(hours=4)}
    assert [event.details["tags"] for event in await EventStore(database).list()] == [["v3"], ["v3", "v4"]]


async def test_an_empty_list_is_not_believed(pins: PinStore, watch: WatchStore) -> None:
    """A repository that has pins has tags: that none is listed makes none of them news later, but one that was never seen is."""
    await pinned(pins, first_pin())
    await watch.listed(APP, [], complete=True, at=AT, lately=AT, tell=told)
    (event,) = await watch.listed(APP, ["v1", "v2"], complete=True, at=AT, lately=AT, tell=told)
    assert event.details["tags"] == ["v1", "v2"], "the very first one is what there was"
    assert await watch.listed(APP, [], complete=True, at=LATER, lately=AT, tell=told) == []
    (event,) = await watch.listed(APP, ["v1", "v2", "v3"], complete=True, at=LATER, lately=AT, tell=told)
    assert event.details["tags"] == ["v3"]


async def test_behind_the_end_of_a_cut_list_nothing_is_news(pins: PinStore, watch: WatchStore) -> None:
    """Only up to where the last list ended it is known what was there; and a cut list is no word on what is gone."""
    await pinned(pins, first_pin())
    await watch.listed(APP, ["a", "c"], complete=False, at=AT, lately=AT, tell=told)
    (event,) = await watch.listed(APP, ["b", "d", "e"], complete=False, at=AT, lately=AT, tell=told)
    assert event.details["tags"] == ["b"]
    (event,) = await watch.listed(APP, ["c1", "d", "e1"], complete=True, at=AT, lately=AT, tell=told)
    assert event.details["tags"] == ["c1"]
    (event,) = await watch.listed(APP, ["c1", "d", "e1", "f"], complete=True, at=AT, lately=AT, tell=told)
    assert event.details["tags"] == ["f"]
    assert set(await watch.known(APP)) == {"c1", "d", "e1", "f"}
    await watch.listed(APP, [], complete=False, at=AT, lately=AT, tell=told)
    assert await watch.listed(APP, ["g"], complete=True, at=AT, lately=AT, tell=told) == []


async def test_an_overwritten_tag_makes_new_ones_suspect(pins: PinStore, watch: WatchStore) -> None:
    """Which tag of the repository was overwritten lately is said, also when it is as it was again."""
    pin = await pinned(pins, first_pin())
    await watch.listed(APP, ["v1"], complete=True, at=AT, lately=AT, tell=told)
    await pins.apply(revert(await pinned(pins, overwrite(pin, "two"))))
    (event,) = await watch.listed(APP, ["v1", "x"], complete=True, at=LATER, lately=LATER, tell=told)
    assert event.message == "v1"
    (event,) = await watch.listed(APP, ["v1", "x", "y"], complete=True, at=LATER, lately=LATER + timedelta(1), tell=told)
    assert event.message == ""


async def test_some_repositories_are_listed_before_their_turn(pins: PinStore, watch: WatchStore) -> None:
    """New ones, and those in which a tag was overwritten; but not again at once."""
    pin = await pinned(pins, first_pin())
    await pinned(pins, first_pin("v2"))
    assert await watch.soon(GHCR, AT, 9) == [APP]
    assert await watch.soon("docker.io", AT, 9) == []
    await watch.listed(APP, ["v1", "v2"], complete=True, at=AT, lately=AT, tell=told)
    assert await watch.soon(GHCR, LATER, 9) == []
    await pinned(pins, overwrite(pin, "two"))
    assert await watch.soon(GHCR, AT, 9) == [], "it was listed a moment ago"
    assert await watch.soon(GHCR, LATER, 9) == [APP]
    await watch.postponed(APP)
    assert await watch.soon(GHCR, LATER, 9) == []


async def test_a_repository_without_pins_is_forgotten(pins: PinStore, watch: WatchStore) -> None:
    """With all its tags, and silently; a repository that is none of ours is never taken in."""
    pin = await pinned(pins, first_pin())
    await pinned(pins, first_pin(repository=OTHER))
    await watch.listed(APP, ["v1"], complete=True, at=AT, lately=AT, tell=told)
    await pins.apply(unpin(pin))
    assert await watch.listed(APP, ["v1", "v2"], complete=True, at=AT, lately=AT, tell=told) == []
    assert await watch.known(APP) == {}
    assert await watch.soon(GHCR, LATER, 9) == []
    assert await watch.listed(APP, ["v1", "v2"], complete=True, at=AT, lately=AT, tell=told) == []
    assert await watch.next(GHCR, Round.TAGS, 0) is None
    assert await watch.next(OTHER.registry, Round.TAGS, 0) is not None
    await pinned(pins, first_pin(at=LATER))
    assert await watch.soon(GHCR, LATER, 9) == [APP]


# -- what older versions left --------------------------------------------------------------------------------------------


async def test_pins_of_older_versions_are_spread_over_the_round(tmp_path: Path) -> None:
    """Each gets its place, its registry, and its repository a place of its own, without haste."""
    path = tmp_path / "tagstone.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection, pytest.MonkeyPatch.context() as patch:
        from alembic import command

        patch.setattr(command, "upgrade", lambda config, _, upgrade=command.upgrade: upgrade(config, "0002"))
        migrations.upgrade(connection)
    engine.dispose()
    row = ("'rule'", "''", f"'{AT.isoformat()}'", f"'{AT.isoformat()}'", f"'sha256:{'0' * 64}'", "'pinned'", "1")
    with sqlite3.connect(path) as raw:
        for number in range(100):
            name = f"reg.example:5000/team/app{number % 10}"
            values = ", ".join((f"'{name}:{number}'", f"'{name}'", f"'{number}'", *row))
            raw.execute(
                "INSERT INTO pins (name, repository, tag, pinned_by, reason, pinned_at, checked_at, digest, state, version) "
                f"VALUES ({values})"
            )
    raw.close()
    database = Database(path)
    await database.open()
    watch = WatchStore(database)
    turns = await watch.due("reg.example:5000", Round.PINS, 0, PHASES, 200)
    assert len(turns) == 100
    assert 20 < sum(turn.ahead < PHASES / 2 for turn in turns) < 80
    assert len(await watch.due("reg.example:5000", Round.TAGS, 0, PHASES, 200)) == 10
    assert await watch.soon("reg.example:5000", LATER, 9) == []
    await database.close()

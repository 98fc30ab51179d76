"""One upstream's lane: whose turn it is, what is repeated, whom a change concerns. Time is moved by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, update

from proxy.services.verifying import lane as module
from proxy.services.verifying.lane import AGAIN, PAGE, TIMES, Lane, Tools
from proxy.services.verifying.pins import Result, Verified
from proxy.services.weighing import Manner
from proxy.settings import Verification
from storage import tables
from storage.catalog import Catalog
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.pins import PinStore
from storage.records import Block, Descriptor, PinAction, PinChange, PinState, PinWrite, StoredVerdict
from storage.reference import Repository
from storage.verdicts import VerdictStore
from storage.watching import PHASES, Round, WatchStore
from tests.unit.storage.values import APP, AT, LATER, digest, edge, first_pin, pinned

INTERVAL = 6000.0
SETTINGS = Verification(interval=INTERVAL, concurrency=3)


class World:
    """Clocks, a gate that knows one rule, and a verifier that answers as told. In the place of all of these."""

    def __init__(self, database: Database) -> None:
        self.seconds = 0.0
        self.judged: list[tuple[float, str, bool]] = []
        self.answers: dict[str, Result] = {}
        self.error: Exception | None = None
        self.fingerprint = "today"
        self.pins, self.catalog, self.rounds = PinStore(database), Catalog(database), WatchStore(database)
        self.counts: Counter[str] = Counter()
        self.database = database
        self.lane = self.fresh()

    def fresh(self, settings: Verification = SETTINGS) -> Lane:
        """As after a restart."""
        me: Any = self
        tools = Tools(me, me, VerdictStore(self.database), self.rounds, self.clock, self.mono)
        self.lane = Lane(APP.registry, tools, settings, me.leave, self.counts)
        return self.lane

    def clock(self) -> datetime:
        """The wall clock."""
        return LATER + timedelta(seconds=self.seconds)

    def mono(self) -> float:
        """The other one."""
        return 1000.0 + self.seconds

    async def leave(self) -> None:
        """Always."""

    def rule(self, repository: Repository) -> Any:
        """Today's rule."""
        return SimpleNamespace(fingerprint=self.fingerprint)

    async def verify(self, repository: Repository, tag: str, manner: Manner) -> Verified:
        """The verifier's answer."""
        assert manner.leave is not None
        self.judged.append((self.seconds, tag, manner.kept_first))
        if self.error is not None:
            raise self.error
        return Verified(repository, tag, self.answers.get(tag, Result.PASSES), await self.pins.get(repository, tag))

    async def place(self, tag: str, part: float) -> None:
        """Let a pin have its turn when this part of the interval is over."""

        def move(connection: Connection) -> None:
            values = {"verdict_phase": round(part * PHASES)}
            connection.execute(update(tables.pins).where(tables.pins.c.tag == tag).values(values))

        await self.database.write(move)

    async def run(self, seconds: float, look: float = 40.0) -> None:
        """Let time pass."""
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds += look
            await self.lane.turns()

    async def accepted(self, what: object, fingerprint: str = "today", until: datetime | None = None) -> None:
        """What is pinned was accepted."""
        verdict = StoredVerdict(APP, digest(what), fingerprint, True, ("ok",), AT, until)
        await self.catalog.record(APP, manifest=Descriptor("m", digest(what), 1), edges=(), verdict=verdict)

    def tags(self) -> list[str]:
        """Who was judged since it was asked for last."""
        found = sorted(tag for _, tag, _ in self.judged)
        self.judged.clear()
        return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in real time."""
    for name in ("LOOK", "SOONEST", "_TROUBLE", "SWEEP", "BREATH"):
        monkeypatch.setattr(module, name, 0.0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A fresh database with nothing pinned."""
    database = Database(tmp_path / "tagstone.db")
    await database.open()
    yield World(database)
    await database.close()


async def test_everybody_is_judged_once_in_an_interval_and_never_many_at_once(world: World) -> None:
    """Spread over the interval, whenever they were pinned; a restart, and a day away, make no burst and leave nobody out."""
    for number in range(30):
        await pinned(world.pins, first_pin(f"t{number:02}"))
    await world.run(INTERVAL + 60)
    by_tag = Counter(tag for _, tag, _ in world.judged)
    assert len(by_tag) == 30
    assert max(by_tag.values()) <= 2
    assert max(Counter(int(at // 600) for at, _, _ in world.judged).values()) <= 12, "a tenth of the interval has about three"
    assert {kept_first for _, _, kept_first in world.judged} == {False}
    assert await world.rounds.oldest(APP.registry) > LATER  # type: ignore[operator]  # None would fail here, too
    world.tags()
    world.fresh()
    await world.run(150)
    assert len(world.tags()) <= 6
    world.seconds += 86400
    world.fresh()
    await world.run(150)
    assert len(world.tags()) <= 12, "what was missed is made up for at twice the pace"
    await world.run(INTERVAL)
    assert len(set(world.tags())) == 30


async def test_who_was_judged_lately_is_passed_over(world: World) -> None:
    """A pin made a moment ago was judged as it was made."""
    for tag, at in (("old", AT), ("new", LATER)):
        await pinned(world.pins, first_pin(tag, at=at))
        await world.place(tag, 0.05)
    await world.run(INTERVAL / 2)
    assert world.tags() == ["old"]
    assert world.lane.oldest is not None


async def test_all_pins_are_gone_through_once_a_minute_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps the round takes: how old the oldest verdict is, is for the metrics alone."""
    looks: list[float] = []
    oldest = world.rounds.oldest

    async def look(registry: str) -> datetime | None:
        looks.append(world.seconds)
        return await oldest(registry)

    monkeypatch.setattr(world.rounds, "oldest", look)
    await pinned(world.pins, first_pin("v1"))
    await world.place("v1", 0.9)
    await world.run(600, look=1.0)
    assert len(looks) == 10
    assert world.lane.oldest == AT


async def test_what_could_not_be_told_is_judged_again_soon(world: World) -> None:
    """After five minutes, then ten, then twenty, and then at its turn; it does not count as judged."""
    await pinned(world.pins, first_pin("v1"))
    await world.place("v1", 0.05)
    world.answers["v1"] = Result.UNKNOWN
    await world.run(INTERVAL / 2)
    times = [at for at, _, _ in world.judged]
    pauses = [round((after - before) / AGAIN) for before, after in pairwise(times)]
    assert pauses == [2**time for time in range(TIMES)]
    assert await world.rounds.oldest(APP.registry) == AT
    world.answers.clear()
    await world.run(INTERVAL)
    oldest = await world.rounds.oldest(APP.registry)
    assert oldest is not None
    assert oldest > LATER
    assert set(world.counts) == {"unknown", "passes"}


async def test_storage_that_does_not_answer_ends_nothing(world: World) -> None:
    """The step is repeated from where it was kept that it had come; the rest of its page is not judged meanwhile."""
    for number in range(3):
        await pinned(world.pins, first_pin(f"t{number}"))
    world.error = DatabaseUnavailable("locked")
    await world.run(INTERVAL)
    assert world.judged
    world.error = None
    world.tags()
    await world.run(INTERVAL)
    assert set(world.tags()) == {"t0", "t1", "t2"}
    world.error = DatabaseUnavailable("locked")
    await world.lane.changes()
    world.error = None
    world.tags()
    await world.lane.changes()
    assert world.tags() == ["t0", "t1", "t2"]


async def test_a_change_concerns_whom_no_verdict_speaks_for(world: World) -> None:
    """Judged by what was kept, at once: revoked pins, other questions, ended verdicts, what is blocked; nobody else."""
    for tag in ("blocked", "ended", "good", "layer", "other", "revoked"):
        await pinned(world.pins, first_pin(tag, tag))
        until = LATER - timedelta(seconds=1) if tag == "ended" else LATER + timedelta(days=1)
        await world.accepted(tag, "yesterday" if tag == "other" else "today", until)
    pin = await world.pins.get(APP, "revoked")
    assert pin is not None
    change = PinChange(APP, "revoked", PinAction.REVOKED, LATER, "rule", "", pin.digest, pin.digest)
    await world.pins.apply(PinWrite(pin, replace(pin, state=PinState.REVOKED), change))
    await world.catalog.record(APP, manifest=None, edges=(edge("layer", "evil"), edge("good", "harmless")), verdict=None)
    for what in ("blocked", "evil"):
        await world.catalog.block(Block(digest(what), "bad", "olga", LATER))
    await world.lane.changes()
    assert {kept_first for _, _, kept_first in world.judged} == {True}
    assert world.tags() == ["blocked", "ended", "layer", "other", "revoked"]
    world.fingerprint = "yesterday"
    world.lane.changed()
    await world.lane.changes()
    assert world.tags() == ["blocked", "ended", "good", "layer", "revoked"]


async def test_a_change_in_the_middle_begins_anew(world: World) -> None:
    """What is judged by rules that are not today's any more is not gone on with."""
    for number in range(2 * PAGE):
        await pinned(world.pins, first_pin(f"t{number:03}"))
    calls = 0

    async def verify(repository: Repository, tag: str, manner: Manner) -> Verified:
        nonlocal calls
        calls += 1
        if calls == 1:
            world.lane.changed()
        return Verified(repository, tag, Result.REFUSED)

    world.verify = verify  # type: ignore[method-assign]  # this once
    world.fresh()
    await world.lane.changes()
    assert calls == PAGE
    await world.lane.changes()
    assert calls == 3 * PAGE


async def test_never_means_never(world: World) -> None:
    """Neither on schedule nor for a change; and from the next look on where that is taken back."""
    await pinned(world.pins, first_pin("v1"))
    await world.place("v1", 0.5)  # at either end it may have its turn twice in an interval
    world.fresh(Verification(interval=0.0))
    await world.run(3 * INTERVAL)
    await world.lane.changes()
    assert world.judged == []
    assert world.lane.oldest is None
    world.lane.adopt(SETTINGS)
    await world.lane.changes()
    assert world.tags() == ["v1"]
    await world.run(INTERVAL)
    assert world.tags() == ["v1"]
    assert await world.rounds.hand(APP.registry, Round.VERDICTS) is not None

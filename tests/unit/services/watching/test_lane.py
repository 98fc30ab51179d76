"""One upstream's lane, step by step: whose turn it is, what fails, what is told. Time is moved by hand."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.services.checks import Checked, Result, Standing
from proxy.services.metrics import Metrics
from proxy.services.watching import course
from proxy.services.watching import lane as module
from proxy.services.watching.lane import AGAIN, FRESH, PAGE, Lane, Tools
from proxy.services.watching.pace import FAILURES
from proxy.services.watching.tags import Listing
from proxy.settings import Watch
from proxy.upstream.client import Allowance
from storage.catalog import Catalog
from storage.database import Database
from storage.errors import DatabaseUnavailable
from storage.events import EventStore
from storage.pins import PinStore
from storage.records import EventType
from storage.reference import Repository
from storage.verdicts import VerdictStore
from storage.watching import PHASES, Hand, Round, WatchStore
from tests.tools import PATIENCE
from tests.unit.storage.values import APP, AT, digest, first_pin, manifest, pinned, unpin, verdict

#: Short, so that there are few steps of a few seconds in it.
INTERVAL = 600.0


@dataclass
class World:
    """Clocks, an upstream that answers as told, and what was asked."""

    seconds: float = 0.0
    allowance: Allowance = field(default_factory=Allowance)

    def __post_init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        self.listed: list[Repository] = []
        self.stood: set[Standing] = set()
        self.answers: dict[str, Result] = {}
        self.always: Result | None = None
        self.asks = True  #: whether a check gets as far as the upstream
        self.error: Exception | None = None
        self.listing = Listing(Result.UNCHANGED, 1)

    def clock(self) -> datetime:
        """The wall clock."""
        return AT + timedelta(seconds=self.seconds)

    def mono(self) -> float:
        """The other one."""
        return 1000.0 + self.seconds

    async def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.seconds += seconds

    def rule(self, repository: Repository) -> Any:
        """Today's rule."""
        return SimpleNamespace(fingerprint="today")

    async def check(self, repository: Repository, tag: str, standing: Standing | None = None) -> Checked:
        """The gate's answer."""
        self.asked.append((self.seconds, tag))
        if standing is not None:
            self.stood.add(standing)
        if self.error is not None:
            raise self.error
        result = self.always or self.answers.get(tag, Result.UNCHANGED)
        told = result in {Result.UNCHANGED, Result.OVERWRITTEN, Result.DELETED}
        pin = first_pin(tag).new
        return Checked(repository, tag, result, pin, f"{tag} is {result}", told, self.asks)

    async def read(self, repository: Repository, most: int, lately: float) -> Listing:
        """One list."""
        self.listed.append(repository)
        return self.listing

    def tags(self) -> list[str]:
        """What was asked about, since it was asked for last."""
        found = [tag for _, tag in self.asked]
        self.asked.clear()
        return found


class Driver:
    """A lane in simulated time."""

    def __init__(self, world: World, database: Database, settings: Watch) -> None:
        self.world = world
        self.store, self.verdicts = WatchStore(database), VerdictStore(database)
        self.events = EventStore(database)
        self.settings = settings
        self.counts: Counter[tuple[str, str]] = Counter()
        self.lane = self.fresh()

    def fresh(self) -> Lane:
        """As after a restart."""
        world: Any = self.world
        upstreams: Any = self
        tools = Tools(
            world, upstreams, self.store, self.verdicts, self.events, world, Metrics(), world.clock, world.mono, world.sleep
        )
        self.lane = Lane(APP.registry, tools, self.settings, None, self.counts)
        return self.lane

    def allowance(self, registry: str) -> Allowance:
        """What the upstream says."""
        assert registry == APP.registry
        return self.world.allowance

    async def run(self, seconds: float, look: float = 10.0, *, tags: bool = False) -> None:
        """Let time pass."""
        end = self.world.seconds + seconds
        while self.world.seconds < end:
            self.world.seconds += look
            await (self.lane.tags() if tags else self.lane.pins())

    async def open(self) -> list[EventType]:
        """What is going on."""
        return [event.type for event in await self.events.list(open_only=True)]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in real time."""
    monkeypatch.setattr(module, "LOOK", 0.0)
    monkeypatch.setattr(module, "SOONEST", 0.0)
    monkeypatch.setattr(module, "GATHER", 0.0)
    monkeypatch.setattr(module, "_TROUBLE", 0.0)


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    """A fresh database."""
    memory = Path("/dev/shm")  # these tests are not about the disk
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        database = Database(Path(folder) / "tagstone.db")
        await database.open()
        yield database
        await database.close()


@pytest.fixture
def driver(database: Database) -> Driver:
    """A lane, at a rate that never makes it wait."""
    settings = Watch(interval=INTERVAL, tags_interval=4 * INTERVAL, rate=1000.0, unreachable_after=100.0)
    return Driver(World(), database, settings)


async def pin(database: Database, count: int, seconds: float = -INTERVAL) -> PinStore:
    """So many tags, checked at a moment of the simulation."""
    pins = PinStore(database)
    for number in range(count):
        await pinned(pins, first_pin(f"t{number}", at=AT + timedelta(seconds=seconds)))
    return pins


async def test_everybody_has_a_turn(database: Database, driver: Driver) -> None:
    """Within an interval each pin once or twice, at different times, and that it was is kept."""
    pins = await pin(database, 40)
    await driver.run(INTERVAL)
    asked = Counter(tag for _, tag in driver.world.asked)
    assert len(asked) == 40
    assert max(asked.values()) <= 3
    assert len({at for at, _ in driver.world.asked}) > 20
    assert all(pin.checked_at > AT for pin in await pins.list())
    assert driver.counts == {("checks", "unchanged"): asked.total()}
    hand = await driver.store.hand(APP.registry, Round.PINS)
    assert hand is not None
    assert hand.at > AT + timedelta(seconds=INTERVAL / 2)


async def test_few_turns_are_gathered_and_many_are_not_kept_waiting(
    database: Database, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a page that was not full nobody looks for a while; after a full one at once."""
    monkeypatch.setattr(module, "GATHER", 1.0)
    await pin(database, 2 * PAGE)
    for seconds, least, pause in ((15, 1, 1.0), (INTERVAL, PAGE, 0.0)):
        await driver.store.turned(APP.registry, Round.PINS, Hand(0, driver.world.clock()), {}, {})
        driver.fresh()
        await driver.lane._pins(INTERVAL)
        driver.world.tags()
        driver.world.seconds += seconds
        monkeypatch.setattr(course, "STRIDE", INTERVAL)
        assert await driver.lane._pins(INTERVAL) == pause
        assert least <= len(driver.world.tags()) <= PAGE


async def test_for_whom_a_verdict_stands_is_looked_up_for_many_at_once(database: Database, driver: Driver) -> None:
    """The check is given it; for others, and where it was asked out of turn, it looks by itself."""
    pins = await pin(database, 6)
    for tag in ("t0", "t1"):
        await pins.apply(unpin((await pins.list(pattern=f"{APP}:{tag}"))[0]))
        await pinned(pins, first_pin(tag, tag, at=AT - timedelta(seconds=INTERVAL)))
    accepted = replace(verdict("t0", fingerprint="today"), decided_at=AT)
    await Catalog(database).record(APP, manifest=manifest("t0"), edges=(), verdict=accepted)
    await driver.run(INTERVAL)
    (known,) = driver.world.stood
    assert (known.pin.tag, known.pin.digest, known.question) == ("t0", digest("t0"), "today")
    assert known.verdict.accepted


async def test_what_was_looked_up_long_ago_is_looked_up_again(
    database: Database, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a slow page: the first checks go by what was found for all of them, the later ones by what they find themselves."""
    monkeypatch.setattr(course, "STRIDE", INTERVAL)
    await pin(database, 10)
    for number in range(10):
        new = first_pin(f"t{number}").new
        assert new is not None
        accepted = replace(verdict("x", fingerprint="today"), digest=new.digest, decided_at=AT)
        await Catalog(database).record(APP, manifest=replace(manifest("x"), digest=new.digest), edges=(), verdict=accepted)
    driver.lane.adopt(driver.settings.model_copy(update={"rate": 1.0, "concurrency": 1}))
    given: list[bool] = []

    async def slow(repository: Repository, tag: str, standing: Standing | None = None) -> Checked:
        given.append(standing is not None)
        driver.world.seconds += FRESH / 2.5
        return Checked(repository, tag, Result.UNCHANGED, first_pin(tag).new, "", True, True)

    cast("Any", driver.world).check = slow
    await driver.lane._pins(INTERVAL)
    driver.world.seconds += INTERVAL
    await driver.lane._pins(INTERVAL)
    assert len(given) == 10
    assert given == [True] * 3 + [False] * 7


async def test_what_was_pulled_lately_is_passed_over(database: Database, driver: Driver) -> None:
    """A pull's own check counts."""
    pins = await pin(database, 2)
    for _ in range(40):
        await pins.checked(APP, "t0", driver.world.clock())
        await driver.run(30)
    assert set(driver.world.tags()) == {"t1"}


async def test_a_restart_goes_on_where_it_was(database: Database, driver: Driver) -> None:
    """Not from the beginning, nor all at once: what was not looked at meanwhile is made up for, at twice the pace."""
    await pin(database, 60)
    await driver.run(INTERVAL / 2)
    half = set(driver.world.tags())
    driver.fresh()
    await driver.run(INTERVAL / 3)
    assert len(set(driver.world.tags()) & half) < len(half) / 2, "it is others' turn"
    driver.world.seconds += 10 * INTERVAL
    driver.fresh()
    await driver.run(60)
    assert len(driver.world.tags()) <= 30, "no burst: two minutes' worth, of nine"
    await driver.run(INTERVAL)
    assert len(set(driver.world.tags())) == 60


async def test_a_page_that_was_lost_is_repeated(database: Database, driver: Driver) -> None:
    """Killed in the middle: what was not written is done again, and nothing is left out."""
    await pin(database, 30)
    hand = Hand(0, driver.world.clock() - timedelta(hours=1))
    await driver.store.turned(APP.registry, Round.PINS, hand, {}, {})
    started = asyncio.Event()
    answer = driver.world.check

    async def hang(repository: Repository, tag: str, standing: Standing | None) -> Checked:
        started.set()
        await asyncio.Event().wait()
        return await answer(repository, tag, standing)

    cast("Any", driver.world).check = hang
    driver.world.seconds += 20
    task = asyncio.create_task(driver.run(600))
    async with asyncio.timeout(PATIENCE):
        await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cast("Any", driver.world).check = answer
    driver.fresh()
    await driver.run(INTERVAL)
    assert len(set(driver.world.tags())) == 30


async def test_a_check_that_says_nothing_is_repeated(database: Database, driver: Driver) -> None:
    """Some times, after ever longer; while others answer, the upstream is not away for it, and nothing is told."""
    await pin(database, 20)
    driver.world.answers["t7"] = Result.UNREACHABLE
    await driver.run(INTERVAL)
    times = [at for at, tag in driver.world.asked if tag == "t7"]
    assert len(times) >= 3
    assert times[1] - times[0] >= AGAIN
    assert times[2] - times[1] >= 2 * AGAIN
    assert not driver.lane.away
    assert await driver.open() == []
    driver.world.answers.clear()
    driver.world.tags()
    await driver.run(INTERVAL)
    assert "t7" in driver.world.tags()


async def test_one_tag_does_not_make_an_upstream_silent(database: Database, driver: Driver) -> None:
    """Where others have their turns long after it, one of them is asked before anything is told of the upstream."""
    driver.lane.adopt(driver.settings.model_copy(update={"interval": 3600.0}))
    await pin(database, 3, -3600)
    driver.world.answers["t1"] = Result.UNREACHABLE
    while not any(tag == "t1" for _, tag in driver.world.asked):
        await driver.run(10)
    first = driver.world.seconds
    await driver.run(300)
    times = [at for at, tag in driver.world.asked if tag == "t1"]
    assert len([at for at in times if first <= at < first + 150]) >= 3
    assert await driver.events.list() == []
    assert not driver.lane.away


async def test_an_upstream_that_is_away_is_tried_now_and_then(database: Database, driver: Driver) -> None:
    """Told once when it has lasted, for the upstream and not for its tags; when it answers all have their turns again."""
    await pin(database, 60)
    await driver.run(60)
    driver.world.always = Result.UNREACHABLE
    driver.world.tags()
    await driver.run(90)
    assert driver.lane.away
    assert await driver.open() == []
    assert FAILURES <= len(driver.world.tags()) < 15
    await driver.run(INTERVAL)
    assert len(driver.world.tags()) < 15
    (event,) = await driver.events.list()
    assert (event.type, event.subject) == (EventType.UPSTREAM_UNREACHABLE, APP.registry)
    assert "2026-01-02 03:0" in event.message
    driver.fresh()
    await driver.run(300)
    assert len(await driver.events.list()) == 1, "it is the same outage after a restart"
    driver.world.always = None
    driver.world.tags()
    await driver.run(400)
    assert not driver.lane.away
    assert await driver.open() == []
    await driver.run(INTERVAL)
    assert len(set(driver.world.tags())) == 60
    assert len(await driver.events.list()) == 1


async def test_tags_of_which_nothing_can_be_heard_keep_no_upstream_away(database: Database, driver: Driver) -> None:
    """While it is away each try is about another tag: those that fail for themselves do not hide that it is back."""
    await pin(database, 20)
    driver.world.always = Result.UNREACHABLE
    while not driver.lane.away:
        await driver.run(10)
    hand = await driver.store.hand(APP.registry, Round.PINS)
    assert hand is not None
    turns = await driver.store.due(APP.registry, Round.PINS, hand.position, PHASES, 20)
    driver.world.always, driver.world.answers = None, {turn.tag: Result.UNREACHABLE for turn in turns[:3]}
    for _ in range(60):
        await driver.run(10)
        if not driver.lane.away:
            return
    pytest.fail("it is called away for good")


async def test_pins_that_nobody_can_judge_say_nothing_of_their_upstream(database: Database, driver: Driver) -> None:
    """Where it was not asked because a verdict cannot be had, it is not away, and nothing is told; they are checked again."""
    await pin(database, 10)
    driver.world.always, driver.world.asks = Result.UNREACHABLE, False
    await driver.run(2 * INTERVAL)
    assert not driver.lane.away
    assert await driver.events.list() == []
    assert min(Counter(driver.world.tags()).values()) >= 4
    driver.world.always, driver.world.asks = None, True
    await driver.run(INTERVAL)
    assert len(set(driver.world.tags())) == 10


async def test_no_access_is_told_when_there_is_none_at_all(database: Database, driver: Driver) -> None:
    """One repository that is gone is no news of the upstream; where nothing is to be had any more, credentials may be missing."""
    await pin(database, 30)
    driver.world.answers["t1"] = Result.DENIED
    await driver.run(2 * INTERVAL)
    assert await driver.open() == []
    driver.world.always = Result.DENIED
    await driver.run(INTERVAL)
    assert await driver.open() == [EventType.UPSTREAM_UNREACHABLE]
    assert len(set(driver.world.tags())) == 30, "nobody is passed over for it"


async def test_misbehaviour_is_told_of_the_upstream_once(database: Database, driver: Driver) -> None:
    """However many tags show it; over after an interval in which nothing did, also when it was restarted meanwhile."""
    await pin(database, 20)
    driver.world.answers["t3"] = driver.world.answers["t4"] = Result.MISBEHAVED
    await driver.run(2 * INTERVAL)
    told = [event for event in await driver.events.list() if event.type is EventType.UPSTREAM_MISBEHAVING]
    assert [event.subject for event in told] == [APP.registry]
    driver.world.answers.clear()
    driver.fresh()
    await driver.run(INTERVAL / 2)
    assert EventType.UPSTREAM_MISBEHAVING in await driver.open()
    await driver.run(INTERVAL + 10)
    assert await driver.open() == []


async def test_misbehaviour_is_not_over_because_nothing_was_asked(database: Database, driver: Driver) -> None:
    """While the upstream is away, or wants to be left alone, nobody sees whether it behaves; it is when all had a turn."""
    await pin(database, 20)
    driver.world.always = Result.MISBEHAVED
    await driver.run(INTERVAL / 2)
    driver.world.always = Result.UNREACHABLE
    await driver.run(3 * INTERVAL)
    driver.world.always = None
    driver.world.allowance = Allowance(refusals=1, pause=50)
    await driver.run(3 * INTERVAL)
    assert EventType.UPSTREAM_MISBEHAVING in await driver.open()
    driver.world.allowance = Allowance(refusals=1)
    await driver.run(2 * INTERVAL)
    assert await driver.open() == []


async def test_while_an_upstream_wants_no_more_nobody_has_a_turn(database: Database, driver: Driver) -> None:
    """What is left of a page waits, how much is due is known, and nobody is left out when it goes on."""
    await pin(database, 2 * PAGE)
    await driver.run(100)
    driver.world.tags()
    driver.world.allowance = Allowance(refusals=1, pause=50)
    await driver.run(500)
    assert driver.world.tags() == []
    assert driver.lane.slowed
    assert driver.lane.due > PAGE
    assert 400 < driver.lane.overdue_seconds < 600
    driver.world.allowance = Allowance(refusals=1)
    await driver.run(INTERVAL)
    assert len(set(driver.world.tags())) == 2 * PAGE
    assert not driver.lane.slowed
    assert driver.lane.overdue_seconds < 60


async def test_the_rate_bounds_what_is_late(database: Database, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """More pins than the rate allows: it is told once in the log, and goes around more slowly."""
    logged: list[str] = []
    monkeypatch.setattr(module.log, "warning", lambda event, **_: logged.append(event), raising=False)
    await pin(database, 60)
    driver.lane.adopt(driver.settings.model_copy(update={"rate": 30 / INTERVAL}))
    await driver.run(4 * INTERVAL)
    assert len(driver.world.asked) == pytest.approx(120, abs=4)
    assert logged.count("watch.behind") == 1
    assert driver.lane.due >= 40


async def test_a_database_that_does_not_answer_loses_nothing(database: Database, driver: Driver) -> None:
    """The hand goes on from where it is kept; what nobody foresaw is not taken for it."""
    await pin(database, 20)
    driver.world.error = DatabaseUnavailable("the disk is gone")
    await driver.run(INTERVAL)
    assert driver.world.tags()
    driver.world.error = None
    await driver.run(INTERVAL)
    assert len(set(driver.world.tags())) == 20
    driver.world.error = ZeroDivisionError()
    with pytest.raises(BaseExceptionGroup):
        await driver.run(INTERVAL)


async def test_never_means_never_until_it_is_reloaded(database: Database, driver: Driver) -> None:
    """Neither round moves; another schedule holds from the next look on."""
    await pin(database, 5)
    driver.lane.adopt(Watch(interval=0.0, tags_interval=0.0))
    await driver.run(2 * INTERVAL)
    await driver.run(2 * INTERVAL, tags=True)
    assert driver.world.tags() == []
    assert driver.world.listed == []
    assert driver.lane.overdue_seconds == 0
    driver.lane.adopt(driver.settings.model_copy())
    await driver.run(INTERVAL)
    assert len(set(driver.world.tags())) == 5


async def test_lists_have_turns_of_their_own(database: Database, driver: Driver) -> None:
    """Each repository within `tags_interval`; a new one at once, and one in which something happened; long lists are paid for."""
    pins = PinStore(database)
    repositories = [Repository.of(APP.registry, f"acme/app{number}") for number in range(12)]
    for repository in repositories:
        await pinned(pins, first_pin(repository=repository))
    await driver.run(10, tags=True)
    assert set(driver.world.listed) == set(repositories), "all of them are new"
    for repository in repositories:
        await driver.store.postponed(repository)
    driver.world.listed.clear()
    await driver.run(4 * INTERVAL, look=20.0, tags=True)
    assert set(driver.world.listed) == set(repositories)
    assert driver.counts["lists", "unchanged"] >= 24
    driver.world.listing = Listing(Result.UNREACHABLE, 1, "no route")
    driver.world.listed.clear()
    await driver.run(4 * INTERVAL, look=20.0, tags=True)
    assert driver.lane.away, "an upstream that answers no lists answers nothing"
    assert len(driver.world.listed) == FAILURES


async def test_a_round_without_anything_in_it_costs_nothing(database: Database, driver: Driver) -> None:
    """No pins: nothing is asked, and the first one that comes has its turn within the interval."""
    await driver.run(INTERVAL)
    assert driver.world.tags() == []
    await pin(database, 1, seconds=driver.world.seconds)
    await driver.run(INTERVAL)
    assert driver.world.tags() in (["t0"], ["t0", "t0"])
    assert await driver.store.count(APP.registry, Round.PINS, 0, PHASES) == 1

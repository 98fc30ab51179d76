"""What is remembered: for how long, how much, and never what was invalidated while it was being worked out."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.services.memory import Memory


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def put(memory: Memory[str, str], key: str, value: str, *, seconds: float = 60, cost: int = 1) -> None:
    """Remember under the present generation."""
    memory.put(key, value, seconds=seconds, cost=cost, generation=memory.generation)


def test_what_is_put_is_remembered_until_it_expires(clock: Clock) -> None:
    """An entry is there up to its last moment, not at it, and gone for good after it."""
    memory: Memory[str, str] = Memory(10, clock)
    assert memory.get("a") is None
    put(memory, "a", "one", seconds=60)
    clock.now += 59.9
    assert memory.get("a") == "one"
    clock.now += 0.1
    assert memory.get("a") is None
    clock.now -= 60
    assert memory.get("a") is None
    assert len(memory) == 0


@pytest.mark.parametrize("step", [3600, -3600, 6, -6])
def test_nothing_outlives_a_step_of_the_wall_clock(clock: Clock, step: float) -> None:
    """An entry goes when the wall clock was set, forward or back; it stays while both clocks go on at their pace."""
    wall = Clock()
    memory: Memory[str, str] = Memory(10, clock, wall)
    put(memory, "a", "one")
    for moved in (clock, wall):
        moved.now += 30
    wall.now += 0.5
    assert memory.get("a") == "one"
    wall.now += step
    assert memory.get("a") is None


@pytest.mark.parametrize("seconds", [0, -1, float("-inf")])
def test_what_is_good_for_no_time_is_not_remembered(clock: Clock, seconds: float) -> None:
    """A check interval of zero means that each pull asks."""
    memory: Memory[str, str] = Memory(10, clock)
    put(memory, "a", "one", seconds=seconds)
    assert len(memory) == 0


def test_the_least_recently_used_goes_first(clock: Clock) -> None:
    """A new entry takes the room of those that were asked for longest ago, as many as it needs."""
    memory: Memory[str, str] = Memory(10, clock)
    for key in "abc":
        put(memory, key, key, cost=3)
    assert memory.get("a") == "a"
    put(memory, "d", "d", cost=5)
    assert [key for key in "abcd" if memory.get(key)] == ["a", "d"]


def test_what_is_larger_than_the_memory_is_not_remembered(clock: Clock) -> None:
    """It takes no room from others either."""
    memory: Memory[str, str] = Memory(10, clock)
    put(memory, "a", "one", cost=10)
    put(memory, "b", "two", cost=11)
    assert (memory.get("a"), memory.get("b")) == ("one", None)


def test_putting_again_replaces_and_costs_once(clock: Clock) -> None:
    """The newer value counts, with its own time and cost."""
    memory: Memory[str, str] = Memory(10, clock)
    for _ in range(5):
        put(memory, "a", "old", cost=6, seconds=1)
    put(memory, "a", "new", cost=5, seconds=10)
    put(memory, "b", "other", cost=5)
    clock.now += 5
    assert (memory.get("a"), memory.get("b")) == ("new", "other")


def test_forgetting_is_not_invalidating(clock: Clock) -> None:
    """``forget`` makes room; what is being worked out meanwhile may still be remembered."""
    memory: Memory[str, str] = Memory(10, clock)
    put(memory, "a", "one", cost=10)
    generation = memory.generation
    memory.forget("a")
    memory.forget("never there")
    memory.put("a", "two", seconds=1, cost=10, generation=generation)
    assert memory.get("a") == "two"


@pytest.mark.parametrize("act", ["this key", "another key", "everything"])
def test_what_was_read_before_an_invalidation_is_not_remembered_after_it(clock: Clock, act: str) -> None:
    """The race between reading the database and a notice: the reader's answer may be the old one."""
    memory: Memory[str, str] = Memory(10, clock)
    put(memory, "a", "old")
    put(memory, "b", "other")
    generation = memory.generation
    if act == "everything":
        memory.clear()
        assert len(memory) == 0
    else:
        memory.invalidate("a" if act == "this key" else "c")
    memory.put("a", "stale", seconds=60, cost=1, generation=generation)
    assert memory.get("a") == ("old" if act == "another key" else None)
    memory.put("a", "fresh", seconds=60, cost=1, generation=memory.generation)
    assert memory.get("a") == "fresh"
    assert memory.get("b") == (None if act == "everything" else "other")


class MemoryMachine(RuleBasedStateMachine):
    """Compares with a model that keeps everything in plain sight."""

    capacity = 8
    keys = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory: Memory[str, int] = Memory(self.capacity, self.clock)
        self.model: OrderedDict[str, tuple[int, float, int]] = OrderedDict()
        self.read = 0
        self.number = 0

    @rule(key=keys, seconds=st.integers(0, 5), cost=st.integers(1, 10), late=st.booleans())
    def put(self, key: str, seconds: int, cost: int, late: bool) -> None:
        self.number += 1
        generation = self.read if late else self.memory.generation
        current = generation == self.memory.generation
        self.memory.put(key, self.number, seconds=seconds, cost=cost, generation=generation)
        if current and seconds > 0 and cost <= self.capacity:
            self.model.pop(key, None)
            self.model[key] = (self.number, self.clock.now + seconds, cost)
            while sum(cost for _, _, cost in self.model.values()) > self.capacity:
                self.model.popitem(last=False)

    @rule(key=keys)
    def get(self, key: str) -> None:
        expected = None
        if key in self.model and self.model[key][1] <= self.clock.now:
            del self.model[key]
        elif key in self.model:
            self.model.move_to_end(key)
            expected = self.model[key][0]
        assert self.memory.get(key) == expected

    @rule()
    def begin_to_read(self) -> None:
        self.read = self.memory.generation

    @rule(key=keys)
    def invalidate(self, key: str) -> None:
        self.memory.invalidate(key)
        self.model.pop(key, None)

    @rule(key=keys)
    def forget(self, key: str) -> None:
        self.memory.forget(key)
        self.model.pop(key, None)

    @rule()
    def clear(self) -> None:
        self.memory.clear()
        self.model.clear()

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert len(self.memory) == len(self.model)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=50, stateful_step_count=30)

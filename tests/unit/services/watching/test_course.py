"""The hand goes around evenly, whatever happens meanwhile."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.services.watching.course import CATCH_UP, STRIDE, Course, moved, seen_lately, turn_of
from storage.watching import PHASES, Hand

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = 3600.0
JITTER = 0.1


class Pinned:
    """Many pins and one hand, in simulated time."""

    def __init__(self, count: int, seed: int, hand: Hand | None = None, now: float = 0.0) -> None:
        self.random = Random(seed)
        self.phases = [self.random.randrange(PHASES) for _ in range(count)]
        self.checked: list[list[float]] = [[] for _ in range(count)]
        self.now = now
        self.course = Course(hand or Hand(self.random.randrange(PHASES), self.moment()), now)

    def moment(self) -> datetime:
        """The wall clock."""
        return BEGAN + timedelta(seconds=self.now)

    def restart(self) -> None:
        """A new process goes on where the hand was kept."""
        self.course = Course(self.course.hand, self.now)

    def run(self, seconds: float, interval: float = INTERVAL, *, look: float = 10.0, pulls: float = 0.0) -> None:
        """Let time pass, looking every ``look`` seconds; ``pulls`` pins a second are pulled, and checked by that."""
        turn = turn_of(interval, JITTER)
        order = sorted(range(len(self.phases)), key=lambda pin: self.phases[pin])
        end = self.now + seconds
        while self.now < end:
            self.now += look
            for _ in range(round(pulls * look)):
                self.checked[self.random.randrange(len(self.phases))].append(self.now - self.random.random() * look)
            start, reach = self.course.hand.position, self.course.reach(self.moment(), self.now, turn)
            start = self.course.hand.position
            turned = []
            keys = [self.phases[pin] for pin in order]
            for after, upto in (
                [(start, start + reach)] if start + reach < PHASES else [(start, PHASES), (-1, start + reach - PHASES)]
            ):
                for pin in order[bisect_right(keys, after) : bisect_right(keys, upto)]:
                    last = max(self.checked[pin], default=None)
                    at = None if last is None else BEGAN + timedelta(seconds=last)
                    if not seen_lately(at, self.moment(), interval, JITTER):
                        self.checked[pin].append(self.now)
                        turned.append(pin)
            for pin in turned:
                self.phases[pin] = moved(self.phases[pin], JITTER)
            if turned:
                order.sort(key=lambda pin: self.phases[pin])
            self.course.passed(reach, self.now, turn)

    def gaps(self, since: float) -> list[float]:
        """For each pin the longest time without a check, from ``since`` until now."""
        return [
            max(later - earlier for earlier, later in zip([since, *times], [*times, self.now], strict=True))
            for pin in self.checked
            for times in [sorted(time for time in pin if time >= since)]
        ]

    def busiest(self, window: float, since: float) -> int:
        """The most checks by the watcher in any window of so many seconds, on the grid of the looks."""
        times = sorted(time for pin in self.checked for time in pin if time >= since)
        return max((bisect_right(times, time + window) - index for index, time in enumerate(times)), default=0)


@pytest.mark.parametrize("seed", range(2))
def test_every_pin_is_checked_within_the_interval_and_no_window_holds_more_than_its_share(seed: int) -> None:
    """Over several turns nobody waits longer than the interval, and each tenth of it has about a tenth of the checks."""
    pins = Pinned(2000, seed)
    pins.run(6 * INTERVAL)
    assert max(pins.gaps(0.0)) <= INTERVAL + 20
    share = 2000 / turn_of(INTERVAL, JITTER) * INTERVAL / 10
    assert pins.busiest(INTERVAL / 10, 0.0) < 1.5 * share
    asked = sum(map(len, pins.checked)) / 2000
    assert 6 <= asked <= 7.5, "no more requests than the promise costs"


def test_a_hand_that_begins_begins_without_a_burst() -> None:
    """In the first minutes after the very first start no more is asked than in any others."""
    pins = Pinned(2000, 1)
    pins.run(600)
    assert sum(map(len, pins.checked)) < 1.5 * 2000 * 600 / turn_of(INTERVAL, JITTER)


@pytest.mark.parametrize("pause", [60.0, 1800.0, 86400.0, 365 * 86400.0])
def test_after_a_pause_everybody_is_seen_to_soon_without_a_burst(pause: float) -> None:
    """However long nobody watched: twice the pace at most, and nobody waits longer than the pause and an interval."""
    pins = Pinned(2000, 2)
    pins.run(2 * INTERVAL)
    pins.now += pause
    began = pins.now
    pins.restart()
    pins.run(INTERVAL)
    share = 2000 / turn_of(INTERVAL, JITTER)
    assert pins.busiest(360, began) < 1.5 * CATCH_UP * share * 360
    assert all(any(time > began for time in pin) for pin in pins.checked)
    assert max(pins.gaps(0.0)) <= INTERVAL + pause + 20
    pins.run(INTERVAL)
    assert pins.course.late(pins.moment(), turn_of(INTERVAL, JITTER)) <= STRIDE, "it is made up for"


@pytest.mark.parametrize(("before", "after"), [(INTERVAL, INTERVAL / 10), (INTERVAL / 10, INTERVAL), (INTERVAL, 6 * INTERVAL)])
def test_another_interval_is_another_pace(before: float, after: float) -> None:
    """When the interval changes nothing is due at once, and from one interval later the new promise holds."""
    pins = Pinned(2000, 3)
    pins.run(2 * before, before)
    began = pins.now
    pins.run(2 * after, after)
    share = 2000 / turn_of(after, JITTER)
    assert pins.busiest(after / 10, began) < 1.5 * share * after / 10
    assert max(pins.gaps(began)) <= after + 20


def test_what_was_pulled_lately_is_not_asked_again() -> None:
    """Pins that clients pull all the time cost the watcher nothing, and nobody waits longer for it."""
    pins = Pinned(200, 4)
    pins.run(3 * INTERVAL, pulls=4.0)
    by_pulls = 3 * INTERVAL * 4.0
    assert sum(map(len, pins.checked)) - by_pulls < 20
    assert max(pins.gaps(0.0)) <= INTERVAL + 20
    some = Pinned(2000, 5)
    some.run(4 * INTERVAL, pulls=0.1)
    assert max(some.gaps(0.0)) <= INTERVAL + 20


def test_pins_that_were_made_together_part() -> None:
    """Even if all phases were equal, after some turns the checks are spread: nothing keeps them together."""
    pins = Pinned(500, 6)
    pins.phases = [PHASES // 2] * 500
    pins.run(40 * INTERVAL, look=30.0)
    last = pins.now - turn_of(INTERVAL, JITTER)
    assert pins.busiest(360, last) < 500 / 3


@given(
    st.lists(
        st.tuples(st.floats(0.1, 5000.0), st.floats(-4000.0, 1e8), st.floats(10.0, 1e6), st.floats(0.0, 1.0)),
        min_size=1,
        max_size=30,
    )
)
def test_the_hand_never_runs(steps: list[tuple[float, float, float, float]]) -> None:
    """Whatever the clocks and intervals do: never more than a turn, never faster than its pace allows, never late by more."""
    mono, wall = 0.0, BEGAN
    course = Course(Hand(0, BEGAN), mono)
    for monotonic, jump, turn, taken in steps:
        mono += monotonic
        wall = max(BEGAN, min(wall + timedelta(seconds=jump), BEGAN + timedelta(days=36500)))
        reach = course.reach(wall, mono, turn)
        assert 0 <= reach <= PHASES
        assert reach * turn / PHASES <= CATCH_UP * STRIDE + 1e-3
        assert 0 <= course.late(wall, turn) <= turn
        course.passed(int(reach * taken), mono, turn)
        assert 0 <= course.hand.position < PHASES
        assert course.hand.at <= wall + timedelta(seconds=1e-3)


def test_promise_55_a_clock_that_steps_back_stops_nothing() -> None:
    """A year back: the hand goes on from where it is, at its pace; a check of the future is no check."""
    pins = Pinned(100, 7)
    pins.run(INTERVAL)
    ahead = Hand(pins.course.hand.position, pins.course.hand.at + timedelta(days=365))
    course = Course(ahead, pins.now)
    turn = turn_of(INTERVAL, JITTER)
    assert course.reach(pins.moment(), pins.now, turn) == 0
    pins.now += 10
    assert 0 < course.reach(pins.moment(), pins.now, turn) <= CATCH_UP * 10 / turn * PHASES
    assert not seen_lately(pins.moment() + timedelta(seconds=1), pins.moment(), INTERVAL, JITTER)
    assert seen_lately(pins.moment(), pins.moment(), INTERVAL, JITTER)
    assert not seen_lately(None, pins.moment(), INTERVAL, JITTER)


def test_without_jitter_everybody_keeps_their_place() -> None:
    """No place moves, no check counts as done by a pull, and a turn is the interval."""
    assert moved(5, 0.0) == 5
    assert turn_of(INTERVAL, 0.0) == INTERVAL
    assert not seen_lately(BEGAN, BEGAN, INTERVAL, 0.0)
    assert all(abs((moved(0, 0.25) + PHASES // 2) % PHASES - PHASES // 2) <= PHASES / 3 + 1 for _ in range(100))

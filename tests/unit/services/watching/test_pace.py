"""Upstreams are asked as often as they allow, and not more often than was configured."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from proxy.services.watching.pace import FAILURES, FIRST, LAST, SLOWEST, TRICKLE, Health, Pace, Slow
from proxy.upstream.client import Allowance

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FREE = Allowance()


def went(pace: Pace, seconds: float, allowance: Allowance = FREE, start: float = 0.0) -> int:
    """How many requests go in so many seconds where as many as possible are wanted."""
    count, mono = 0, start
    while (wait := pace.wait(mono, allowance)) <= start + seconds - mono:
        mono += wait
        pace.spent(mono)
        count += 1
        if wait == 0 and count > 100 * seconds + 100:
            raise AssertionError("it never makes anybody wait")
    return count


def test_requests_are_spaced() -> None:
    """Never more than the rate, also after a long rest; more at once is paid for afterwards."""
    pace = Pace(10, 0.5)
    assert went(pace, 10) == pytest.approx(100, abs=2)
    assert went(pace, 1, start=1000) == pytest.approx(10, abs=2)
    pace.spent(2000, 50)
    assert pace.wait(2000, FREE) == pytest.approx(5)
    assert pace.slow is None
    pace.adopt(100, 0.5)
    assert went(pace, 10, start=3000) == pytest.approx(1000, abs=3)


def moments(pace: Pace, count: int) -> list[float]:
    """When the next requests go, where each is wanted as soon as it may."""
    mono, found = 0.0, []
    for _ in range(count):
        mono += pace.wait(mono, FREE)
        pace.spent(mono)
        found.append(mono)
    return found


@pytest.mark.parametrize(("rate", "together"), [(0.5, 1), (10, 1), (12, 1), (40, 4), (210, 17)])
def test_many_go_together_few_apart(rate: float, together: int) -> None:
    """Only what would be due within a moment: never more than that beyond the rate, however long it goes on."""
    went = moments(Pace(rate, 0.5), 50 * together)
    assert went[0] == 0
    sizes = Counter(went)
    assert set(sizes.values()) == {together}
    starts = sorted(sizes)
    assert [later - start for start, later in pairwise(starts)] == pytest.approx([together / rate] * (len(starts) - 1))


def test_what_was_too_much_ends_what_goes_together() -> None:
    """A refusal in the middle: the rest of them waits for its own turn."""
    pace = Pace(100, 0.5)
    for _ in range(3):
        assert pace.wait(0, FREE) == 0
        pace.spent(0)
    assert pace.wait(0.001, Allowance(refusals=1)) == pytest.approx(0.029)


def test_nobody_sleeps_for_less_than_timers_can() -> None:
    """Woken a little early, as timers do: it goes, in place of sleeping for nothing again and again."""
    pace = Pace(10, 0.5)
    pace.spent(0)
    assert pace.wait(0, FREE) == pytest.approx(0.1)
    assert pace.wait(0.0985, FREE) == pytest.approx(0.0015)
    assert pace.wait(0.0995, FREE) == 0
    pace.spent(0.0995)
    assert pace.wait(0.0995, FREE) == pytest.approx(0.1005), "what went early is not gained"


def test_promise_33_too_many_requests_make_it_slower_for_a_while() -> None:
    """Each refusal halves the rate, after the pause that the upstream asks for; answers bring it back bit by bit."""
    pace = Pace(10, 0.5)
    assert pace.wait(0, Allowance(refusals=3)) == 0, "what was before is no reason"
    assert pace.wait(0, Allowance(refusals=4, pause=30)) == 30
    assert pace.slow is Slow.REFUSED
    after = Allowance(refusals=4)
    assert went(pace, 2, after, start=30) == pytest.approx(10, abs=2)
    assert pace.slow is Slow.REFUSED
    assert went(pace, 60, after, start=40) > 300
    assert pace.wait(200, after) == 0
    assert pace.slow is None
    for refusals in range(5, 50):
        pace.wait(300, Allowance(refusals=refusals))
    pace.spent(300)
    assert pace.wait(300, Allowance(refusals=49)) <= 1 / (10 * SLOWEST)


def test_a_share_of_the_rate_limit_is_left_to_pulls() -> None:
    """Above the share it goes at its rate; at it, once in a while, so that it learns when there is more."""
    pace = Pace(10, 0.5)
    assert went(pace, 10, Allowance(51, 100, 21600)) == pytest.approx(100, abs=2)
    assert pace.slow is None
    spare = Allowance(50, 100, 21600)
    assert went(pace, 2160, spare, start=100) == pytest.approx(10, abs=1)
    assert pace.slow is Slow.LIMIT
    assert went(pace, 10 * TRICKLE, Allowance(0, 10_000, 3600), start=5000) == pytest.approx(10, abs=1)
    assert went(pace, 10, Allowance(99, 100, 21600), start=9000) == pytest.approx(100, abs=2)
    assert pace.slow is None
    assert went(Pace(10, 0.0), 10, Allowance(1, 100, 21600)) == pytest.approx(100, abs=2)
    assert went(Pace(10, 0.5), 10, Allowance(1, None)) == pytest.approx(100, abs=2)


def test_an_upstream_is_away_after_some_failures_in_a_row() -> None:
    """Tried after ever longer pauses, up to a bound; one answer ends it."""
    health = Health()
    for number in range(FAILURES):
        assert not health.away
        health.failed(NOW + timedelta(seconds=number), f"error {number}")
    assert health.away
    assert (health.since, health.error) == (NOW, f"error {FAILURES - 1}")
    assert 0.7 * FIRST < health.pause() <= FIRST
    health.failed(NOW, "again")
    assert 1.4 * FIRST < health.pause() <= 2 * FIRST
    for _ in range(100):
        health.failed(NOW, "still")
    assert 0.7 * LAST < health.pause() <= LAST
    health.answered()
    assert not health.away
    assert health.since is None


def test_silence_is_told_once_when_it_has_lasted() -> None:
    """Not before its time, not twice; after an answer, a new silence is news again."""
    health = Health()
    assert not health.silent(NOW, 0)
    for _ in range(FAILURES + 1):
        assert not health.silent(NOW + timedelta(seconds=60), 60), "one tag says little of an upstream"
        health.failed(NOW, "no route")
    assert not health.silent(NOW + timedelta(seconds=59), 60)
    assert health.silent(NOW + timedelta(seconds=60), 60)
    health.told = True
    assert not health.silent(NOW + timedelta(seconds=61), 60)
    health.answered()
    for _ in range(FAILURES + 1):
        health.failed(NOW, "no route")
    assert health.silent(NOW + timedelta(seconds=60), 60)


def test_no_access_is_silence_but_no_outage() -> None:
    """It is not asked less often for it: repositories may be taken away one by one."""
    health = Health()
    for _ in range(2 * FAILURES):
        health.failed(NOW, "denied", outage=False)
    assert not health.away
    assert health.silent(NOW + timedelta(hours=1), 60)

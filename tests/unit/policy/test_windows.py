"""Windows: days and hours on a wall clock, over midnight, and where clocks are put forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.windows import Window

EVERY = frozenset(range(7))
BERLIN, LORD_HOWE = "Europe/Berlin", "Australia/Lord_Howe"  # the latter's clocks move by half an hour


def window(start: str, end: str, days: frozenset[int] = EVERY, zone: str = BERLIN) -> Window:
    """A window as the file writes it."""
    until = None if end == "24:00" else time.fromisoformat(end)
    return Window(days, time.fromisoformat(start), until, ZoneInfo(zone), zone)


def utc(text: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


SATURDAY_NIGHT = window("22:00", "06:00", frozenset({5}))
SKIPPED = window("02:10", "02:50")


@pytest.mark.parametrize(
    ("held", "now", "is_open", "opens"),
    [
        # an ordinary day in summer: Berlin is two hours ahead
        (window("09:00", "17:00"), "2026-07-01T06:59:59", False, "2026-07-01T07:00"),
        (window("09:00", "17:00"), "2026-07-01T07:00", True, "2026-07-01T07:00"),
        (window("09:00", "17:00"), "2026-07-01T15:00", False, "2026-07-02T07:00"),
        # over midnight: the day is that of the opening (2026-07-04 is a Saturday)
        (SATURDAY_NIGHT, "2026-07-04T19:59", False, "2026-07-04T20:00"),
        (SATURDAY_NIGHT, "2026-07-05T03:59", True, "2026-07-05T03:59"),
        (SATURDAY_NIGHT, "2026-07-05T04:00", False, "2026-07-11T20:00"),
        (SATURDAY_NIGHT, "2026-07-05T21:00", False, "2026-07-11T20:00"),
        # until midnight, and whole days
        (window("22:00", "24:00", frozenset({5})), "2026-07-04T21:59", True, "2026-07-04T21:59"),
        (window("22:00", "00:00", frozenset({5})), "2026-07-04T22:00", False, "2026-07-11T20:00"),
        (window("00:00", "24:00", frozenset({0, 1})), "2026-07-07T21:59", True, "2026-07-07T21:59"),
        (window("00:00", "24:00", frozenset({0, 1})), "2026-07-07T22:00", False, "2026-07-12T22:00"),
        # clocks are put forward on 2026-03-29 from 02:00 to 03:00, at 01:00 UTC
        (window("02:30", "04:00"), "2026-03-29T00:59", False, "2026-03-29T01:00"),
        (window("02:30", "04:00"), "2026-03-29T01:00", True, "2026-03-29T01:00"),
        (window("02:30", "04:00"), "2026-03-29T02:00", False, "2026-03-30T00:30"),
        (window("01:00", "02:30"), "2026-03-29T00:59", True, "2026-03-29T00:59"),
        (window("01:00", "02:30"), "2026-03-29T01:00", False, "2026-03-29T23:00"),
        (SKIPPED, "2026-03-29T00:00", False, "2026-03-30T00:10"),
        # and back on 2026-10-25 from 03:00 to 02:00, at 01:00 UTC: 02:30 is at 00:30 and at 01:30 UTC
        (window("02:30", "04:00"), "2026-10-25T00:30", True, "2026-10-25T00:30"),
        (window("02:30", "04:00"), "2026-10-25T01:10", True, "2026-10-25T01:10"),
        (window("02:30", "04:00"), "2026-10-25T03:00", False, "2026-10-26T01:30"),
        (window("01:00", "02:30"), "2026-10-25T01:29", True, "2026-10-25T01:29"),
        (window("01:00", "02:30"), "2026-10-25T01:30", False, "2026-10-26T00:00"),
        # by half an hour, at 15:30 UTC of the day before (2026-10-04, 02:00 becomes 02:30)
        (window("02:00", "03:00", zone=LORD_HOWE), "2026-10-03T15:29", False, "2026-10-03T15:30"),
        (window("02:00", "03:00", zone=LORD_HOWE), "2026-10-03T15:59", True, "2026-10-03T15:59"),
        (window("02:00", "03:00", zone=LORD_HOWE), "2026-10-03T16:00", False, "2026-10-04T15:00"),
    ],
)
def test_when_a_window_is_open(held: Window, now: str, is_open: bool, opens: str) -> None:
    """Whether it is, and when it is next."""
    assert held.holds(utc(now)) is is_open
    assert held.opens(utc(now)) == utc(opens)


def test_a_window_that_opens_once_a_week_in_a_jump_opens_the_week_after() -> None:
    """Sundays between 02:10 and 02:50 there is nothing on the day on which clocks are put forward."""
    sundays = window("02:10", "02:50", frozenset({6}))
    assert sundays.opens(utc("2026-03-29T00:00")) == utc("2026-04-05T00:10")


@pytest.mark.parametrize("days", [frozenset(), frozenset({7})])
def test_a_window_has_days(days: frozenset[int]) -> None:
    """Without any it would never open."""
    with pytest.raises(ValueError, match="never opens"):
        window("01:00", "02:00", days)


def test_a_window_has_a_length() -> None:
    """From one time until the same is a mistake: the whole day is written until 24:00."""
    with pytest.raises(ValueError, match="no length"):
        window("01:00", "01:00")


def test_a_window_reads_as_it_is_written() -> None:
    """For people."""
    assert str(window("22:00", "06:00", frozenset({5, 0}))) == "mon, sat 22:00–06:00 Europe/Berlin"
    assert str(window("00:00", "24:00")) == "every day 00:00–24:00 Europe/Berlin"


@given(
    st.integers(1_577_836_800, 2_051_222_400).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),  # 2020 to 2034
    st.sets(st.integers(0, 6), min_size=1),
    st.times(),
    st.none() | st.times(),
    st.sampled_from([BERLIN, LORD_HOWE, "UTC", "America/New_York", "Pacific/Apia"]),
)
def test_a_window_opens_when_it_says(now: datetime, days: set[int], start: time, end: time | None, zone: str) -> None:
    """The next opening is not in the past, the window is open then, and closed all the time until then."""
    start, end = start.replace(microsecond=0, fold=0), None if end is None else end.replace(microsecond=0, fold=0)
    if end == start:
        return
    held = Window(frozenset(days), start, end, ZoneInfo(zone), zone)
    opens = held.opens(now)
    assert opens >= now
    assert held.holds(opens)
    assert (opens == now) is held.holds(now)
    if opens > now:
        assert not held.holds(opens - timedelta(seconds=1)) or opens - timedelta(seconds=1) < now
        assert not held.holds(now + (opens - now) / 2)

"""Windows of time: days of the week and hours on a wall clock somewhere. Pure.

A window opens when the clock on the wall first shows its beginning, and closes when it last shows its end: where the clock is
put back an hour, a window over that hour is an hour longer; where it is put forward, what it skips counts as the moment of the
jump, so that a window that lies in it does not open on that day. Over midnight, the day is the one on which it opens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

#: In the order of :meth:`datetime.date.weekday`.
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)
_STEP = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """On these ``days`` (0 is Monday) from ``start`` until ``end``: of the next day where it is earlier; None is midnight."""

    days: frozenset[int]
    start: time
    end: time | None
    zone: tzinfo
    zone_name: str

    def __post_init__(self) -> None:
        if not self.days or not self.days <= set(range(7)):
            raise ValueError("a window without days never opens")
        if self.end == self.start:
            raise ValueError("a window of no length never opens")

    def holds(self, now: datetime) -> bool:
        """Whether it is open."""
        return any(opens <= now < closes for opens, closes in self._around(now))

    def opens(self, now: datetime) -> datetime:
        """When it is open next: ``now`` where it is, else when it opens."""
        return min(max(opens, now) for opens, closes in self._around(now) if now < closes)

    def __str__(self) -> str:
        days = "every day" if len(self.days) == 7 else ", ".join(DAYS[day] for day in sorted(self.days))
        until = "24:00" if self.end is None else f"{self.end:%H:%M}"
        return f"{days} {self.start:%H:%M}–{until} {self.zone_name}"

    def _around(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Every opening that may hold at ``now``, and those of the two weeks after it (one of which may fall into a jump)."""
        today = now.astimezone(self.zone).date()
        for offset in range(-2, 15):
            day = today + offset * _DAY
            if day.weekday() not in self.days:
                continue
            opens = self._moment(day, self.start, last=False)
            over = self.end is None or self.end < self.start
            closes = self._moment(day + _DAY if over else day, self.end or time(), last=True)
            if opens < closes:
                yield opens, closes

    def _moment(self, day: date, clock: time, *, last: bool) -> datetime:
        """When the clock on the wall shows this, for the first or for the ``last`` time; or else when it jumps over it."""
        wall = datetime.combine(day, clock, self.zone)
        first, second = wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
        if first <= second:
            return second if last else first
        low, high = second, first  # the jump is between them: before it one offset holds, after it the other
        before = low.astimezone(self.zone).utcoffset()
        while high - low > _STEP:
            middle = low + (high - low) / 2
            if middle.astimezone(self.zone).utcoffset() == before:
                low = middle
            else:
                high = middle
        return high.replace(microsecond=0)

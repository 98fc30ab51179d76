"""How fast one upstream may be asked by the watcher, and how it is doing. Pure; ``mono`` is a monotonic clock, in seconds."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from enum import StrEnum

from proxy.upstream.client import Allowance

#: Seconds between two requests to an upstream of whose rate limit no more is left than what belongs to the pulls, at least.
TRICKLE = 60.0
#: An upstream that says that this was too much is asked at half the rate, but not at less than this part of it.
SLOWEST = 1 / 64
#: How many requests without such an answer it takes to go at full rate again.
RECOVERY = 200
#: Timers have no finer hands, in seconds: who sleeps for less is woken at once, and would spin until the moment has come.
TICK = 0.001
#: What is due within so many seconds goes together: apart, each would begin with everything it needs pushed out of the caches by
#: the pulls. Ten a second, and less, are apart.
TOGETHER = 0.08
#: Failures in a row after which an upstream counts as away; it is then tried after :data:`FIRST` seconds, and after twice as long
#: each time, up to :data:`LAST`.
FAILURES = 3
FIRST, LAST = 5.0, 300.0


class Slow(StrEnum):
    """Why an upstream is asked less often than it might be."""

    LIMIT = "the rest of its rate limit is left to pulls"
    REFUSED = "it says that there were too many requests"


class Pace:
    """Spaces the requests to one upstream: ``rate`` a second, fewer while it says so; where that is many, a few go at once."""

    def __init__(self, rate: float, reserve: float) -> None:
        self._rate = rate
        self._reserve = reserve
        self._part = 1.0  #: of the rate, after refusals
        self._last = float("-inf")
        self._next = float("-inf")
        self._until = float("-inf")  #: what has its turn before goes with what went last
        self._refusals: int | None = None
        self.slow: Slow | None = None

    def adopt(self, rate: float, reserve: float) -> None:
        """Another rate from now on."""
        self._rate, self._reserve = rate, reserve

    def wait(self, mono: float, allowance: Allowance) -> float:
        """Seconds until the next request may go, :data:`TICK` at least; 0: now."""
        if self._refusals is not None and allowance.refusals > self._refusals:
            self._part = max(SLOWEST, self._part / 2)
            self._until = self._next
        self._refusals = allowance.refusals
        waits = [self._next - mono if self._next >= self._until else 0.0, allowance.pause]
        self.slow = Slow.REFUSED if self._part < 1 or allowance.pause > 0 else None
        if allowance.remaining is not None and allowance.limit is not None:
            left = allowance.remaining - self._reserve * allowance.limit
            if left <= 0:
                # It has to be asked now and then: nothing else would tell that there is more again.
                self.slow = Slow.LIMIT
                waits.append(self._last + max(TRICKLE, allowance.window / max(1, allowance.limit)) - mono)
        longest = max(waits)
        return longest if longest >= TICK else 0.0

    def spent(self, mono: float, requests: int = 1) -> None:
        """So many requests have gone, or go now."""
        self._last = mono
        if max(self._next, mono) >= self._until:
            self._until = mono + TOGETHER
        self._next = max(self._next, mono) + requests / (self._rate * self._part)
        self._part = min(1.0, self._part + requests / RECOVERY)


class Health:
    """Whether an upstream answers what it is asked. Silence is told once, when it has lasted."""

    def __init__(self) -> None:
        self._failures = 0  #: outages in a row
        self._unanswered = 0  #: of whatever kind
        self._since: datetime | None = None
        self.told = False  #: whether its silence is; to be set by whoever does so
        self.error = ""

    @property
    def away(self) -> bool:
        """Whether it is only tried now and then."""
        return self._failures >= FAILURES

    @property
    def since(self) -> datetime | None:
        """Since when nothing that was asked got an answer; None while answers come."""
        return self._since

    def answered(self) -> None:
        """It said something about what it was asked."""
        self._failures = self._unanswered = 0
        self._since, self.told = None, False

    def failed(self, now: datetime, error: str, *, outage: bool = True) -> None:
        """It did not. What is no ``outage`` (it gives no access) is none of a reason to ask it less often."""
        self._since = self._since or now
        self._failures += outage
        self._unanswered += 1
        self.error = error

    def pause(self) -> float:
        """Seconds until it is tried again while it is away."""
        longest: float = min(LAST, FIRST * 2 ** min(10, self._failures - FAILURES))
        return longest * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load, guards nothing

    def silent(self, now: datetime, after: float) -> bool:
        """Whether no answer has come for ``after`` seconds, and that is not ``told``.

        Three failures may be one tag's: only what is asked then, about another, makes it the upstream's silence.
        """
        if self.told or self._since is None or self._unanswered <= FAILURES:
            return False
        return now - self._since >= timedelta(seconds=after)

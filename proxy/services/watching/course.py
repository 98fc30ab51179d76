"""The course of a hand around a round (:mod:`storage.watching`): where it is, how far it may go now, how late it is. Pure.

In one *turn* the hand goes all the way around, at an even pace. After a pause, whatever its reason, it goes on from where it was,
at :data:`CATCH_UP` times that pace at most, and makes up for one turn at most: by then everybody has been seen to. So a pause of
an hour and one of a year end alike, without a burst, and so does a change of the interval, which is only another pace.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from storage.watching import PHASES, Hand

#: How much faster than usual the hand goes while it is late.
CATCH_UP = 2.0
#: Seconds of its way that the hand may go at once: nobody looks at it more often than that while there is nothing to do.
STRIDE = 20.0


class Course:
    """Of one hand. ``mono`` is a monotonic clock, in seconds; a turn is in seconds, too."""

    def __init__(self, hand: Hand, mono: float) -> None:
        self._hand = hand
        self._since = mono  #: when the hand was where it is, as far as its greatest pace is concerned

    @property
    def hand(self) -> Hand:
        """Where the hand is."""
        return self._hand

    def late(self, now: datetime, turn: float) -> float:
        """Seconds by which whoever waits longest for their turn is overdue, one turn at most."""
        return min(max(0.0, (now - self._hand.at).total_seconds()), turn)

    def reach(self, now: datetime, mono: float, turn: float) -> int:
        """How many phases the hand may go from where it is."""
        late = self.late(now, turn)
        # More than a turn is not made up for; and a clock that stepped back left a moment that is still to come.
        self._hand = Hand(self._hand.position, now - timedelta(seconds=late))
        return round(PHASES * min(late, CATCH_UP * min(mono - self._since, STRIDE)) / turn)

    def passed(self, phases: int, mono: float, turn: float) -> None:
        """The hand has gone so far."""
        seconds = turn * phases / PHASES
        self._hand = Hand((self._hand.position + phases) % PHASES, self._hand.at + timedelta(seconds=seconds))
        self._since = min(mono, max(self._since + seconds / CATCH_UP, mono - STRIDE))


# A turn takes `interval * (1 - jitter)`. Whoever was seen to less than `interval * jitter` ago is passed over: nobody waits
# longer than `interval`. And whoever had a turn is moved by less than that (the hand may be late), to either side: either the
# next turn comes so much earlier, or the hand comes by at once and passes over, and the next turn is so much later.


def turn_of(interval: float, jitter: float) -> float:
    """Seconds of a turn, such that nobody waits for longer than ``interval``."""
    return interval * (1 - jitter)


def seen_lately(at: datetime | None, now: datetime, interval: float, jitter: float) -> bool:
    """Whether somebody who was seen to at ``at`` may wait for the next turn. A moment to come is a clock that was wrong."""
    return at is not None and 0 <= (now - at).total_seconds() < interval * jitter


def moved(phase: int, jitter: float) -> int:
    """Another place for somebody who had a turn, so that nobody can foretell when the next one is."""
    most = round(PHASES * 0.75 * jitter / (1 - jitter))
    return (phase + secrets.randbelow(2 * most) - most) % PHASES if most else phase

"""What this process remembers, so that a warm pull needs neither database nor disk nor upstream.

Entries expire by the monotonic clock. A notice from the database (another worker, an operator's command) removes what it
speaks of. When the wall clock was set, or the machine slept, nothing is remembered any more: keys expire by the calendar.
``generation`` closes the race between reading and remembering: what was read before an invalidation is not
remembered after it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

#: By how many seconds the two clocks may drift apart while an entry lives, without one of them having been set.
_DRIFT = 5.0

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


@dataclass(slots=True)
class _Entry(Generic[_V]):
    value: _V
    until: float
    cost: int
    apart: float  #: how far the wall clock was from the monotonic one


class Memory(Generic[_K, _V]):
    """A bounded map with expiry, least recently used out first. ``capacity`` is in the units of ``cost`` (bytes).

    ``wall`` gives seconds of the wall clock, where entries must not outlive a change of it.
    """

    def __init__(
        self, capacity: int, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] | None = None
    ) -> None:
        self._entries: OrderedDict[_K, _Entry[_V]] = OrderedDict()
        self._capacity = capacity
        self._clock = clock
        self._wall = wall or clock
        self._held = 0
        self.generation = 0

    def get(self, key: _K) -> _V | None:
        """The value, if it is there, has not expired, and no clock was set since."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if entry.until <= now or abs(self._wall() - now - entry.apart) > _DRIFT:
            self.forget(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: _K, value: _V, *, seconds: float, cost: int, generation: int) -> None:
        """Remember for ``seconds``, unless something was invalidated since ``generation`` was read."""
        if generation != self.generation or seconds <= 0 or cost > self._capacity:
            return
        self.forget(key)
        now = self._clock()
        self._entries[key] = _Entry(value, now + seconds, cost, self._wall() - now)
        self._held += cost
        while self._held > self._capacity:
            _, oldest = self._entries.popitem(last=False)
            self._held -= oldest.cost

    def forget(self, key: _K) -> None:
        """Drop one entry, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._held -= entry.cost

    def invalidate(self, key: _K) -> None:
        """Drop one entry because it may no longer be true; whoever is computing one now will not remember it."""
        self.generation += 1
        self.forget(key)

    def clear(self) -> None:
        """Drop everything because something that concerns all of it changed."""
        self.generation += 1
        self._entries.clear()
        self._held = 0

    def __len__(self) -> int:
        return len(self._entries)

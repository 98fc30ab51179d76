"""A circuit breaker: an upstream that fails again and again is left alone for a while.

One per upstream and its credential. Three states: *closed* (requests pass; failures in a row are counted), *open* (requests are
refused at once, with the seconds until the next try), *half-open* (the time is over: one request probes, the others are still
refused). A success closes it; a failed probe opens it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

import structlog

from proxy.errors import UpstreamDenied, UpstreamUnavailable
from proxy.upstream.failures import Outage

log = structlog.get_logger("tagstone.upstream")

#: How long an open breaker's refusal asks clients to wait while a probe is under way, in seconds.
PROBE_WAIT = 1.0


class State(StrEnum):
    """What a breaker does with the next request."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Counts outages of the upstream ``name``; ``clock`` gives monotonic seconds."""

    def __init__(self, name: str, *, failures: int, cooldown: float, clock: Callable[[], float]) -> None:
        self._name = name
        self._threshold = failures
        self._cooldown = cooldown
        self._clock = clock
        self._in_a_row = 0
        self._open_until: float | None = None
        self._probing = False
        self.last_error: str | None = None  #: the latest outage in words, kept after recovery

    @property
    def state(self) -> State:
        """The state now."""
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if self._clock() < self._open_until else State.HALF_OPEN

    @property
    def retry_after(self) -> float | None:
        """Seconds until the upstream is asked again; None while closed."""
        return None if self._open_until is None else max(0.0, self._open_until - self._clock())

    @contextmanager
    def attempt(self, *, background: bool = False) -> Iterator[None]:
        """Guard one request. Raises :class:`UpstreamUnavailable` at once while the upstream is left alone.

        ``background``: nobody waits for it. That there were too many of these is no reason to refuse others.

        What leaves the block decides: an :class:`Outage` counts as a failure; a normal end, or a refusal by the upstream,
        as a success; anything else (cancellation, trouble on our side) as nothing at all.
        """
        probe = self._admit()
        try:
            yield
        except Outage as outage:
            if not (background and outage.busy):
                self._failed(outage)
            raise
        except UpstreamDenied:
            self._succeeded()
            raise
        else:
            self._succeeded()
        finally:
            if probe:
                self._probing = False

    def _admit(self) -> bool:
        """Let a request through, or raise. Returns whether it is the probe."""
        state = self.state
        if state is State.CLOSED:
            return False
        if state is State.HALF_OPEN and not self._probing:
            self._probing = True
            return True
        wait = self.retry_after or PROBE_WAIT
        raise UpstreamUnavailable(
            f"{self._name} is left alone for {wait:.0f} s after {self._in_a_row} failures in a row, the last: {self.last_error}",
            wait,
        )

    def _succeeded(self) -> None:
        if self._open_until is not None:
            log.info("upstream.answers_again", upstream=self._name)
        self._in_a_row = 0
        self._open_until = None

    def _failed(self, outage: Outage) -> None:
        self._in_a_row += 1
        self.last_error = str(outage)
        if self._in_a_row >= self._threshold:
            if self._open_until is None:
                log.warning("upstream.left_alone", upstream=self._name, failures=self._in_a_row, error=self.last_error)
            until = self._clock() + max(self._cooldown, outage.retry_after or 0.0)
            self._open_until = max(until, self._open_until or 0.0)

"""The breaker's three states, by a clock that is turned by hand."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import UpstreamDenied, UpstreamMisbehaved, UpstreamUnavailable
from proxy.upstream.breaker import Breaker, State
from proxy.upstream.failures import Outage
from tests.unit.upstream.servers import Clock


@pytest.fixture
def clock() -> Clock:
    """The breaker's clock."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker that opens after three outages for ten seconds."""
    return Breaker("reg.example", failures=3, cooldown=10.0, clock=clock)


def fail(breaker: Breaker, times: int = 1, retry_after: float | None = None) -> None:
    """Let requests end in an outage."""
    for number in range(times):
        with pytest.raises(Outage), breaker.attempt():
            raise Outage(f"failure {number + 1}", retry_after)


def succeed(breaker: Breaker) -> None:
    """Let a request end well."""
    with breaker.attempt():
        pass


def test_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    """The third outage in a row opens it; then requests are refused at once, with the reason and the time."""
    fail(breaker, 2)
    assert (breaker.state, breaker.retry_after) == (State.CLOSED, None)
    fail(breaker)
    assert breaker.state is State.OPEN
    with pytest.raises(UpstreamUnavailable, match=r"reg\.example is left alone for 10 s after 3 failures .*failure 1") as caught:
        succeed(breaker)
    assert caught.value.retry_after == 10.0
    assert not isinstance(caught.value, Outage)


def test_a_success_in_between_starts_the_count_again(breaker: Breaker) -> None:
    """Only failures in a row count; a refusal is an answer as good as any."""
    fail(breaker, 2)
    succeed(breaker)
    fail(breaker, 2)
    with pytest.raises(UpstreamDenied), breaker.attempt():
        raise UpstreamDenied("no")
    fail(breaker, 2)
    assert breaker.state is State.CLOSED
    assert breaker.last_error == "failure 2"


def test_one_probe_after_the_cooldown(breaker: Breaker, clock: Clock) -> None:
    """Half-open lets one request through; its success closes the breaker."""
    fail(breaker, 3)
    clock.now += 10
    assert (breaker.state, breaker.retry_after) == (State.HALF_OPEN, 0.0)
    with breaker.attempt():
        with pytest.raises(UpstreamUnavailable) as caught:
            succeed(breaker)
        assert caught.value.retry_after == 1.0
    assert breaker.state is State.CLOSED
    succeed(breaker)


def test_a_failed_probe_opens_it_again(breaker: Breaker, clock: Clock) -> None:
    """One outage is enough while half-open, and the cool-down starts anew."""
    fail(breaker, 3)
    clock.now += 11
    fail(breaker)
    assert (breaker.state, breaker.retry_after) == (State.OPEN, 10.0)


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), UpstreamMisbehaved("x"), UpstreamUnavailable("our own"), ValueError()]
)
def test_what_says_nothing_counts_as_nothing(breaker: Breaker, clock: Clock, error: BaseException) -> None:
    """A cancelled probe, or one that met trouble on our side, neither opens nor closes, and another may probe."""
    fail(breaker, 3)
    clock.now += 10
    with pytest.raises(type(error)), breaker.attempt():
        raise error
    assert str(breaker.state) == "half-open"
    succeed(breaker)
    assert str(breaker.state) == "closed"


def test_retry_after_extends_the_cooldown(breaker: Breaker, clock: Clock) -> None:
    """What the upstream asks for counts when it is longer, also from requests that were under way."""
    fail(breaker, 2)
    under_way = breaker.attempt()
    under_way.__enter__()
    fail(breaker, 1, retry_after=3)
    assert breaker.retry_after == 10.0
    error = Outage("429", 30)
    assert not under_way.__exit__(Outage, error, None)
    assert breaker.retry_after == 30.0
    clock.now += 29
    assert breaker.state is State.OPEN

"""Turns: as many at once and in a second as one client may have, in the order in which they were asked for."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.settings import Limits
from proxy.web.fairness import Crowded, Fairness


def fairness(at_once: int = 0, rate: int = 0, timeout: float = 5.0) -> Fairness:
    """With these limits."""
    return Fairness(Limits(client_requests=at_once, client_rate=rate, request_timeout=timeout))


async def test_without_limits_everybody_enters() -> None:
    """There is nothing to wait for."""
    free = fairness()
    assert all(free.enter("a") is not None for _ in range(1000))


async def test_one_client_has_so_many_turns_and_another_its_own() -> None:
    """The third of two waits; another client does not; a turn that ends goes to whoever has waited longest."""
    two = fairness(2)
    first, second = two.enter("a"), two.enter("a")
    assert first is not None
    assert second is not None
    assert two.enter("a") is None
    assert two.enter("b") is not None
    order: list[int] = []

    async def wait(number: int) -> None:
        await two.wait("a")
        order.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    for done in range(3):
        assert order == list(range(done))
        two.leave(first)
        await asyncio.sleep(0.01)
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2]


async def test_who_gives_up_leaves_no_turn_behind() -> None:
    """Neither a client that left while it waited, nor one that left in the moment of its turn, takes a turn with it."""
    one = fairness(1)
    held = one.enter("a")
    assert held is not None
    early, late = asyncio.create_task(one.wait("a")), asyncio.create_task(one.wait("a"))
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.sleep(0)
    one.leave(held)
    late.cancel()
    for gone in (early, late):
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert one.enter("a") is not None
    assert one.enter("a") is None


@pytest.mark.parametrize("by_time", [False, True])
async def test_who_gives_up_in_the_moment_of_a_turn_is_passed_over(by_time: bool) -> None:
    """Cancelled or out of time, and not yet aware of it, when a turn ends: it is told what happened, and the turn is free."""
    one = fairness(1, timeout=0.05 if by_time else 5.0)
    held = one.enter("a")
    assert held is not None
    waiting = asyncio.create_task(one.wait("a"))
    await asyncio.sleep(0)
    if by_time:
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() + 0.051, one.leave, held)
        time.sleep(0.1)  # both are due when the loop comes to look
    else:
        waiting.cancel()
        one.leave(held)
    with pytest.raises(Crowded if by_time else asyncio.CancelledError):
        await waiting
    assert one.enter("a") is not None
    assert one.enter("a") is None


async def test_waiting_ends() -> None:
    """After the time for a request, and at once where too many wait already."""
    one = fairness(1, timeout=0.05)
    assert one.enter("a") is not None
    with pytest.raises(Crowded, match="a asks for more"):
        await one.wait("a")
    waiting = [asyncio.create_task(one.wait("a")) for _ in range(9)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, Crowded) for result in results)


async def test_a_burst_is_spread_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's worth at once, then one at a time; what would have to wait for too long is sent away, and says until when."""
    now, slept = [0.0], list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("proxy.web.fairness.asyncio.sleep", sleep)
    paced = Fairness(Limits(client_requests=0, client_rate=10, request_timeout=1.0), lambda: now[0])
    assert paced.enter("a") is None
    for _ in range(10):
        paced.leave(await paced.wait("a"))
    assert slept == []
    for _ in range(3):
        paced.leave(await paced.wait("a"))
    assert slept == pytest.approx([0.1, 0.2, 0.3])
    for _ in range(2):
        await paced.wait("a")
    with pytest.raises(Crowded) as caught:
        await paced.wait("a")
    assert caught.value.retry_after == pytest.approx(0.6)
    now[0] += 2.0
    slept.clear()
    paced.leave(await paced.wait("a"))
    assert slept == []


async def test_clients_that_are_gone_are_forgotten_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and nobody gets a second share by it."""
    monkeypatch.setattr("proxy.web.fairness._MOST_CLIENTS", 3)
    one = fairness(1)
    held = one.enter("held")
    assert held is not None
    for number in range(10):
        share = one.enter(str(number))
        assert share is not None
        one.leave(share)
    assert one.enter("held") is None


async def test_who_waits_for_its_time_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others who come meanwhile take no client's place while one of its requests sleeps: it would have a second share."""
    monkeypatch.setattr("proxy.web.fairness._MOST_CLIENTS", 1)
    paced = Fairness(Limits(client_requests=1, client_rate=2, request_timeout=10.0))
    for _ in range(2):
        paced.leave(await paced.wait("a"))
    late = asyncio.create_task(paced.wait("a"))
    await asyncio.sleep(0)
    paced.leave(await paced.wait("b"))
    first = await late
    second = asyncio.create_task(paced.wait("a"))
    await asyncio.sleep(0.7)
    assert not second.done(), "the only turn is taken"
    paced.leave(first)
    paced.leave(await second)

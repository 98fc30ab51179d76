"""Single flight: one piece of work per question, for all who ask, and for those who stay when others leave."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from proxy.services.flights import Flights


class Work:
    """A piece of work that ends when the test says so, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return f"result {self.begun}"


@pytest.fixture
async def flights() -> AsyncIterator[Flights[str, str]]:
    """Closed after the test."""
    made: Flights[str, str] = Flights()
    yield made
    await made.close()


@pytest.fixture
async def complaints() -> list[str]:
    """What the loop was told about exceptions that nobody took."""
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    return told


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def ask(flights: Flights[str, str], work: Callable[[], Coroutine[Any, Any, str]], count: int) -> list[asyncio.Task[str]]:
    """``count`` callers with the same question."""
    callers = [asyncio.create_task(flights.run("key", work)) for _ in range(count)]
    await turn()
    return callers


async def test_many_callers_share_one_piece_of_work(flights: Flights[str, str]) -> None:
    """It is done once, and each gets the result."""
    work = Work()
    callers = await ask(flights, work, 100)
    work.may_end.set()
    assert await asyncio.gather(*callers) == ["result 1"] * 100
    assert work.begun == 1


async def test_questions_do_not_wait_for_each_other(flights: Flights[str, str]) -> None:
    """Another key is another flight."""
    slow, quick = Work(), Work()
    quick.may_end.set()
    waiting = asyncio.create_task(flights.run("slow", slow))
    await turn()
    assert await flights.run("quick", quick) == "result 1"
    assert not waiting.done()
    slow.may_end.set()
    assert await waiting == "result 1"


async def test_a_landed_flight_is_not_asked_again(flights: Flights[str, str]) -> None:
    """The next caller begins anew: remembering is not this one's business."""
    work = Work()
    work.may_end.set()
    assert [await flights.run("key", work) for _ in range(3)] == ["result 1", "result 2", "result 3"]


@pytest.mark.parametrize("leavers", [[0], [1], [0, 1]], ids=["the first", "a later one", "all but one"])
async def test_promise_56_a_caller_that_leaves_stops_nobody(flights: Flights[str, str], leavers: list[int]) -> None:
    """The work goes on for those who stay, whoever began it."""
    work = Work()
    callers = await ask(flights, work, 3)
    for leaver in leavers:
        callers[leaver].cancel()
    await turn()
    work.may_end.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [number in leavers for number in range(3)]
    assert results[2] == "result 1"
    assert (work.begun, work.cancelled) == (1, 0)


async def test_promise_56_the_work_goes_on_when_everybody_has_left(flights: Flights[str, str]) -> None:
    """Who comes back later finds it under way, or done."""
    work = Work()
    for caller in await ask(flights, work, 2):
        caller.cancel()
    await turn()
    late = asyncio.create_task(flights.run("key", work))
    await turn()
    work.may_end.set()
    assert await late == "result 1"


async def test_a_failure_is_everybodys_and_is_not_kept(flights: Flights[str, str]) -> None:
    """Each caller sees the exception; the next one tries again."""
    work = Work()
    work.error = OSError("no disk")
    callers = await ask(flights, work, 3)
    work.may_end.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(result) for result in results] == ["no disk"] * 3
    work.error = None
    assert await flights.run("key", work) == "result 2"


async def test_a_failure_that_nobody_waits_for_disturbs_nobody(flights: Flights[str, str], complaints: list[str]) -> None:
    """Its callers have left: the loop is not bothered with it."""
    work = Work()
    work.error = OSError("no disk")
    callers = await ask(flights, work, 2)
    for caller in callers:
        caller.cancel()
    await turn()
    work.may_end.set()
    await turn()
    del callers, caller
    gc.collect()
    await turn()
    assert complaints == []


async def test_work_may_fail_before_it_waits(flights: Flights[str, str]) -> None:
    """The flight is gone at once."""

    async def broken() -> str:
        raise LookupError("at once")

    for _ in range(2):
        with pytest.raises(LookupError, match="at once"):
            await flights.run("key", broken)


async def test_closing_ends_what_is_under_way(flights: Flights[str, str], complaints: list[str]) -> None:
    """The work is cancelled and has ended when ``close`` returns; callers see the cancellation; a second close does nothing."""
    work, other = Work(), Work()
    callers = [*await ask(flights, work, 2), asyncio.create_task(flights.run("other", other))]
    await turn()
    await flights.close()
    assert (work.cancelled, other.cancelled) == (1, 1)
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await flights.close()
    assert complaints == []


async def test_a_cancelled_flight_leaves_room_for_a_new_one(flights: Flights[str, str]) -> None:
    """Nothing of a flight that was ended stays behind."""
    work = Work()
    callers = await ask(flights, work, 1)
    await flights.close()
    await asyncio.gather(*callers, return_exceptions=True)
    work.may_end.set()
    assert await flights.run("key", work) == "result 2"


async def test_what_is_begun_is_done_once_and_waited_for_by_nobody(flights: Flights[str, str]) -> None:
    """A second beginning while it is under way is none; those who ask meanwhile get its result; afterwards there is room."""
    work = Work()
    assert flights.begin("key", work)
    assert not flights.begin("key", work)
    assert len(flights) == 1
    callers = await ask(flights, work, 2)
    work.may_end.set()
    assert await asyncio.gather(*callers) == ["result 1"] * 2
    await turn()
    assert len(flights) == 0
    assert flights.begin("key", work)
    await flights.close()
    assert work.begun <= 2

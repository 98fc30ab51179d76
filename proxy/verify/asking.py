"""Asking a fetcher, within bounds of time and number: what an upstream does wrong becomes a value, and no task is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from proxy.errors import UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.verify.reading import Reader

#: How many requests one search has open at a time.
AT_A_TIME = 8

_T = TypeVar("_T")


class Effort:
    """What all searches for one judgement share, so that together they take no more than one alone may."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(AT_A_TIME)  #: requests that are open at a time
        self.reader = Reader()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something was not had: an outage (it may be there) or a failing (it is there, and useless)."""

    source: str
    reason: str
    outage: bool = False
    retry_after: float | None = None


async def ask(source: str, question: Callable[[], Awaitable[_T]], until: float, slots: asyncio.Semaphore) -> _T | Trouble:
    """The answer, unless it does not come until ``until`` (time of the running loop) or an upstream errs.

    ``source`` names for people what is asked. Raises what a fetcher raises beyond :class:`UpstreamError`.
    """
    try:
        async with asyncio.timeout_at(until), slots:
            return await question()
    except TimeoutError:
        return Trouble(source, "did not answer in time", outage=True)
    except UpstreamMisbehaved as error:
        return Trouble(source, f"is refused: {error}")
    except UpstreamUnavailable as error:
        return Trouble(source, str(error), outage=True, retry_after=error.retry_after)
    except UpstreamError as error:
        # Denied is not absent: registries hide one behind the other.
        return Trouble(source, str(error), outage=True)


async def all_of(coroutines: Sequence[Coroutine[object, object, _T]]) -> list[_T]:
    """The results of all, in order. When one raises, or the caller is cancelled, none of the others is left running."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await end(tasks)


async def end(tasks: Iterable[asyncio.Task[_T]]) -> None:
    """Cancel what still runs and wait for it; what it would have said is of no more use."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

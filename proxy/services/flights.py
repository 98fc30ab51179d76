"""Single flight: many callers with the same question, one piece of work, which no caller's departure can stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Flights(Generic[_K, _V]):
    """Owns one task per key; callers wait for it, and may leave. :meth:`close` ends what is still under way."""

    def __init__(self) -> None:
        self._tasks: dict[_K, asyncio.Task[_V]] = {}

    async def run(self, key: _K, work: Callable[[], Coroutine[Any, Any, _V]]) -> _V:
        """The result of ``work()`` for ``key``: of the flight under way if there is one, else of a new one.

        Raises what the work raises. A caller that is cancelled leaves the flight to the others.
        """
        return await asyncio.shield(self._task(key, work))

    def begin(self, key: _K, work: Callable[[], Coroutine[Any, Any, _V]]) -> bool:
        """Have ``work()`` done; False where a flight for ``key`` is under way. Nobody waits: it tells of its own failures."""
        if key in self._tasks:
            return False
        self._task(key, work)
        return True

    async def landed(self) -> None:
        """Wait until all that are under way now have ended, however they do."""
        await asyncio.gather(*map(asyncio.shield, self._tasks.values()), return_exceptions=True)

    def __len__(self) -> int:
        """How many are under way."""
        return len(self._tasks)

    def _task(self, key: _K, work: Callable[[], Coroutine[Any, Any, _V]]) -> asyncio.Task[_V]:
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(work())
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _landed(self, key: _K, task: asyncio.Task[_V]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # every caller may have left: the failure was theirs to see, and is not an orphan's

    async def close(self) -> None:
        """Cancel what is under way and wait until it has ended."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

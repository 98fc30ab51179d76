"""Threads of the blob store's own, so that file work blocks neither the event loop nor the loop's shared executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from storage.errors import BlobStoreUnavailable

_T = TypeVar("_T")


class Workers:
    """Four pools: for milliseconds, for seconds (hashing whole files, fsync), for what is arriving, and for what has all day."""

    def __init__(self, quick: int = 8, slow: int = 8, steady: int = 8) -> None:
        self.stopping = Event()  #: set when work that takes long should give up
        self._quick = ThreadPoolExecutor(quick, thread_name_prefix="blobs")
        self._slow = ThreadPoolExecutor(slow, thread_name_prefix="blobs-slow")
        self._steady = ThreadPoolExecutor(steady, thread_name_prefix="blobs-steady")
        self._patient = ThreadPoolExecutor(1, thread_name_prefix="blobs-patient")

    async def quick(self, work: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """Run ``work`` in a thread. A caller that is cancelled does not stop it; ``undo`` then gets what it made."""
        return await self._run(self._quick, work, undo)

    async def slow(self, work: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """:meth:`quick`, for work that may take seconds."""
        return await self._run(self._slow, work, undo)

    async def steady(self, work: Callable[[], _T]) -> _T:
        """:meth:`quick`, for work that goes on for as long as something comes."""
        return await self._run(self._steady, work, None)

    async def patient(self, work: Callable[[], _T]) -> _T:
        """:meth:`quick`, for work that takes its time on purpose, one after the other."""
        return await self._run(self._patient, work, None)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], _T], undo: Callable[[_T], object] | None) -> _T:
        try:
            future = pool.submit(work)
        except RuntimeError as error:
            raise BlobStoreUnavailable("the blob store is closed") from error
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if undo is not None:
                future.add_done_callback(lambda done: _undo(done, undo))
            raise

    def close(self) -> None:
        """Refuse new work and wait for what runs."""
        self.stopping.set()
        self._quick.shutdown()
        self._slow.shutdown()
        self._steady.shutdown()
        self._patient.shutdown()


def _undo(done: Future[_T], undo: Callable[[_T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())

"""The store's threads."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from storage.errors import BlobStoreUnavailable
from storage.workers import Workers
from tests.tools import PATIENCE


async def test_work_runs_in_named_threads() -> None:
    """Both pools run off the event loop, apart from each other."""
    workers = Workers()
    quick = await workers.quick(lambda: threading.current_thread().name)
    slow = await workers.slow(lambda: threading.current_thread().name)
    workers.close()
    assert quick.startswith("blobs_")
    assert slow.startswith("blobs-slow_")


@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_cancelled_caller_would_have_got_is_undone(fails: bool) -> None:
    """The thread goes on without its caller; what it made is handed to undo, what it raised is not."""
    workers = Workers()
    go = threading.Event()
    undone: list[str] = []

    def work() -> str:
        go.wait(PATIENCE)
        if fails:
            raise OSError("no")
        return "made"

    task = asyncio.create_task(workers.quick(work, undo=undone.append))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    go.set()
    workers.close()
    assert undone == ([] if fails else ["made"])


async def test_work_that_never_began_is_not_undone() -> None:
    """Cancelling a caller whose work still waits for a thread drops the work."""
    workers = Workers(quick=1)
    go = threading.Event()
    done: list[int] = []
    first = asyncio.create_task(workers.quick(lambda: go.wait(PATIENCE)))
    await asyncio.sleep(0)
    second = asyncio.create_task(workers.quick(lambda: done.append(1), undo=lambda _: done.append(2)))
    await asyncio.sleep(0)
    second.cancel()
    with suppress(asyncio.CancelledError):
        await second
    go.set()
    await first
    workers.close()
    assert done == []


async def test_closed_workers_refuse() -> None:
    """After close() work is refused in the store's words, and long work has been told to stop."""
    workers = Workers()
    assert not workers.stopping.is_set()
    workers.close()
    assert workers.stopping.is_set()
    with pytest.raises(BlobStoreUnavailable, match="closed"):
        await workers.quick(lambda: None)

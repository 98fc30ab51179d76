"""Ends a process at its Nth system call, for every N: run as ``python -m tests.faults.crash FOLDER SCENARIO``.

For N = 1, 2, … a child is forked that plays the scenario in ``FOLDER/N`` and kills itself (SIGKILL, which nothing can clean up
after) right before its Nth system call on the store, until a child reaches its end. The last line printed is the number of
children killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from storage.filesystem import FilesystemBlobStore
from storage.records import Descriptor
from tests.simulator.origin import Behaviour, Origin
from tests.unit.services.ingesting import REPOSITORY, Bench
from tests.unit.storage.faulty import WatchedFiles

#: The same in every process.
DATA = bytes(range(251)) * 200
MOST = 2000


class DeadlyFiles(WatchedFiles):
    """The Nth call kills the process."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def step(self, name: str) -> None:
        """Die if this is the call. Steps follow each other: there is one client, and it waits."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def ingest(root: Path, files: WatchedFiles) -> None:
    """A cold blob, broken off once: fetched, handed out, stored."""
    origin = Origin(chunk=10_000)
    descriptor = origin.add(REPOSITORY, DATA)
    origin.script(REPOSITORY, Behaviour(break_at=30_000))
    bench = Bench(root, origin, files=files)
    await bench.ingest.start()
    assert await bench.pull(descriptor) == DATA
    await bench.ingest.close(10)
    await bench.store.close()


async def put(root: Path, files: WatchedFiles) -> None:
    """A small blob stored whole."""
    store = FilesystemBlobStore(root, files=files)
    await store.put(described().digest, DATA)
    await store.close()


SCENARIOS = {"ingest": ingest, "put": put}


def described() -> Descriptor:
    """The blob of every scenario."""
    return Origin().add(REPOSITORY, DATA)


def play(folder: Path, scenario: str, nth: int) -> bool:
    """Whether the child was killed. Raises when it ended in any other way than by its own end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            asyncio.run(SCENARIOS[scenario](folder / str(nth), DeadlyFiles(nth)))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status != 0:
        raise RuntimeError(f"the child that was to die at call {nth} ended with status {status}")
    return False


def main() -> None:
    """Kill one child after the other."""
    folder, scenario = Path(sys.argv[1]), sys.argv[2]
    nth = 1
    while play(folder, scenario, nth):
        nth += 1
        if nth > MOST:
            raise RuntimeError("the scenario does not end")
    print(nth - 1)


if __name__ == "__main__":
    main()

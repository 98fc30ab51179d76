"""Files that others replace while we run: certificates, password files. Looked at every few seconds, read anew when changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

from proxy.services.background import forever

#: How soon a change counts (seconds).
INTERVAL = 2.0

_Seen = tuple[int, int, int, int] | None


class FileWatch:
    """Calls ``changed`` after one of the files was replaced, written or removed. One task, owned by whoever starts it.

    Where ``changed`` raises OSError or ValueError the files cannot be used as they are, or cannot be read just now: it is called
    again until it does not, and ``refused`` with each reason once.
    """

    def __init__(
        self,
        files: Iterable[Path],
        changed: Callable[[], Awaitable[None]],
        refused: Callable[[Exception], None],
        interval: float = INTERVAL,
    ) -> None:
        self._changed = changed
        self._refused = refused
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self.follow(files)

    def follow(self, files: Iterable[Path]) -> None:
        """Look at these from now on. They count as changed once: who knows what happened since they were read."""
        self._files = tuple(files)
        self._seen: list[_Seen] = []
        self._told: str | None = None  #: why they could not be used the last time

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(forever("files", self._watch), name="files")

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _watch(self) -> None:
        await asyncio.sleep(self._interval)
        if not (files := self._files):
            return
        now = await asyncio.to_thread(lambda: [_state(path) for path in files])
        if files is self._files and now != self._seen:
            self._seen = now
            try:
                await self._changed()
            except (OSError, ValueError) as error:
                self._seen = []
                if self._told != (reason := str(error)):
                    self._told = reason
                    self._refused(error)
            except BaseException:
                self._seen = []  # nobody has taken it over
                raise
            else:
                self._told = None


def _state(path: Path) -> _Seen:
    # Links are followed: Kubernetes replaces a whole folder behind one.
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

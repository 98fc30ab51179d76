"""Keeps the roots of TUF repositories fresh while the server runs, in every worker and off everybody's way.

One worker asks a repository when it is due, and writes down what came of it; all workers look every second whether something was
written, by whomever, and take it over. The files are the only truth: what was refused survives a restart, and what
``tagstone trust update`` fetched is noticed like what another worker did.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from proxy.services.background import forever
from proxy.tuf.repository import TufRepository
from proxy.tuf.state import Mark, State, folder_of, mark, read
from storage.errors import StorageError

if TYPE_CHECKING:
    from proxy.tuf.fetcher import Fetcher
    from proxy.tuf.refresh import Ended

log = structlog.get_logger("tagstone.trust")

#: Seconds between two looks at what was written.
LOOK = 1.0
#: Seconds until a repository that was unreachable, or answered wrongly, is asked again, if that is sooner than usual.
RETRY = 600.0
#: Seconds to wait where another process is asking at this moment.
_BUSY = 5.0
_JITTER = 0.1
_LONGEST_SLEEP = 60.0


def is_trusted_root(body: bytes) -> None:
    """Raise ValueError for what is no trusted root. What is demanded of one is each root's own business."""
    from proxy.verify.roots import Demands, Root

    Root.load("", body, Demands(log=False, sct=False))


@dataclass(frozen=True, slots=True)
class _Due:
    asked_at: datetime | None  #: the attempt that this was reckoned from
    every: float
    at: datetime


class Refresher:
    """``learn`` is told what is known whenever that has changed: states by the folders of their repositories."""

    def __init__(self, data_dir: Path, learn: Callable[[Mapping[str, State]], Awaitable[None]]) -> None:
        self._data_dir = data_dir
        self._learn = learn
        self._repositories: tuple[TufRepository, ...] = ()
        self._every = 0.0
        self._marks: dict[str, Mark] = {}
        self._states: dict[str, State] = {}
        self._unread: dict[str, str] = {}  # folders whose state could not be read at the last look, and why
        self._stale = True
        self._due: dict[str, _Due] = {}
        self._changed = asyncio.Event()
        self._looking = asyncio.Lock()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def start(self, repositories: Sequence[TufRepository], every: float) -> None:
        """Take over what is stored, then go on in the background. ``every``: seconds between two refreshes, 0: never."""
        self.follow(repositories, every)
        await self._look()
        self._tasks = (
            asyncio.create_task(forever("trust-watch", self._watch), name="trust-watch"),
            asyncio.create_task(forever("trust-refresh", self._refresh), name="trust-refresh"),
        )

    def follow(self, repositories: Sequence[TufRepository], every: float) -> None:
        """From now on look after these; what is known of them is told anew."""
        self._repositories = tuple(repositories)
        self._every = every
        self._stale = True
        self._changed.set()

    async def close(self) -> None:
        """End; a refresh that is under way is broken off and leaves nothing behind."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = ()

    # -- what was written -----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        await asyncio.sleep(LOOK)
        await self._look()

    async def _look(self) -> None:
        async with self._looking:
            repositories = self._repositories
            if not repositories:
                return
            # Taken before the states are read: what is written in between is seen at the next look.
            marks = await asyncio.to_thread(self._marks_of, repositories)
            if marks == self._marks and not self._stale:
                return
            known = await asyncio.to_thread(self._read, repositories)
            for folder in self._unread:
                del marks[folder]  # so that it is looked at again, though it may not have changed
            if self._stale or known != self._states:
                self._stale = False  # it may become so again while they are told
                try:
                    await self._learn(known)
                except BaseException:
                    self._stale = True
                    raise
                self._states = known
                self._changed.set()
            self._marks = marks

    def _marks_of(self, repositories: Sequence[TufRepository]) -> dict[str, Mark]:
        return {each.folder: mark(folder_of(self._data_dir, each)) for each in repositories}

    def _read(self, repositories: Sequence[TufRepository]) -> dict[str, State]:
        """What is known of each. What cannot be read now is as it was; nothing is said of it where it was never read."""
        known: dict[str, State] = {}
        unread: dict[str, str] = {}
        for each in repositories:
            try:
                known[each.folder] = read(folder_of(self._data_dir, each))
            except StorageError as error:
                unread[each.folder] = str(error)
                if self._unread.get(each.folder) != str(error):
                    log.error("trust.unreadable", repository=each.url, error=str(error), kept="what was known of it")
                if each.folder in self._states:
                    known[each.folder] = self._states[each.folder]
        self._unread = unread
        return known

    # -- asking ---------------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        self._changed.clear()
        due = self._next()
        if due is not None and due[0] <= 0:
            await self._ask(due[1])
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_SLEEP if due is None else min(due[0], _LONGEST_SLEEP)):
                await self._changed.wait()

    def _next(self) -> tuple[float, TufRepository] | None:
        """The repository that is due first, and in how many seconds; None where none ever is."""
        if not self._every:
            return None
        now = datetime.now(UTC)
        waits = [((self._when(each, now) - now).total_seconds(), each) for each in self._repositories]
        return min(waits, key=lambda wait: wait[0], default=None)

    def _when(self, repository: TufRepository, now: datetime) -> datetime:
        state = self._states.get(repository.folder, State())
        due = self._due.get(repository.folder)
        if due is None or (due.asked_at, due.every) != (state.asked_at, self._every):
            well = state.refused is None and state.unreachable is None
            pause = self._every if well else min(self._every, RETRY)
            at = now
            if state.asked_at is not None and state.asked_at <= now:  # else it was asked never, or by a clock that was wrong
                at = state.asked_at + timedelta(seconds=pause * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311
            due = self._due[repository.folder] = _Due(state.asked_at, self._every, at)
        return due.at

    async def _ask(self, repository: TufRepository) -> None:
        known = self._states.get(repository.folder, State())
        began = time.monotonic()
        self._put_off(repository, known, RETRY)  # however it fails
        try:
            ended, state = await self._in_thread(repository, known)
        except StorageError as error:
            log.error("trust.unwritten", repository=repository.url, error=str(error))
        else:
            tell(repository, ended, state, known, seconds=time.monotonic() - began)
            self._stale = self._stale or state != known
            self._put_off(repository, known, _BUSY)
        await self._look()

    def _put_off(self, repository: TufRepository, known: State, seconds: float) -> None:
        """Where an attempt leaves no trace in the state, it is not to be repeated at once."""
        at = datetime.now(UTC) + timedelta(seconds=min(seconds, self._every))
        self._due[repository.folder] = _Due(known.asked_at, self._every, at)

    async def _in_thread(self, repository: TufRepository, known: State) -> tuple[Ended, State]:
        began: list[Fetcher] = []

        def work() -> tuple[Ended, State]:
            from proxy.tuf.fetcher import Fetcher
            from proxy.tuf.refresh import PATIENCE, refresh

            with Fetcher(PATIENCE) as fetcher:
                began.append(fetcher)
                return refresh(repository, self._data_dir, fetcher, is_trusted_root, known=known)

        working = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            while not working.done():  # it may still be importing what it needs
                for fetcher in began:
                    fetcher.stop()
                await asyncio.wait({working}, timeout=0.05)
            if not working.cancelled() and (error := working.exception()) is not None:
                log.error("trust.unwritten", repository=repository.url, error=str(error))
            raise


def tell(repository: TufRepository, ended: Ended, state: State, known: State, *, seconds: float) -> None:
    """One line in the log for each result."""
    match ended.value:
        case "refreshed":
            assert state.accepted is not None
            log.info(
                "trust.refreshed",
                repository=repository.url,
                new=known.believed(repository) != state.believed(repository),
                timestamp=state.accepted.versions.timestamp,
                expires=state.accepted.expires.isoformat(timespec="seconds"),
                seconds=round(seconds, 3),
            )
        case "refused":
            log.error("trust.refused", repository=repository.url, reason=str(state.refused))
        case "unreachable":
            log.warning("trust.unreachable", repository=repository.url, reason=str(state.unreachable))
        case _:
            log.debug("trust.skipped", repository=repository.url)

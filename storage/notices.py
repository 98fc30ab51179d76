"""Notices: how a write in one process makes every other worker on this database forget what it remembers.

A writer calls :func:`notify` within its transaction. A worker starts from :meth:`Notices.latest` *before* it reads anything that
it will remember, and then lives in :meth:`Notices.wait`. The newest :data:`KEPT` notices are kept; a worker that slept through
more than that is told to forget everything.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection, delete, func, insert, select

from storage.database import Database
from storage.records import Notice
from storage.tables import notices

#: How many notices are kept, at least.
KEPT = 10_000
#: Writers prune once in so many notices.
PRUNE_EVERY = 100
#: The kind of a notice that stands for all that were pruned before they were read; its subject is empty.
EVERYTHING = "all"


_INSERT = insert(notices)


def notify(connection: Connection, kind: str, subject: str) -> None:
    """Leave a notice, in the caller's transaction: it is heard when and only when that commits."""
    done = connection.execute(_INSERT, {"kind": kind, "subject": subject})
    (sequence,) = done.inserted_primary_key or (0,)
    if sequence % PRUNE_EVERY == 0:
        connection.execute(delete(notices).where(notices.c.sequence <= sequence - KEPT))


class Notices:
    """What was written since, for one worker."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self) -> int:
        """The number of the newest notice; 0 when there was none ever."""
        return await self._database.read(_latest)

    async def wait(self, since: int, *, poll: float = 0.1) -> tuple[Notice, ...]:
        """Wait until there are notices newer than number ``since`` and return them, oldest first.

        While nothing is committed a look costs no table read; it is taken every ``poll`` seconds. When some were pruned
        unread, one notice of kind :data:`EVERYTHING` stands for all of them and carries the newest number. Raises
        :class:`storage.errors.DatabaseUnavailable` at once: what a worker remembers is then no longer known to be true.
        """
        mark = await self._database.commit_mark()
        while not (news := await self._database.read(_newer, since)):
            while (now := await self._database.commit_mark()) == mark:  # noqa: ASYNC110  (SQLite wakes nobody in another process)
                await asyncio.sleep(poll)
            mark = now
        return news


def _latest(connection: Connection) -> int:
    newest: int | None = connection.execute(select(func.max(notices.c.sequence))).scalar_one()
    return newest or 0


def _newer(connection: Connection, since: int) -> tuple[Notice, ...]:
    query = select(notices.c.sequence, notices.c.kind, notices.c.subject).where(notices.c.sequence > since)
    news = tuple(Notice(*row) for row in connection.execute(query.order_by(notices.c.sequence)))
    if news and news[0].sequence > since + 1:
        return (Notice(news[-1].sequence, EVERYTHING, ""),)
    return news

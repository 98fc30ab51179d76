"""Events: news that somebody may want to hear. A *state* stays open until it ends and is told once; an *act* is over at once.

Whoever writes an event does it by :func:`open_events` and :func:`close_events`, within the transaction that makes it true: these
also leave the messages for the alert sinks (:mod:`storage.outbox`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import datetime

from sqlalchemy import Connection, RowMapping, and_, delete, func, or_, select, update

from storage.database import Database, insert_or
from storage.digest import Digest
from storage.outbox import post
from storage.records import Event, EventType
from storage.tables import events, outbox

#: Most events that are removed in one transaction.
PRUNED = 1000
_FIELDS = tuple(field.name for field in fields(Event))


class EventStore:
    """All events of one database. Every method raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, event: Event) -> bool:
        """Record an event that belongs to no change of a pin. False when the same is open already: it has been told."""
        return bool(await self._database.write(open_events, (event,)))

    async def close(self, subject: str, types: Collection[EventType], at: datetime, digest: Digest | None = None) -> int:
        """End the open events of these types about ``subject`` (with ``digest``: about that alone); how many there were."""
        return await self._database.write(close_events, subject, types, at, digest)

    async def list(self, *, open_only: bool = False, since: datetime | None = None, limit: int = 100) -> list[Event]:
        """The newest ``limit`` events, newest first; ``since``: those that began, or ended, then or later."""
        return await self._database.read(_list, open_only, since, limit)

    async def prune(self, before: datetime) -> int:
        """Remove events that ended before then and of which no sink has anything still to hear, the oldest first; how many.

        At most :data:`PRUNED` at a time: others want to write, too. The newest event stays: no number is given twice.
        """
        return await self._database.write(_prune, before)

    async def open_of(self, type_: EventType) -> Sequence[Event]:
        """All open events of one type, oldest first."""
        return await self._database.read(_open_of, type_)

    async def open_after(self, number: int, limit: int) -> Sequence[tuple[int, Event]]:
        """At most ``limit`` open events with their numbers, oldest first, those behind ``number``."""
        return await self._database.read(_open_after, number, limit)


def open_events(connection: Connection, opened: Iterable[Event]) -> list[Event]:
    """Record, in the caller's transaction, those that are not open yet; these are returned."""
    news: list[Event] = []
    for event in opened:
        values = {field: getattr(event, field) for field in _FIELDS}
        done = connection.execute(insert_or(events).values(values).on_conflict_do_nothing())
        if done.rowcount:
            (number,) = done.inserted_primary_key or (0,)
            post(connection, number, event.at, resolved=False)
            news.append(event)
    return news


def close_events(
    connection: Connection, subject: str, types: Collection[EventType], at: datetime, digest: Digest | None = None
) -> int:
    """End, in the caller's transaction, the open events of these types about ``subject``; how many there were.

    With ``digest`` only those about that: a repository may have several.
    """
    about = and_(events.c.subject == subject, events.c.type.in_(types), events.c.closed_at.is_(None))
    if digest is not None:
        about = and_(about, events.c.digest == digest)
    ended = connection.execute(select(events.c.id).where(about).order_by(events.c.id)).scalars().all()
    if ended:
        connection.execute(update(events).where(events.c.id.in_(ended)).values(closed_at=at))
    for number in ended:
        post(connection, number, at, resolved=True)
    return len(ended)


def _list(connection: Connection, open_only: bool, since: datetime | None, limit: int) -> list[Event]:
    query = select(events).order_by(events.c.id.desc()).limit(limit)
    if open_only:
        query = query.where(events.c.closed_at.is_(None))
    if since is not None:
        query = query.where(or_(events.c.at >= since, events.c.closed_at >= since))
    return [event_of(row) for row in connection.execute(query).mappings()]


def _prune(connection: Connection, before: datetime) -> int:
    newest: int = connection.execute(select(func.max(events.c.id))).scalar_one() or 0
    needed = select(outbox.c.sequence).where(outbox.c.event_id == events.c.id).exists()
    over = select(events.c.id).where(events.c.closed_at < before, events.c.id < newest, ~needed)
    numbers = connection.execute(over.order_by(events.c.closed_at).limit(PRUNED)).scalars().all()
    if numbers:
        connection.execute(delete(events).where(events.c.id.in_(numbers)))
    return len(numbers)


def _open_of(connection: Connection, type_: EventType) -> list[Event]:
    query = select(events).where(events.c.closed_at.is_(None), events.c.type == type_).order_by(events.c.id)
    return [event_of(row) for row in connection.execute(query).mappings()]


def _open_after(connection: Connection, number: int, limit: int) -> list[tuple[int, Event]]:
    query = select(events).where(events.c.closed_at.is_(None), events.c.id > number).order_by(events.c.id).limit(limit)
    return [(row["id"], event_of(row)) for row in connection.execute(query).mappings()]


def event_of(row: RowMapping, prefix: str = "") -> Event:
    """The event in a row that has its columns under their names behind ``prefix``."""
    return Event(**{name: row[prefix + name] for name in _FIELDS} | {"details": row[f"{prefix}details"] or {}})

"""Events: news that somebody may want to hear. A *state* stays open until it ends and is told once; an *act* is over at once.

Whoever writes an event does it by :func:`open_events` and :func:`close_events`, within the transaction that makes it true.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields
from datetime import datetime

from sqlalchemy import Connection, RowMapping, and_, select, update

from storage.database import Database, insert_or
from storage.records import Event, EventType
from storage.tables import events

_FIELDS = tuple(field.name for field in fields(Event))


class EventStore:
    """All events of one database. Every method raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, event: Event) -> bool:
        """Record an event that belongs to no change of a pin. False when the same is open already: it has been told."""
        return bool(await self._database.write(open_events, (event,)))

    async def close(self, subject: str, types: Collection[EventType], at: datetime) -> int:
        """End the open events of these types about ``subject``; how many there were."""
        return await self._database.write(close_events, subject, types, at)

    async def list(self, *, open_only: bool = False, limit: int = 100) -> list[Event]:
        """The newest ``limit`` events, newest first."""
        return await self._database.read(_list, open_only, limit)


def open_events(connection: Connection, opened: Iterable[Event]) -> list[Event]:
    """Record, in the caller's transaction, those that are not open yet; these are returned."""
    news: list[Event] = []
    for event in opened:
        values = {field: getattr(event, field) for field in _FIELDS}
        if connection.execute(insert_or(events).values(values).on_conflict_do_nothing()).rowcount:
            news.append(event)
    return news


def close_events(connection: Connection, subject: str, types: Collection[EventType], at: datetime) -> int:
    """End, in the caller's transaction, the open events of these types about ``subject``; how many there were."""
    about = and_(events.c.subject == subject, events.c.type.in_(types), events.c.closed_at.is_(None))
    return connection.execute(update(events).where(about).values(closed_at=at)).rowcount


def _list(connection: Connection, open_only: bool, limit: int) -> list[Event]:
    query = select(events).order_by(events.c.id.desc()).limit(limit)
    if open_only:
        query = query.where(events.c.closed_at.is_(None))
    return [_event(row) for row in connection.execute(query).mappings()]


def _event(row: RowMapping) -> Event:
    return Event(**{name: row[name] for name in _FIELDS} | {"details": row["details"] or {}})

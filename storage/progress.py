"""How far the rounds have come that go through everything there is, so that a restart goes on where it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, select

from storage.database import Database, insert_or
from storage.tables import progress


@dataclass(frozen=True, slots=True)
class Progress:
    """One round: what was last seen to (empty: nothing yet), since when, how much was done, and when it ended."""

    name: str
    position: str
    began_at: datetime
    done: int = 0
    ended_at: datetime | None = None


_FIELDS = tuple(field.name for field in fields(Progress))


class ProgressStore:
    """The rounds of one database. Every method raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> Progress | None:
        """The newest round of this name; None before the first."""
        return await self._database.read(_get, name)

    async def put(self, round_: Progress) -> None:
        """Keep how far it has come."""
        await self._database.write(_put, round_)


def _get(connection: Connection, name: str) -> Progress | None:
    row = connection.execute(select(progress).where(progress.c.name == name)).mappings().one_or_none()
    return None if row is None else Progress(**{field: row[field] for field in _FIELDS})


def _put(connection: Connection, round_: Progress) -> None:
    values = asdict(round_)
    upsert = insert_or(progress).values(values)
    connection.execute(upsert.on_conflict_do_update(index_elements=["name"], set_=values))

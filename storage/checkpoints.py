"""Checkpoints that were signed, as they were handed out: what the ledger has to live up to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, RowMapping, select

from storage.database import Database, insert_or
from storage.errors import DatabaseUnavailable
from storage.notes import Checkpoint, MalformedNote, Note
from storage.tables import checkpoints


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint: the note with its signatures, byte for byte, and the moment of signing."""

    size: int
    at: datetime
    note: bytes

    def read(self) -> tuple[Note, Checkpoint]:
        """The note and what it says; whether it is signed is for its reader to ask. Raises DatabaseUnavailable for neither."""
        try:
            note = Note.parse(self.note)
            checkpoint = Checkpoint.parse(note.text)
        except MalformedNote as error:
            raise DatabaseUnavailable(f"the checkpoint of size {self.size} is damaged: {error}") from error
        if checkpoint.size != self.size:
            raise DatabaseUnavailable(f"the checkpoint of size {self.size} is damaged: it is one of size {checkpoint.size}")
        return note, checkpoint


class Checkpoints:
    """All checkpoints of one database. Every method raises DatabaseUnavailable when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self) -> Kept | None:
        """The one of the largest tree; None before there is any."""
        return await self._database.read(_newest)

    async def keep(self, kept: Kept) -> None:
        """Keep one; where there is one of this size already, that stays."""
        await self._database.write(_keep, kept)


def page_of(connection: Connection, after: int, limit: int) -> list[Kept]:
    """At most ``limit`` checkpoints of trees larger than ``after``, smallest first."""
    query = select(checkpoints).where(checkpoints.c.size > after).order_by(checkpoints.c.size).limit(limit)
    return [_kept(row) for row in connection.execute(query).mappings()]


def _newest(connection: Connection) -> Kept | None:
    row = connection.execute(select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).mappings().one_or_none()
    return None if row is None else _kept(row)


def _keep(connection: Connection, kept: Kept) -> None:
    values = {"size": kept.size, "at": kept.at, "note": kept.note.decode()}
    connection.execute(insert_or(checkpoints).values(values).on_conflict_do_nothing())


def _kept(row: RowMapping) -> Kept:
    return Kept(row["size"], row["at"], row["note"].encode())

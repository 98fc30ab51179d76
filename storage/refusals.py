"""Entries of the ledger about refusals, each of which is made once."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, func, insert, select

from storage.digest import Digest
from storage.entries import MAX_NAME, Entry, shortened
from storage.ledger import append
from storage.tables import refusals


class Outcome(StrEnum):
    """What became of a refusal that was to be entered."""

    RECORDED = "recorded"
    KNOWN = "known"  #: the same was entered before
    FULL = "full"  #: as many as there may be were entered in that time


def record_refusal(connection: Connection, entry: Entry, digest: Digest, cause: str, most: int, since: datetime) -> Outcome:
    """Enter a refusal in the caller's transaction, unless it was before, or ``most`` others were ``since`` then."""
    key = {"subject": shortened(entry.subject, MAX_NAME), "digest": digest, "cause": cause}
    if connection.execute(select(refusals.c.at).filter_by(**key)).one_or_none() is not None:
        return Outcome.KNOWN
    if connection.execute(select(func.count()).where(refusals.c.at > since)).scalar_one() >= most:
        return Outcome.FULL
    append(connection, (entry,))
    connection.execute(insert(refusals).values(at=entry.at, **key))
    return Outcome.RECORDED

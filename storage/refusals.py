"""Entries of the ledger that are made once: the first refusal of a digest, and the policy where it differs from the last."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, func, insert, select

from storage.digest import Digest
from storage.entries import MAX_NAME, Entry, shortened
from storage.ledger import append, newest_of
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


def record_policy(connection: Connection, entry: Entry) -> bool:
    """Enter a policy (its hash is ``to``) in the caller's transaction; False when it is the one that was entered last."""
    last = newest_of(connection, entry.kind, 1)
    before = last[0].read().to if last else None
    if before == entry.to:
        return False
    append(connection, (replace(entry, from_=before),))
    return True

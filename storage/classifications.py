"""Classifications: how the images that tags were overwritten with differ from those that were pinned, once told, kept.

What is kept is a JSON document that the proxy makes (:mod:`proxy.policy.changes.record`); here it is only text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, String, and_, delete, not_, or_, select, type_coerce, update

from storage.database import Database, insert_or
from storage.digest import Digest
from storage.outbox import post_again
from storage.records import EventType, Severity
from storage.reference import Repository
from storage.tables import classifications, events, pins

#: How many pairs of one repository are kept: whoever overwrites a tag again and again fills nobody's disk.
KEPT = 200
#: The events that say what changed.
TYPES = (EventType.TAG_OVERWRITTEN, EventType.TAG_ROTATION_PENDING)
#: How an event says that nothing more is going to be told of its change.
SETTLED = "settled"
#: Details are text that only this package writes, in one spelling; null where there are none.
_UNSETTLED = or_(events.c.details.is_(None), not_(type_coerce(events.c.details, String).like(f'%"{SETTLED}": true%')))


@dataclass(frozen=True, slots=True)
class Classified:
    """One kept classification."""

    document: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class Unclassified:
    """An open event about an overwritten tag of which not all is told."""

    number: int  #: the event's
    type: EventType
    repository: Repository
    before: Digest
    after: Digest
    at: datetime  #: when it was told


class ClassificationStore:
    """All classifications of one database. Every method raises :class:`storage.errors.DatabaseUnavailable` as it must."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, repository: Repository, before: Digest, after: Digest) -> Classified | None:
        """What is known of a pair; None when it was never compared."""
        return await self._database.read(_get, repository, before, after)

    async def put(self, repository: Repository, before: Digest, after: Digest, classified: Classified) -> None:
        """Keep what is known of a pair, in place of what was known before; of each repository the newest :data:`KEPT`."""
        await self._database.write(_put, repository, before, after, classified)

    async def unclassified(self, limit: int) -> list[Unclassified]:
        """At most ``limit`` open events about overwritten tags of which not all is told, the newest first."""
        return await self._database.read(_unclassified, limit)

    async def pinned(self, name: str, candidate: Digest) -> tuple[Repository, Digest] | None:
        """The repository and the pinned digest of the tag ``name``, where it is overwritten with ``candidate``."""
        return await self._database.read(_pinned, name, candidate)

    async def tell(self, number: int, severity: Severity | None, details: Mapping[str, Any], at: datetime) -> bool:
        """Let an open event say more. ``severity`` None: as it is. False when it is over.

        Where it is graver by that, sinks are told once more, ``at`` this time: some may have passed it over as it was.
        """
        return await self._database.write(_tell, number, severity, details, at)


def _get(connection: Connection, repository: Repository, before: Digest, after: Digest) -> Classified | None:
    query = select(classifications.c.document, classifications.c.at).where(
        classifications.c.repository == repository, classifications.c.before == before, classifications.c.after == after
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Classified(row.document, row.at)


def _put(connection: Connection, repository: Repository, before: Digest, after: Digest, classified: Classified) -> None:
    key = {"repository": repository, "before": before, "after": after}
    values = {"document": classified.document, "at": classified.at}
    upsert = insert_or(classifications).values(key | values)
    connection.execute(upsert.on_conflict_do_update(index_elements=list(key), set_=values))
    mine = classifications.c.repository == repository
    newest = select(classifications.c.at).where(mine).order_by(classifications.c.at.desc()).offset(KEPT).limit(1)
    connection.execute(delete(classifications).where(mine, classifications.c.at <= newest.scalar_subquery()))


def _unclassified(connection: Connection, limit: int) -> list[Unclassified]:
    query = (
        select(events.c.id, events.c.type, pins.c.repository, pins.c.digest, pins.c.candidate, events.c.at)
        .join_from(events, pins, and_(pins.c.name == events.c.subject, pins.c.candidate == events.c.digest))
        .where(events.c.type.in_(TYPES), events.c.closed_at.is_(None), _UNSETTLED)
        .order_by(events.c.id.desc())
        .limit(limit)
    )
    return [Unclassified(*row) for row in connection.execute(query)]


def _pinned(connection: Connection, name: str, candidate: Digest) -> tuple[Repository, Digest] | None:
    query = select(pins.c.repository, pins.c.digest).where(pins.c.name == name, pins.c.candidate == candidate)
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.repository, row.digest)


def _tell(connection: Connection, number: int, severity: Severity | None, details: Mapping[str, Any], at: datetime) -> bool:
    about = and_(events.c.id == number, events.c.closed_at.is_(None))
    row = connection.execute(select(events.c.details, events.c.severity).where(about)).one_or_none()
    if row is None:
        return False
    values: dict[str, Any] = {"details": {**(row.details or {}), **details}}
    if severity is not None:
        values["severity"] = severity
    connection.execute(update(events).where(about).values(values))
    if severity is not None and severity.rank > (row.severity or Severity.WARNING).rank:
        post_again(connection, number, at)
    return True

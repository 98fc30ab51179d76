"""Pull records: which client was handed which manifest, when, and by which tag.

A record counts what one client was answered about one manifest within a few seconds. Names and clients are kept once, so that a
record itself is a few numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Column, Connection, RowMapping, Select, Table, and_, delete, exists, func, insert, literal, or_, select

from storage.database import Database, insert_or
from storage.digest import Digest
from storage.records import Kind, PullRecord
from storage.reference import Repository
from storage.tables import clients, contents, edges, pulled, pulls, repositories

#: Longest chain that is followed upwards from a digest to the manifests that reach it.
_DEPTH = 8
#: Most manifests above one digest.
_MOST_ABOVE = 20_000
_PRUNED_AT_ONCE = 5_000


class PullStore:
    """All pull records of one database. Methods raise :class:`storage.errors.DatabaseUnavailable` when it cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, records: Sequence[PullRecord]) -> None:
        """Keep these, in one transaction."""
        if records:
            await self._database.write(_add, records)

    async def find(
        self,
        *,
        digest: Digest | None = None,
        repository: Repository | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        limit: int = 1000,
    ) -> list[PullRecord]:
        """The newest ``limit`` records that fit all that is given, newest first.

        ``digest`` finds who was handed it, and who was handed a manifest that reaches it (``PullRecord.contains``): an index of
        the image, the image of a layer. At most :data:`_MOST_ABOVE` of these are known here.
        """
        return await self._database.read(_find, digest, repository, tag, since, limit)

    async def prune(self, before: datetime, most: int) -> tuple[int, int]:
        """Forget what ended before, then the oldest of more than ``most``; how many records that were, of either.

        In short transactions, so that nobody waits for long.
        """
        aged = surplus = 0
        while number := await self._database.write(_prune, before):
            aged += number
        last = await self._database.read(_last)
        while number := await self._database.write(_prune_to, last - most):
            surplus += number
        for table, named in ((pulled, pulls.c.pulled_id), (clients, pulls.c.client_id)):
            position: int | None = 0
            while position is not None:
                position = await self._database.write(_prune_names, table, named, position)
        return aged, surplus


def _add(connection: Connection, records: Iterable[PullRecord]) -> None:
    numbers: dict[object, int] = {}

    def number(key: object, query: Select[int]) -> int:
        if key not in numbers:
            numbers[key] = connection.execute(query).scalar_one()
        return numbers[key]

    rows = []
    for record in records:
        repository, who = record.repository, (record.principal, record.address, record.agent)
        if repository not in numbers:
            connection.execute(insert_or(repositories).values(name=repository).on_conflict_do_nothing())
        at = number(repository, select(repositories.c.id).where(repositories.c.name == repository))
        what = (at, record.tag or "", record.digest)
        if what not in numbers:
            values = {"repository_id": at, "tag": record.tag or "", "digest": record.digest}
            connection.execute(insert_or(pulled).values(values).on_conflict_do_nothing())
        if who not in numbers:
            values = dict(zip(("principal", "address", "agent"), who, strict=True))
            connection.execute(insert_or(clients).values(values).on_conflict_do_nothing())
        named = and_(pulled.c.repository_id == at, pulled.c.tag == what[1], pulled.c.digest == record.digest)
        known = and_(clients.c.principal == who[0], clients.c.address == who[1], clients.c.agent == who[2])
        rows.append(
            {
                "pulled_id": number(what, select(pulled.c.id).where(named)),
                "client_id": number(who, select(clients.c.id).where(known)),
                "first_at": record.first_at,
                "last_at": record.last_at,
                "fetched": record.fetched,
                "resolved": record.resolved,
            }
        )
    connection.execute(insert(pulls), rows)


def _find(
    connection: Connection,
    digest: Digest | None,
    repository: Repository | None,
    tag: str | None,
    since: datetime | None,
    limit: int,
) -> list[PullRecord]:
    query = (
        select(repositories.c.name, pulled.c.tag, pulled.c.digest, clients, pulls)
        .join_from(pulls, pulled, pulled.c.id == pulls.c.pulled_id)
        .join(repositories, repositories.c.id == pulled.c.repository_id)
        .join(clients, clients.c.id == pulls.c.client_id)
        .order_by(pulls.c.last_at.desc(), pulls.c.id.desc())
        .limit(limit)
    )
    if digest is not None:
        above = _above(digest).subquery()
        reaches = exists().where(above.c.repository_id == pulled.c.repository_id, above.c.digest == pulled.c.digest)
        query = query.where(or_(pulled.c.digest == digest, reaches))
    if repository is not None:
        query = query.where(repositories.c.name == repository)
    if tag is not None:
        query = query.where(pulled.c.tag == tag)
    if since is not None:
        query = query.where(pulls.c.last_at >= since)
    return [_record(row, digest) for row in connection.execute(query).mappings()]


def _above(digest: Digest) -> Select[int, Digest]:
    """(repository, digest) of every manifest that reaches ``digest`` as its child, config or layer. Evidence reaches nobody."""
    start = select(contents.c.id.label("node"), literal(0).label("depth")).where(contents.c.digest == digest)
    up = start.cte("up", recursive=True)
    steps = select(edges.c.parent_id, up.c.depth + 1).join_from(up, edges, edges.c.child_id == up.c.node)
    up = up.union(steps.where(up.c.depth < _DEPTH, edges.c.kind != Kind.EVIDENCE))
    nodes = select(up.c.node).where(up.c.depth > 0).limit(_MOST_ABOVE)
    return select(contents.c.repository_id, contents.c.digest).where(contents.c.id.in_(nodes))


def _record(row: RowMapping, digest: Digest | None) -> PullRecord:
    return PullRecord(
        repository=row["name"],
        tag=row["tag"] or None,
        digest=row["digest"],
        principal=row["principal"],
        address=row["address"],
        agent=row["agent"],
        first_at=row["first_at"],
        last_at=row["last_at"],
        fetched=row["fetched"],
        resolved=row["resolved"],
        contains=digest is not None and row["digest"] != digest,
    )


def _prune(connection: Connection, before: datetime) -> int:
    old = select(pulls.c.id).where(pulls.c.last_at < before).limit(_PRUNED_AT_ONCE)
    return connection.execute(delete(pulls).where(pulls.c.id.in_(old))).rowcount


def _last(connection: Connection) -> int:
    """The newest record's number. Numbers grow, and nothing but the oldest is deleted: so they count records."""
    number: int | None = connection.execute(select(func.max(pulls.c.id))).scalar_one()
    return number or 0


def _prune_to(connection: Connection, last: int) -> int:
    old = select(pulls.c.id).where(pulls.c.id <= last).order_by(pulls.c.id).limit(_PRUNED_AT_ONCE)
    return connection.execute(delete(pulls).where(pulls.c.id.in_(old))).rowcount


def _prune_names(connection: Connection, table: Table, named: Column[int], position: int) -> int | None:
    """Forget those of the next names that no record has; how far that went, None at the end."""
    numbers = select(table.c.id).where(table.c.id > position).order_by(table.c.id).limit(_PRUNED_AT_ONCE)
    found = connection.execute(numbers).scalars().all()
    if not found:
        return None
    within = table.c.id.between(found[0], found[-1])
    connection.execute(delete(table).where(within, ~exists().where(named == table.c.id)))
    return int(found[-1])

"""The catalog: what is known of manifests and blobs in each repository, which verdicts were reached, what is blocked.

A digest is admitted where an accepted manifest of the same repository reaches it (:mod:`storage.lineage`). Manifests and
edges are facts about bytes and only ever added; a verdict is replaced by a newer one under the same fingerprint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, Integer, RowMapping, bindparam, delete, func, insert, or_, select, update

from storage import ledger
from storage.database import NEWEST_PATHS, Database, insert_or
from storage.digest import Digest
from storage.entries import of_block, of_unblock
from storage.events import open_events
from storage.lineage import accepted_root, narrow
from storage.notices import notify
from storage.records import (
    Block,
    Descriptor,
    Edge,
    Event,
    EventType,
    Grounds,
    Kind,
    Lineage,
    OperatorAct,
    StoredVerdict,
)
from storage.reference import Repository
from storage.tables import blocks, contents, edges, grounds, operator_log, repositories, verdicts

#: Longest path that is followed upwards: blob, signature, manifest, index in an index in an index make five steps.
MAX_DEPTH = 8
#: Most edges in one lineage.
MAX_EDGES = 256
#: Most edges among which these are chosen. Below more than that an accepted root may be missed, and then nothing is served.
MAX_SEARCH = 200_000
#: The kinds of the notices left here; their subjects are a digest and a ``registry/repository``.
BLOCK_NOTICE = "block"
ADMISSION_NOTICE = "admission"
_FOREVER = datetime.max.replace(tzinfo=UTC)
_CHUNK = 500  #: values in one ``IN (…)``

_T = TypeVar("_T")


class Catalog:
    """Manifests, edges, verdicts and blocks. Every method raises :class:`storage.errors.DatabaseUnavailable` as it must."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(
        self,
        repository: Repository,
        *,
        manifest: Descriptor | None,
        edges: Sequence[Edge],
        verdict: StoredVerdict | None,
        below: Sequence[Descriptor] = (),
        grounds: Grounds | None = None,
    ) -> None:
        """Remember a manifest, what it reaches, and how it was judged, in one transaction. What is known stays as it is.

        ``below`` are further manifests that were read with it: its evidence, what it lists. ``edges`` say what they reach, too.
        ``grounds`` are those of the verdict; they are added to what is known of earlier ones.

        When an accepted verdict ends here, or will end sooner, a notice of kind :data:`ADMISSION_NOTICE` is left; what is
        only added needs none.
        """
        if verdict is not None and verdict.repository != repository:
            raise ValueError(f"a verdict for {verdict.repository} cannot be recorded in {repository}")
        manifests = below if manifest is None else (manifest, *below)
        await self._database.write(_record, repository, manifests, edges, verdict, grounds)

    async def lineage(
        self,
        repository: Repository,
        digest: Digest,
        fingerprint: str,
        *,
        as_manifest: bool = False,
        through_evidence: bool = True,
    ) -> Lineage:
        """Everything above ``digest``, :data:`MAX_DEPTH` steps up, with the verdicts under ``fingerprint`` and the blocks.

        What a manifest names as a blob is bytes, whatever they spell: nothing is above a digest by way of its blobs, and with
        ``as_manifest`` nothing is above it as a blob. Without ``through_evidence`` a subject is not above its evidence: edges
        of kind EVIDENCE are left out.

        These are all edges when there are fewer than :data:`MAX_EDGES`. Of more (a base layer under thousands of images) as
        many are returned, in such a way that :func:`storage.lineage.accepted_root` and :func:`storage.lineage.blocked` answer
        as they would over all: the newest paths, when an unblocked one from an accepted root without end is among them; else
        what :func:`storage.lineage.narrow` chooses among up to :data:`MAX_SEARCH`.

        Blocks are read last: one that comes in between is heeded.
        """
        kinds = {"without": "" if through_evidence else Kind.EVIDENCE, "leaves": 0 if as_manifest else 1}
        content, lineage, complete = await self._database.read(_newest_lineage, repository, digest, fingerprint, kinds)
        if content is None or complete or accepted_root(lineage, _FOREVER) is not None:
            return lineage
        survey = await self._database.read(_survey, repository, content["id"], fingerprint, kinds)
        chosen = await asyncio.to_thread(narrow, content["id"], *survey, MAX_EDGES)
        return await self._database.read(_chosen_lineage, repository, content, fingerprint, chosen)

    async def evidence(self, repository: Repository, subject: Digest) -> list[Descriptor]:
        """The evidence manifests that were recorded for ``subject``, in the order of recording."""
        return [edge.child for edge in await self.children(repository, subject) if edge.kind is Kind.EVIDENCE]

    async def manifest(self, repository: Repository, digest: Digest) -> Descriptor | None:
        """What was recorded of a manifest in this repository; None when it never was (an edge to it is not enough)."""
        return await self._database.read(_manifest, repository, digest)

    async def grounds(self, repository: Repository, digest: Digest, question: str) -> frozenset[Digest]:
        """By which evidence this manifest itself was ever accepted in this repository under ``question``; none: never."""
        return await self._database.read(_grounds_of, repository, digest, question)

    async def children(self, repository: Repository, parent: Digest) -> list[Edge]:
        """The edges that start at ``parent``, in the order of recording."""
        return await self._database.read(_children_of, repository, parent)

    async def unread(self, repository: Repository, limit: int) -> list[Digest]:
        """Manifests that recorded indexes list but that were never recorded themselves, ``limit`` of those listed last."""
        return await self._database.read(_unread, repository, limit)

    async def places(self, digest: Digest, limit: int) -> list[tuple[Repository, Descriptor, Kind]]:
        """Where a digest is known, in ``limit`` repositories at most, those last heard of first, and as what."""
        return await self._database.read(_places, digest, limit)

    async def block(self, block: Block) -> None:
        """Block a digest everywhere, with a ledger entry, a notice and a line in the operator log.

        A new reason replaces the old one.
        """
        await self._database.write(_block, block)

    async def unblock(self, digest: Digest, *, by: str, reason: str, at: datetime) -> bool:
        """Lift a block, with the same. False, and none of them, when there is none."""
        return await self._database.write(_unblock, OperatorAct(at, by, "unblock", str(digest), reason), digest)

    async def blocks(self) -> list[Block]:
        """All blocks, oldest first."""
        return await self._database.read(_blocks)

    async def operator_log(self, limit: int = 100) -> list[OperatorAct]:
        """The newest ``limit`` lines of the operator log, newest first."""
        return await self._database.read(_operator_log, limit)


# -- statements, built once so that SQLAlchemy finds their compiled form at once ----------------------------------------

_parents = contents.alias("parents")
_children = contents.alias("children")
_EDGE_COLUMNS = (
    edges.c.id,
    edges.c.kind,
    edges.c.media_type,
    edges.c.size,
    edges.c.parent_id,
    edges.c.child_id,
    _parents.c.digest.label("parent"),
    _children.c.digest.label("child"),
)
_FROM_PARENT = _parents.c.id == edges.c.parent_id
_TO_CHILD = _children.c.id == edges.c.child_id
_EDGES = select(*_EDGE_COLUMNS).select_from(edges.join(_parents, _FROM_PARENT).join(_children, _TO_CHILD))
_CONTENT = (
    select(contents.c.id, contents.c.digest, contents.c.media_type, contents.c.size)
    .join_from(contents, repositories, repositories.c.id == contents.c.repository_id)
    .where(repositories.c.name == bindparam("repository"), contents.c.digest == bindparam("digest"))
)
_UNREAD = (
    select(contents.c.digest)
    .join_from(contents, repositories, repositories.c.id == contents.c.repository_id)
    .join(edges, edges.c.child_id == contents.c.id)
    .where(
        repositories.c.name == bindparam("repository"),
        contents.c.media_type.is_(None),
        edges.c.kind == bindparam("kind", Kind.MANIFEST),
    )
    .group_by(contents.c.id)
    .order_by(func.max(edges.c.id).desc())
    .limit(bindparam("limit", type_=Integer))
)
_BLOCKED_BELOW = (
    select(blocks)
    .join_from(blocks, contents, contents.c.digest == blocks.c.digest)
    .join(edges, edges.c.child_id == contents.c.id)
    .where(edges.c.parent_id == bindparam("parent"), edges.c.kind == bindparam("kind", Kind.BLOB))
    .order_by(edges.c.id)
)
_newest = NEWEST_PATHS.subquery("newest")
_NEWEST_EDGES = select(*_EDGE_COLUMNS).select_from(
    _newest.join(edges, edges.c.id == _newest.c.edge).join(_parents, _FROM_PARENT).join(_children, _TO_CHILD)
)
_start = select(
    bindparam("zero", 0, type_=Integer).label("edge"),
    bindparam("start", type_=Integer).label("node"),
    bindparam("start", type_=Integer).label("child"),
    bindparam("zero", 0, type_=Integer).label("depth"),
).cte("up", recursive=True)
_up = _start.union(  # UNION, not UNION ALL: an edge that is reached in many ways is followed once from each depth
    select(edges.c.id, edges.c.parent_id, edges.c.child_id, _start.c.depth + 1)
    .join_from(_start, edges, edges.c.child_id == _start.c.node)
    .where(
        _start.c.depth < MAX_DEPTH,
        edges.c.kind != bindparam("without"),
        or_(edges.c.kind != bindparam("blob", Kind.BLOB), _start.c.depth < bindparam("leaves", type_=Integer)),
    )
)
_ALL_ABOVE = select(_up.c.edge, _up.c.node, _up.c.child).where(_up.c.depth > 0).limit(MAX_SEARCH)
_ACCEPTED_ABOVE = select(verdicts.c.content_id, verdicts.c.valid_until).where(
    verdicts.c.content_id.in_(select(_up.c.node)), verdicts.c.fingerprint == bindparam("fingerprint"), verdicts.c.accepted
)
_BARRED = select(contents.c.id).where(
    contents.c.repository_id.in_(select(repositories.c.id).where(repositories.c.name == bindparam("repository"))),
    contents.c.digest.in_(select(blocks.c.digest)),
)


# -- transaction functions: writing --------------------------------------------------------------------------------------


def _record(
    connection: Connection,
    repository: Repository,
    manifests: Sequence[Descriptor],
    reached: Sequence[Edge],
    verdict: StoredVerdict | None,
    leant_on: Grounds | None,
) -> None:
    digests = [digest for edge in reached for digest in (edge.parent, edge.child.digest)]
    digests += [manifest.digest for manifest in manifests]
    if verdict is not None:
        digests.append(verdict.digest)
    if leant_on is not None:
        digests += leant_on.evidence
    ids = _number(connection, _number_repository(connection, repository), digests)
    for manifest in manifests:
        known = update(contents).where(contents.c.id == ids[manifest.digest])
        connection.execute(known.values(media_type=manifest.media_type, size=manifest.size))
    if reached:
        values = [
            {
                "parent_id": ids[edge.parent],
                "child_id": ids[edge.child.digest],
                "kind": edge.kind,
                "media_type": edge.child.media_type,
                "size": edge.child.size,
            }
            for edge in reached
        ]
        connection.execute(insert_or(edges).on_conflict_do_nothing(), values)
    if verdict is not None and _judge(connection, ids[verdict.digest], verdict):
        notify(connection, ADMISSION_NOTICE, str(repository))
    if verdict is not None and leant_on is not None and leant_on.evidence:
        values = [
            {"content_id": ids[verdict.digest], "question": leant_on.question, "evidence_id": ids[each]}
            for each in leant_on.evidence
        ]
        connection.execute(insert_or(grounds).on_conflict_do_nothing(), values)


def _number_repository(connection: Connection, repository: Repository) -> int:
    connection.execute(insert_or(repositories).values(name=repository).on_conflict_do_nothing())
    number: int = connection.execute(select(repositories.c.id).where(repositories.c.name == repository)).scalar_one()
    return number


def _number(connection: Connection, repository_id: int, digests: Iterable[Digest]) -> dict[Digest, int]:
    """The row numbers of ``digests``, which get one where they have none yet."""
    wanted = list(dict.fromkeys(digests))
    ids: dict[Digest, int] = {}

    def look(missing: Collection[Digest]) -> None:
        for chunk in _chunks(missing):
            query = select(contents.c.digest, contents.c.id).where(contents.c.repository_id == repository_id)
            ids.update((row.digest, row.id) for row in connection.execute(query.where(contents.c.digest.in_(chunk))))

    look(wanted)
    if new := [digest for digest in wanted if digest not in ids]:
        values = [{"repository_id": repository_id, "digest": digest} for digest in new]
        connection.execute(insert_or(contents).on_conflict_do_nothing(), values)
        look(new)
    return ids


def _judge(connection: Connection, content_id: int, verdict: StoredVerdict) -> bool:
    """Store a verdict; whether it takes something away that the one before it gave."""
    key = {"content_id": content_id, "fingerprint": verdict.fingerprint}
    values = {
        "accepted": verdict.accepted,
        "reasons": verdict.reasons,
        "decided_at": verdict.decided_at,
        "valid_until": verdict.valid_until,
        "signers": verdict.signers,
    }
    query = select(verdicts.c.accepted, verdicts.c.valid_until).filter_by(**key)
    before = connection.execute(query).one_or_none()
    upsert = insert_or(verdicts).values(key | values)
    connection.execute(upsert.on_conflict_do_update(index_elements=list(key), set_=values))
    if before is None or not before.accepted:
        return False
    if not verdict.accepted:
        return True
    return verdict.valid_until is not None and (before.valid_until is None or verdict.valid_until < before.valid_until)


def _block(connection: Connection, block: Block) -> None:
    if block in _blocks_on(connection, [block.digest]):
        return  # repeated after a lost acknowledgement
    ledger.append(connection, (of_block(block),))
    values = {"reason": block.reason, "by": block.by, "at": block.at}
    upsert = insert_or(blocks).values(digest=block.digest, **values)
    connection.execute(upsert.on_conflict_do_update(index_elements=["digest"], set_=values))
    _log(connection, OperatorAct(block.at, block.by, "block", str(block.digest), block.reason), EventType.DIGEST_BLOCKED)
    notify(connection, BLOCK_NOTICE, str(block.digest))


def _unblock(connection: Connection, act: OperatorAct, digest: Digest) -> bool:
    if connection.execute(delete(blocks).where(blocks.c.digest == digest)).rowcount == 0:
        return False
    ledger.append(connection, (of_unblock(digest, by=act.by, reason=act.reason, at=act.at),))
    _log(connection, act, EventType.DIGEST_UNBLOCKED)
    notify(connection, BLOCK_NOTICE, str(digest))
    return True


def _log(connection: Connection, act: OperatorAct, told_as: EventType) -> None:
    values = {"at": act.at, "by": act.by, "action": act.action, "subject": act.subject, "reason": act.reason}
    connection.execute(insert(operator_log).values(values))
    message = f"{act.subject} was {act.action}ed by {act.by}: {act.reason or 'no reason was given'}"
    event = Event(told_as, act.subject, Digest.parse(act.subject), message, act.at, details={"by": act.by, "reason": act.reason})
    open_events(connection, (event,))


# -- transaction functions: reading --------------------------------------------------------------------------------------


def _newest_lineage(
    connection: Connection,
    repository: Repository,
    digest: Digest,
    fingerprint: str,
    kinds: Mapping[str, object],
) -> tuple[RowMapping | None, Lineage, bool]:
    """What is known of the digest, its lineage over the newest paths, and whether these are all."""
    content = _content(connection, repository, digest)
    if content is None:
        return None, Lineage(repository, digest, None, None, (), (), _blocks_on(connection, [digest])), True
    climb = {"start": content["id"], "depth": MAX_DEPTH, "most": MAX_EDGES, **kinds}
    rows = connection.execute(_NEWEST_EDGES, climb).mappings().all()
    once = {row["id"]: row for row in rows}  # an edge comes once for each depth at which it is reached
    lineage = _assemble(connection, repository, content, once.values(), fingerprint)
    return content, lineage, len(rows) < MAX_EDGES


def _survey(
    connection: Connection, repository: Repository, start: int, fingerprint: str, kinds: Mapping[str, object]
) -> tuple[list[tuple[int, int, int]], dict[int, datetime | None], frozenset[int]]:
    """What :func:`storage.lineage.narrow` needs: the edges above, the accepted nodes among them, the blocked nodes."""
    climb = {"start": start, **kinds}
    above = [(row[0], row[1], row[2]) for row in connection.execute(_ALL_ABOVE, climb)]
    accepted = {row[0]: row[1] for row in connection.execute(_ACCEPTED_ABOVE, climb | {"fingerprint": fingerprint})}
    barred = frozenset(connection.execute(_BARRED, {"repository": repository}).scalars())
    return above, accepted, barred


def _chosen_lineage(
    connection: Connection, repository: Repository, content: RowMapping, fingerprint: str, chosen: Sequence[int]
) -> Lineage:
    rows = [row for chunk in _chunks(chosen) for row in connection.execute(_EDGES.where(edges.c.id.in_(chunk))).mappings()]
    return _assemble(connection, repository, content, rows, fingerprint)


def _assemble(
    connection: Connection, repository: Repository, content: RowMapping, rows: Iterable[RowMapping], fingerprint: str
) -> Lineage:
    rows = sorted(rows, key=lambda row: -row["id"])
    digest: Digest = content["digest"]
    above = tuple(map(_edge, rows))
    nodes = {content["id"]: digest} | {row["parent_id"]: row["parent"] for row in rows}
    judged = tuple(
        StoredVerdict(
            repository,
            nodes[row.content_id],
            fingerprint,
            row.accepted,
            row.reasons,
            row.decided_at,
            row.valid_until,
            row.signers,
        )
        for chunk in _chunks(nodes)
        for row in connection.execute(
            select(verdicts).where(verdicts.c.content_id.in_(chunk), verdicts.c.fingerprint == fingerprint)
        )
    )
    own = _own_descriptor(content)
    named = [edge for edge in above if edge.child.digest == digest]
    if own is not None:
        evidence = bool(named) and all(edge.kind is Kind.EVIDENCE for edge in named)
        kind: Kind | None = Kind.EVIDENCE if evidence else Kind.MANIFEST
    else:
        kind = named[0].kind if named else None
    descriptor = own or (named[0].child if named else None)
    blocked = _blocks_on(connection, nodes.values())
    needed = tuple(_as_block(row) for row in connection.execute(_BLOCKED_BELOW, {"parent": content["id"]}).mappings())
    return Lineage(repository, digest, descriptor, kind, above, judged, blocked, needed)


def _manifest(connection: Connection, repository: Repository, digest: Digest) -> Descriptor | None:
    content = _content(connection, repository, digest)
    return None if content is None else _own_descriptor(content)


def _grounds_of(connection: Connection, repository: Repository, digest: Digest, question: str) -> frozenset[Digest]:
    if (content := _content(connection, repository, digest)) is None:
        return frozenset()
    query = select(contents.c.digest).join_from(grounds, contents, contents.c.id == grounds.c.evidence_id)
    wanted = (grounds.c.content_id == content["id"], grounds.c.question == question)
    return frozenset(connection.execute(query.where(*wanted)).scalars())


def _children_of(connection: Connection, repository: Repository, parent: Digest) -> list[Edge]:
    content = _content(connection, repository, parent)
    if content is None:
        return []
    query = _EDGES.where(edges.c.parent_id == content["id"]).order_by(edges.c.id)
    return [_edge(row) for row in connection.execute(query).mappings()]


def _unread(connection: Connection, repository: Repository, limit: int) -> list[Digest]:
    return list(connection.execute(_UNREAD, {"repository": repository, "limit": limit}).scalars())


def _places(connection: Connection, digest: Digest, limit: int) -> list[tuple[Repository, Descriptor, Kind]]:
    query = select(repositories.c.name, contents).join_from(contents, repositories, repositories.c.id == contents.c.repository_id)
    rows = connection.execute(query.where(contents.c.digest == digest).order_by(contents.c.id.desc()).limit(limit)).mappings()
    found: list[tuple[Repository, Descriptor, Kind]] = []
    for row in rows.all():
        if (own := _own_descriptor(row)) is not None:
            found.append((row["name"], own, Kind.MANIFEST))
            continue
        named = connection.execute(_EDGES.where(edges.c.child_id == row["id"]).order_by(edges.c.id).limit(1)).mappings().first()
        if named is not None:
            edge = _edge(named)
            found.append((row["name"], edge.child, Kind.BLOB if edge.kind is Kind.BLOB else Kind.MANIFEST))
    return found


def _content(connection: Connection, repository: Repository, digest: Digest) -> RowMapping | None:
    return connection.execute(_CONTENT, {"repository": repository, "digest": digest}).mappings().one_or_none()


def _own_descriptor(content: RowMapping) -> Descriptor | None:
    if content["media_type"] is None:
        return None
    return Descriptor(content["media_type"], content["digest"], content["size"])


def _edge(row: RowMapping) -> Edge:
    return Edge(row["parent"], Descriptor(row["media_type"], row["child"], row["size"]), row["kind"])


def _blocks(connection: Connection) -> list[Block]:
    return [_as_block(row) for row in connection.execute(select(blocks).order_by(blocks.c.at, blocks.c.digest)).mappings()]


def _blocks_on(connection: Connection, digests: Iterable[Digest]) -> tuple[Block, ...]:
    return tuple(
        _as_block(row)
        for chunk in _chunks(digests)
        for row in connection.execute(select(blocks).where(blocks.c.digest.in_(chunk))).mappings()
    )


def _as_block(row: RowMapping) -> Block:
    return Block(row["digest"], row["reason"], row["by"], row["at"])


def _operator_log(connection: Connection, limit: int) -> list[OperatorAct]:
    query = select(operator_log).order_by(operator_log.c.id.desc()).limit(limit)
    return [OperatorAct(row.at, row.by, row.action, row.subject, row.reason) for row in connection.execute(query)]


def _chunks(values: Iterable[_T]) -> Iterator[list[_T]]:
    remaining = iter(values)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk

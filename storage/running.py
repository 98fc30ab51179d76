"""What is known of digests that run somewhere: of thousands at once, in a few statements.

Whoever reports what runs may name an index, an image's manifest or (its ID) the image's config. All lead to the manifests that
they stand for, and from these upwards to the indexes that list them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import TypeVar

from sqlalchemy import Connection, and_, case, literal, or_, select

from storage.database import Database
from storage.digest import Digest
from storage.records import Block, Descriptor, Edge, Kind, Known, Lineage, Picture, Pin, PinAction, PinChange, StoredVerdict
from storage.reference import Repository
from storage.tables import blocks, contents, edges, pin_changes, pins, repositories, verdicts

#: What a manifest calls its config: other blobs of an image are no name of it.
CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
#: Longest way from a manifest to an index above it, or from a blocked digest to what holds it.
_DEPTH = 8
#: Most manifests above those of one statement, and most that hold something blocked. What is beyond is as if it were not known.
_MOST = 200_000
#: Most manifests above one digest, nearest first.
_MOST_ABOVE = 5_000
_CHUNK = 500  #: values in one ``IN (…)``
_RANGES = 100  #: repositories in one statement about pins
_PIN_FIELDS = tuple(each.name for each in fields(Pin))
_CHANGE_FIELDS = tuple(each.name for each in fields(PinChange))
#: What takes a digest away from a pin.
_MOVES = (PinAction.ROTATED, PinAction.APPROVED, PinAction.UNPINNED)

_T = TypeVar("_T")


class RunningStore:
    """Questions about what runs. Methods raise :class:`storage.errors.DatabaseUnavailable` when the database cannot be asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def places(self, digests: Collection[Digest]) -> Mapping[Digest, tuple[Repository, ...]]:
        """In which repositories each digest is recorded, in the order of recording; only those that are."""
        return await self._database.read(_places, digests)

    async def look(
        self,
        pairs: Collection[tuple[Repository, Digest]],
        fingerprints: Mapping[Repository, str],
        named: Collection[Repository] = (),
    ) -> Picture:
        """What is known of these digests in these repositories. ``fingerprints`` name the question of each repository's rule.

        The pins are those of all repositories of ``pairs``, and of ``named``. Blocks are read last: one that comes in between is
        heeded.
        """
        return await self._database.read(_look, tuple(dict.fromkeys(pairs)), fingerprints, tuple(named))


@dataclass(slots=True)
class _Graph:
    """What is recorded around the manifests that were asked for, by row numbers."""

    contents: dict[int, tuple[Digest, str | None, int | None]] = field(default_factory=dict)
    above: dict[int, list[tuple[int, str, int]]] = field(default_factory=dict)  #: child → (parent, media type, size)
    verdicts: dict[int, list[tuple[str, bool, StoredVerdict]]] = field(default_factory=dict)
    blocks: dict[Digest, Block] = field(default_factory=dict)
    needs: dict[int, list[Digest]] = field(default_factory=dict)  #: manifest → blocked blobs of its own
    below: dict[int, list[Digest]] = field(default_factory=dict)  #: index → what is blocked below it


def _look(
    connection: Connection,
    pairs: Sequence[tuple[Repository, Digest]],
    fingerprints: Mapping[Repository, str],
    named: Sequence[Repository],
) -> Picture:
    numbers, places = _numbers(connection, dict.fromkeys(digest for _, digest in pairs))
    found = [numbers[pair] for pair in pairs if pair in numbers]
    configs = _configs(connection, found)
    graph = _graph(connection, dict.fromkeys(start for number in found for start in (number, *configs.get(number, ()))))
    wanted = dict.fromkeys((*(repository for repository, _ in pairs), *named))
    held = _pins(connection, wanted)
    _read_blocks(connection, graph)
    known: dict[tuple[Repository, Digest], tuple[Known, ...]] = {}
    for repository, digest in pairs:
        number = numbers.get((repository, digest))
        if number is None:
            direct = (graph.blocks[digest],) if digest in graph.blocks else ()
            known[repository, digest] = (Known(Lineage(repository, digest, None, None, (), (), direct)),)
            continue
        starts = list(configs.get(number, ()))
        if not starts or graph.contents[number][1] is not None:
            starts.append(number)
        fingerprint = fingerprints.get(repository, "")
        known[repository, digest] = tuple(_known(graph, repository, start, fingerprint) for start in starts)
    reached = {digest for each in known.values() for one in each for digest in one.digests}
    return Picture(known, held, _moves(connection, wanted, reached), places)


def _places(connection: Connection, digests: Iterable[Digest]) -> Mapping[Digest, tuple[Repository, ...]]:
    return _numbers(connection, digests)[1]


def _numbers(
    connection: Connection, digests: Iterable[Digest]
) -> tuple[dict[tuple[Repository, Digest], int], dict[Digest, tuple[Repository, ...]]]:
    numbers: dict[tuple[Repository, Digest], int] = {}
    places: dict[Digest, tuple[Repository, ...]] = {}
    query = select(contents.c.id, contents.c.digest, repositories.c.name).join_from(
        contents, repositories, repositories.c.id == contents.c.repository_id
    )
    for chunk in _chunks(digests):
        for row in connection.execute(query.where(contents.c.digest.in_(chunk)).order_by(contents.c.id)):
            numbers[row.name, row.digest] = row.id
            places[row.digest] = (*places.get(row.digest, ()), row.name)
    return numbers, places


def _configs(connection: Connection, numbers: Iterable[int]) -> dict[int, list[int]]:
    """The manifests whose config each is."""
    found: dict[int, list[int]] = {}
    query = select(edges.c.child_id, edges.c.parent_id).where(edges.c.kind == Kind.BLOB, edges.c.media_type.in_(CONFIG_TYPES))
    for chunk in _chunks(numbers):
        for row in connection.execute(query.where(edges.c.child_id.in_(chunk)).order_by(edges.c.id)):
            found.setdefault(row.child_id, []).append(row.parent_id)
    return found


def _graph(connection: Connection, starts: Iterable[int]) -> _Graph:
    graph = _Graph()
    nodes: dict[int, None] = {}
    for chunk in _chunks(starts):
        up = (
            select(contents.c.id.label("node"), literal(0).label("depth"))
            .where(contents.c.id.in_(chunk))
            .cte("up", recursive=True)
        )
        steps = select(edges.c.parent_id, up.c.depth + 1).join_from(up, edges, edges.c.child_id == up.c.node)
        up = up.union(steps.where(edges.c.kind == Kind.MANIFEST, up.c.depth < _DEPTH))
        nodes |= dict.fromkeys(chunk)
        nodes |= dict.fromkeys(connection.execute(select(up.c.node).distinct().limit(_MOST)).scalars())
    for chunk in _chunks(nodes):
        columns = select(contents.c.id, contents.c.digest, contents.c.media_type, contents.c.size)
        for row in connection.execute(columns.where(contents.c.id.in_(chunk))):
            graph.contents[row.id] = (row.digest, row.media_type, row.size)
        upwards = select(edges).where(edges.c.child_id.in_(chunk), edges.c.kind == Kind.MANIFEST).order_by(edges.c.id.desc())
        for row in connection.execute(upwards):
            if row.parent_id in nodes:
                graph.above.setdefault(row.child_id, []).append((row.parent_id, row.media_type, row.size))
        query = select(verdicts, contents.c.digest, repositories.c.name)
        query = query.join_from(verdicts, contents, contents.c.id == verdicts.c.content_id)
        query = query.join(repositories, repositories.c.id == contents.c.repository_id)
        for row in connection.execute(query.where(verdicts.c.content_id.in_(chunk))):
            about = (
                row.name,
                row.digest,
                row.fingerprint,
                row.accepted,
                row.reasons,
                row.decided_at,
                row.valid_until,
                row.signers,
            )
            graph.verdicts.setdefault(row.content_id, []).append((row.fingerprint, row.accepted, StoredVerdict(*about)))
    return graph


def _read_blocks(connection: Connection, graph: _Graph) -> None:
    """All blocks, and which of the graph's manifests hold something that is blocked."""
    for row in connection.execute(select(blocks)):
        graph.blocks[row.digest] = Block(row.digest, row.reason, row.by, row.at)
    if not graph.blocks:
        return
    start = select(
        contents.c.id.label("node"), contents.c.id.label("what"), literal(0).label("depth"), literal(0).label("listed")
    )
    hit = start.where(contents.c.digest.in_(select(blocks.c.digest))).cte("hit", recursive=True)
    listed = case((edges.c.kind == Kind.MANIFEST, 1), else_=hit.c.listed)
    steps = select(edges.c.parent_id, hit.c.what, hit.c.depth + 1, listed).join_from(hit, edges, edges.c.child_id == hit.c.node)
    # What a manifest names as a blob is bytes: nothing is below it.
    one_step = and_(edges.c.kind == Kind.BLOB, hit.c.depth == 0)
    hit = hit.union(steps.where(hit.c.depth < _DEPTH, or_(edges.c.kind == Kind.MANIFEST, one_step)))
    query = select(hit.c.node, hit.c.listed, contents.c.digest).join_from(hit, contents, contents.c.id == hit.c.what)
    for row in connection.execute(query.where(hit.c.depth > 0).limit(_MOST)):
        if row.node in graph.contents:
            holds = graph.below if row.listed else graph.needs
            holds.setdefault(row.node, []).append(row.digest)


def _known(graph: _Graph, repository: Repository, start: int, fingerprint: str) -> Known:
    nodes, above = _climb(graph, start)
    digest, media_type, size = graph.contents[start]
    own = None if media_type is None or size is None else Descriptor(media_type, digest, size)
    judged = [each for node in nodes for each in graph.verdicts.get(node, ())]
    barred = tuple(graph.blocks[each] for node in nodes if (each := graph.contents[node][0]) in graph.blocks)
    lineage = Lineage(
        repository,
        digest,
        own,
        Kind.MANIFEST,
        above,
        tuple(verdict for question, _, verdict in judged if question == fingerprint),
        barred,
        _named(graph, graph.needs.get(start, ())),
    )
    return Known(lineage, True, any(accepted for _, accepted, _ in judged), _named(graph, graph.below.get(start, ())))


def _named(graph: _Graph, digests: Iterable[Digest]) -> tuple[Block, ...]:
    return tuple(graph.blocks[digest] for digest in dict.fromkeys(digests) if digest in graph.blocks)


def _climb(graph: _Graph, start: int) -> tuple[dict[int, None], tuple[Edge, ...]]:
    """The manifests above, nearest first, and the edges between them."""
    nodes: dict[int, None] = {start: None}
    found: list[Edge] = []
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for parent, media_type, size in graph.above.get(node, ()):
            if parent not in nodes:
                if len(nodes) >= _MOST_ABOVE:
                    continue
                nodes[parent] = None
                queue.append(parent)
            found.append(Edge(graph.contents[parent][0], Descriptor(media_type, graph.contents[node][0], size), Kind.MANIFEST))
    return nodes, tuple(found)


def _pins(connection: Connection, wanted: Iterable[Repository]) -> dict[Repository, tuple[Pin, ...]]:
    """The pins of these repositories, by the range of their names."""
    found: dict[Repository, list[Pin]] = {}
    for chunk in _chunks(wanted, _RANGES):
        # A tag follows a colon, and a semicolon follows the colon.
        ranges = [and_(pins.c.name > f"{repository}:", pins.c.name < f"{repository};") for repository in chunk]
        for row in connection.execute(select(pins).where(or_(*ranges)).order_by(pins.c.name)).mappings():
            pin = Pin(**{name: row[name] for name in _PIN_FIELDS})
            found.setdefault(pin.repository, []).append(pin)
    return {repository: tuple(each) for repository, each in found.items()}


def _moves(
    connection: Connection, wanted: Collection[Repository], digests: Collection[Digest]
) -> dict[Repository, tuple[PinChange, ...]]:
    found: dict[Repository, list[PinChange]] = {}
    query = select(pin_changes).where(pin_changes.c.action.in_(_MOVES)).order_by(pin_changes.c.id)
    for chunk in _chunks(wanted):
        for part in _chunks(digests):
            about = (pin_changes.c.repository.in_(chunk), pin_changes.c.from_digest.in_(part))
            for row in connection.execute(query.where(*about)).mappings():
                change = PinChange(**{name: row[name] for name in _CHANGE_FIELDS})
                if change.from_digest != change.to_digest:
                    found.setdefault(change.repository, []).append(change)
    return {repository: tuple(sorted(each, key=lambda change: change.at)) for repository, each in found.items()}


def _chunks(values: Iterable[_T], size: int = _CHUNK) -> Iterator[list[_T]]:
    remaining = iter(values)
    while chunk := list(islice(remaining, size)):
        yield chunk

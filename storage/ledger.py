"""The ledger: an append-only Merkle tree (RFC 6962) over every decision that changed something.

Whoever makes such a change appends to it by :func:`append`, in the transaction that makes the change: both are there or neither.
Each row keeps the nodes that its entry completes: an append reads and writes a handful of hashes, a proof comes from a few rows,
and nothing is ever written twice. What was once signed for is in :mod:`storage.checkpoints`; whether all of it still
fits is for :mod:`storage.audit` to say.

Writers take the database's writer lock first. Where there is none, the index as the key makes one of two appends fail as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, or_, select

from storage.entries import MAX_NAME, Entry, EntryKind, MalformedEntry, canonical, of_block, parse, pin_facts, shortened
from storage.errors import LedgerDamaged
from storage.merkle import (
    HASH_SIZE,
    Frontier,
    Node,
    Span,
    consistency_spans,
    inclusion_spans,
    last_leaf,
    leaf_hash,
    nodes_of,
    span_hash,
)
from storage.records import Block, Pin
from storage.tables import blocks, ledger, pin_changes, pins
from storage.tiles import HEIGHT, WIDTH, Tile, bundle

if TYPE_CHECKING:
    from storage.database import Database

#: Rows that are read or written at once.
PAGE = 500

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One entry as it is kept: its place, its bytes, the nodes that it completes, and the root of the tree that ends with it."""

    index: int
    body: bytes
    hashes: tuple[bytes, ...]
    root: bytes
    at: datetime
    kind: str
    subject: str

    def read(self) -> Entry:
        """What it says. Raises LedgerDamaged when that is nothing that was ever written at this place."""
        try:
            index, entry = parse(self.body)
        except MalformedEntry as error:
            raise LedgerDamaged(self.index, str(error)) from error
        if index != self.index:
            raise LedgerDamaged(self.index, f"it says that it is entry {index}")
        return entry


class Ledger:
    """The ledger of one database, for reading. Raises :class:`storage.errors.DatabaseUnavailable` when it cannot be asked.

    What is not there or does not fit together raises :class:`storage.errors.LedgerDamaged`, which is one of these.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, *entries: Entry) -> int:
        """Append entries that go with no other change; the index of the first."""
        return await self._database.write(append, entries)

    async def succeed(self, entry: Entry) -> bool:
        """Append an entry whose ``to`` takes the place of the last one's of its kind: see :func:`succeed`."""
        return await self._database.write(succeed, entry)

    async def size(self) -> int:
        """How many entries there are."""
        return await self._database.read(size_of)

    async def frontier(self, size: int) -> Frontier:
        """The frontier of the tree of the first ``size`` entries, and by it the root, from the stored nodes."""
        return await self._database.read(frontier_of, size)

    async def entries(self, start: int, stop: int) -> list[Recorded]:
        """The entries from ``start`` up to, not including, ``stop``, in their order; at most :data:`PAGE` of them."""
        return await self._database.read(_between, start, min(stop, start + PAGE))

    async def entry(self, index: int) -> Recorded | None:
        """One entry; None when there is none at this place."""
        found = await self.entries(index, index + 1)
        return found[0] if found else None

    async def newest(self, kind: str, count: int = 1) -> list[Recorded]:
        """The last entries of one kind, newest first."""
        return await self._database.read(newest_of, kind, count)

    async def find(
        self,
        *,
        kinds: Sequence[str] = (),
        image: str | None = None,
        since: datetime | None = None,
        after: int = -1,
        limit: int = PAGE,
    ) -> list[Recorded]:
        """At most ``limit`` entries behind index ``after``, in their order.

        Of one of ``kinds`` (``pin`` stands for all ``pin.…``), whose time is ``since`` or later, and about ``image``: a subject,
        or a repository, which stands for all its tags and digests.
        """
        return await self._database.read(_find, kinds, image, since, after, limit)

    async def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that entry ``index`` is in the tree of ``size`` entries. Raises ValueError where it cannot be."""
        return await self._database.read(_hashes, inclusion_spans(index, size))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of ``new`` entries extends that of ``old``. Raises ValueError where it cannot."""
        return await self._database.read(_hashes, consistency_spans(old, new))

    async def tile(self, tile: Tile) -> bytes:
        """The bytes of a tile, or a bundle of entries, which the tree must have (:meth:`storage.tiles.Tile.within`)."""
        places = range(tile.number * WIDTH, tile.number * WIDTH + tile.width)
        if tile.level is not None:
            nodes = [(tile.level * HEIGHT, index) for index in places]
            found = await self._database.read(_nodes, nodes)
            return b"".join(found[node] for node in nodes)
        entries = await self._database.read(_between, places.start, places.stop)
        there = {each.index for each in entries}
        if missing := [index for index in places if index not in there]:
            raise LedgerDamaged(missing[0], "it is missing")
        return bundle(each.body for each in entries)


# -- within the caller's transaction -------------------------------------------------------------------------------------


def append(connection: Connection, entries: Sequence[Entry]) -> int:
    """Append ``entries`` in the caller's transaction; the index of the first.

    Raises LedgerDamaged when the tree cannot be gone on with, and ValueError for an entry that is too long.
    """
    size = first = size_of(connection)
    frontier = frontier_of(connection, size)
    rows = []
    for entry in entries:
        body = canonical(size, entry)
        frontier, completed = frontier.grown(leaf_hash(body))
        rows.append(
            {
                "number": size,
                "at": entry.at,
                "kind": str(entry.kind),
                "subject": shortened(entry.subject, MAX_NAME),
                "body": body.decode(),
                "hashes": b"".join(completed),
                "root": frontier.root(),
            }
        )
        size += 1
    for page in _pages(rows):
        connection.execute(_INSERT, page)
    return first


def succeed(connection: Connection, entry: Entry) -> bool:
    """Append, in the caller's transaction, an entry whose ``to`` takes the place of what the last of its kind had there.

    ``from_`` is what that was, whatever the caller thought. False when it is the same already: of several who say it one does.
    """
    last = newest_of(connection, entry.kind, 1)
    before = last[0].read().to if last else None
    if before == entry.to:
        return False
    append(connection, (replace(entry, from_=before),))
    return True


def begin(connection: Connection, now: datetime) -> None:
    """Begin the ledger of a database that is older than it, in the transaction that made the tables: what is there is entered."""
    last: int | None = connection.execute(select(func.max(pin_changes.c.id))).scalar_one()
    held = [Pin(**{name: row[name] for name in _PIN_FIELDS}) for row in connection.execute(select(pins)).mappings()]
    blocked = [Block(row.digest, row.reason, row.by, row.at) for row in connection.execute(select(blocks))]
    if not (held or blocked or last):
        return
    reason = "the database is older than its ledger; nothing before this is proven by it"
    first = Entry(EntryKind.BEGUN, "ledger", now, "server", reason, facts={"changes": last or 0})
    known = [
        Entry(EntryKind.KNOWN_PIN, pin.name, now, "server", pin.reason, None, str(pin.digest), {"pin": pin_facts(pin)})
        for pin in sorted(held, key=lambda pin: pin.name)
    ]
    barred = [
        Entry(EntryKind.KNOWN_BLOCK, entry.subject, entry.at, entry.by, entry.reason)
        for entry in map(of_block, sorted(blocked, key=lambda block: str(block.digest)))
    ]
    append(connection, [first, *known, *barred])


def size_of(connection: Connection) -> int:
    """How many entries there are."""
    newest: int | None = connection.execute(_NEWEST).scalar_one()
    return 0 if newest is None else newest + 1


def frontier_of(connection: Connection, size: int) -> Frontier:
    """The frontier of the tree of the first ``size`` entries. Raises LedgerDamaged where a node is missing."""
    nodes = nodes_of((0, size))
    found = _nodes(connection, nodes)
    return Frontier(size, tuple(found[node] for node in nodes))


def page_after(connection: Connection, after: int) -> list[Recorded]:
    """The entries that follow index ``after``, wherever they are; at most :data:`PAGE` of them."""
    query = _ROWS.where(ledger.c.number > after).limit(PAGE)
    return [_recorded(*row) for row in connection.execute(query)]


def newest_of(connection: Connection, kind: str, count: int) -> list[Recorded]:
    """The last entries of one kind, newest first."""
    query = select(ledger).where(ledger.c.kind == kind).order_by(ledger.c.number.desc()).limit(count)
    return [_recorded(*row) for row in connection.execute(query)]


# -- reading -------------------------------------------------------------------------------------------------------------

_PIN_FIELDS = tuple(Pin.__dataclass_fields__)
_INSERT = insert(ledger)
_NEWEST = select(func.max(ledger.c.number))
_HASHES = select(ledger.c.number, ledger.c.hashes).where(ledger.c.number.in_(bindparam("wanted", expanding=True)))
_ROWS = select(ledger).order_by(ledger.c.number)


def _between(connection: Connection, start: int, stop: int) -> list[Recorded]:
    query = _ROWS.where(ledger.c.number >= start, ledger.c.number < stop)
    return [_recorded(*row) for row in connection.execute(query)]


def _find(
    connection: Connection, kinds: Sequence[str], image: str | None, since: datetime | None, after: int, limit: int
) -> list[Recorded]:
    conditions: list[ColumnElement[bool]] = [ledger.c.number > after]
    if kinds:
        conditions.append(or_(*(_begins(ledger.c.kind, kind, ".") for kind in kinds)))
    if image is not None:
        conditions.append(or_(*(_begins(ledger.c.subject, image, mark) for mark in ":@")))
    if since is not None:
        conditions.append(ledger.c.at >= since)
    return [_recorded(*row) for row in connection.execute(_ROWS.where(*conditions).limit(limit))]


def _begins(text: ColumnElement[str], value: str, mark: str) -> ColumnElement[bool]:
    """The value itself, or it and what follows behind ``mark``."""
    return or_(text == value, (text >= value + mark) & (text < value + chr(ord(mark) + 1)))


def _hashes(connection: Connection, spans: Sequence[Span]) -> list[bytes]:
    nodes = _nodes(connection, [node for span in spans for node in nodes_of(span)])
    return [span_hash(span, nodes) for span in spans]


def _nodes(connection: Connection, wanted: Iterable[Node]) -> Mapping[Node, bytes]:
    """Stored nodes. Raises LedgerDamaged where one is not as it was stored."""
    of = {node: last_leaf(node) for node in wanted}
    rows: dict[int, bytes] = {}
    for page in _pages(dict.fromkeys(of.values())):
        rows |= {row.number: row.hashes for row in connection.execute(_HASHES, {"wanted": page})}
    found: dict[Node, bytes] = {}
    for (level, index), leaf in of.items():
        hashes = rows.get(leaf)
        if hashes is None:
            raise LedgerDamaged(leaf, "it is missing")
        node = hashes[level * HASH_SIZE : (level + 1) * HASH_SIZE]
        if len(node) != HASH_SIZE:
            raise LedgerDamaged(leaf, "the hashes beside it are not as they were stored")
        found[level, index] = node
    return found


def _recorded(number: int, at: datetime, kind: str, subject: str, body: str, hashes: bytes, root: bytes) -> Recorded:
    nodes = tuple(hashes[start : start + HASH_SIZE] for start in range(0, len(hashes), HASH_SIZE))
    return Recorded(number, body.encode(), nodes, root, at, kind, subject)


def _pages(values: Iterable[_T]) -> Iterator[list[_T]]:
    remaining = iter(values)
    while page := list(islice(remaining, PAGE)):
        yield page
